package gen

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/celldnet/celld/cellproto/wire"
)

// The part of a client in Go that encodes arguments and decodes replies, without reflection.

// local gives a name for a variable within the code of nested values.
func (g *golang) local(base string) string { return fmt.Sprintf("%s%d", base, g.depth) }

// append writes the code that encodes the value x.
func (g *golang) append(x string, u use) {
	if u.null {
		g.p("if %s == nil {\nw.Null()\n} else {", x)
		g.appendValue("(*"+x+")", u.typ)
		g.p("}")
		return
	}
	g.appendValue(x, u.typ)
}

func (g *golang) appendValue(x string, t *typ) {
	g.depth++
	defer func() { g.depth-- }()
	switch t.kind {
	case boolKind:
		g.p("w.Bool(%s)", x)
	case intKind:
		switch {
		case t.unsigned && t.bits == 64:
			g.p("w.Uint(%s)", x)
		case t.unsigned:
			g.p("w.Uint(uint64(%s))", x)
		case t.bits == 64:
			g.p("w.Int(%s)", x)
		default:
			g.p("w.Int(int64(%s))", x)
		}
	case floatKind:
		g.p("w.Float(%s)", x)
	case stringKind:
		g.p("w.Text(%s)", x)
	case enumKind:
		g.p("w.Text(string(%s))", x)
	case timeKind:
		g.p("w.Time(%s)", x)
	case bytesKind:
		g.p("w.Bytes(%s)", x)
	case listKind:
		i := g.local("i")
		g.p("w.Array(len(%s))", x)
		g.loop(i, x, t.elem)
		g.append(fmt.Sprintf("%s[%s]", x, i), t.elem)
		g.p("}")
	case mapKind:
		k, v := g.local("k"), g.local("v")
		pair := k + ", " + v
		if t.elem.hasNothing() {
			pair = k
		}
		g.p("w.Map(len(%s))\nfor %s := range %s {\nw.Text(%s)", x, pair, x, k)
		g.append(v, t.elem)
		g.p("}")
	case structKind:
		if t.name == "" {
			g.p("w.Map(0)")
			return
		}
		g.p("append%s(w, &%s)", t.name, x)
	default:
		g.p("cell.AppendAny(w, %s)", x)
	}
}

// loop begins one over the elements of a list.
func (g *golang) loop(i, x string, elem use) {
	if elem.hasNothing() {
		g.p("for range %s {", x)
		return
	}
	g.p("for %s := range %s {", i, x)
}

// hasNothing says that the code of a value does not name it: it is a struct without fields.
func (u use) hasNothing() bool { return !u.null && u.kind == structKind && u.name == "" }

// appender writes the function that encodes a struct. Its keys come in the order of canonical CBOR.
func (g *golang) appender(t *typ) {
	g.imports[sdk+"wire"] = true
	g.p("func append%s(w *wire.Writer, v *%s) {", t.name, t.name)
	fields := make([]*field, 0, len(t.fields))
	always := 0
	for i := range t.fields {
		f := &t.fields[i]
		fields = append(fields, f)
		if g.present(f) == "" {
			always++
		}
	}
	slices.SortFunc(fields, func(a, b *field) int {
		if len(a.json) != len(b.json) {
			return len(a.json) - len(b.json)
		}
		return strings.Compare(a.json, b.json)
	})
	if always == len(fields) {
		g.p("w.Map(%d)", always)
	} else {
		g.p("n := %d", always)
		for _, f := range fields {
			if cond := g.present(f); cond != "" {
				g.p("if %s {\nn++\n}", cond)
			}
		}
		g.p("w.Map(n)")
	}
	for _, f := range fields {
		cond := g.present(f)
		if cond != "" {
			g.p("if %s {", cond)
		}
		g.p("w.Lit(%s)", strconv.Quote(string(wire.AppendKey(nil, f.json))))
		x := "v." + f.name
		switch {
		case f.pointer && cond != "":
			g.appendValue("(*"+x+")", f.typ.typ)
		default:
			g.append(x, use{typ: f.typ.typ, null: f.pointer})
		}
		if cond != "" {
			g.p("}")
		}
	}
	g.p("}\n")
}

// present is the condition under which a field is sent; "": always.
func (g *golang) present(f *field) string {
	switch {
	case f.pointer && f.sendNull:
		return ""
	case f.pointer:
		return "v." + f.name + " != nil"
	case !f.omit:
		return ""
	}
	return g.full("v."+f.name, f.typ.typ)
}

// full is the condition that a value is not empty; "": it never is.
func (g *golang) full(x string, t *typ) string {
	switch t.kind {
	case boolKind:
		return x
	case intKind, floatKind:
		return x + " != 0"
	case stringKind, enumKind:
		return x + ` != ""`
	case timeKind:
		return "!" + x + ".IsZero()"
	case bytesKind, mapKind:
		return "len(" + x + ") > 0"
	case listKind:
		if t.length > 0 {
			return ""
		}
		return "len(" + x + ") > 0"
	case structKind:
		if t.name == "" {
			return ""
		}
		g.needZero(t)
		return "!zero" + t.name + "(&" + x + ")"
	}
	return x + " != nil"
}

// needZero has zero written for a struct, and for those that it contains.
func (g *golang) needZero(t *typ) {
	if g.zeros[t] {
		return
	}
	g.zeros[t] = true
	for i := range t.fields {
		if f := &t.fields[i]; !f.pointer {
			g.needZeroIn(f.typ)
		}
	}
}

func (g *golang) needZeroIn(u use) {
	switch {
	case u.null:
	case u.kind == structKind && u.name != "":
		g.needZero(u.typ)
	case u.kind == listKind && u.length > 0:
		g.needZeroIn(u.elem)
	}
}

// zero writes the function that says whether a struct is empty.
func (g *golang) zero(t *typ) {
	g.p("func zero%s(v *%s) bool {", t.name, t.name)
	for i := range t.fields {
		f := &t.fields[i]
		g.unlessZero("v."+f.name, use{typ: f.typ.typ, null: f.pointer})
	}
	g.p("return true\n}\n")
}

// unlessZero writes that it is not, if x is not empty. What Go cannot compare it can look at.
func (g *golang) unlessZero(x string, u use) {
	cond := x + " != nil"
	switch {
	case u.null || u.nillable():
	case u.kind == listKind && !u.elem.canBeFull():
	case u.kind == listKind:
		g.depth++
		defer func() { g.depth-- }()
		i := g.local("i")
		g.p("for %s := range %s {", i, x)
		g.unlessZero(fmt.Sprintf("%s[%s]", x, i), u.elem)
		g.p("}")
		return
	default:
		cond = g.full(x, u.typ)
	}
	if u.canBeFull() {
		g.p("if %s {\nreturn false\n}", cond)
	}
}

// canBeFull says that not every value is the empty one: of a struct without fields it is.
func (u use) canBeFull() bool {
	switch {
	case u.null || u.nillable():
		return true
	case u.kind == listKind:
		return u.elem.canBeFull()
	}
	return !u.hasNothing()
}

// parse writes the code that decodes into x.
func (g *golang) parse(x string, u use) {
	switch {
	case u.null:
		v := g.local("p")
		g.p("if !r.Null() {\n%s := new(%s)", v, g.name(u.typ))
		g.parseValue("(*"+v+")", u.typ)
		g.p("%s = %s\n}", x, v)
	case u.nillable():
		g.p("if !r.Null() {")
		g.parseValue(x, u.typ)
		g.p("}")
	default:
		g.parseValue(x, u.typ)
	}
}

func (g *golang) parseValue(x string, t *typ) {
	g.depth++
	defer func() { g.depth-- }()
	switch t.kind {
	case boolKind:
		g.p("%s = r.Bool()", x)
	case intKind:
		read := fmt.Sprintf("r.Int(%d)", t.bits)
		if t.unsigned {
			read = fmt.Sprintf("r.Uint(%d)", t.bits)
		}
		if t.bits < 64 {
			read = g.name(t) + "(" + read + ")"
		}
		g.p("%s = %s", x, read)
	case floatKind:
		g.p("%s = r.Float()", x)
	case stringKind:
		g.p("%s = r.Text()", x)
	case enumKind:
		g.p("%s = %s(r.OneOf(values%s))", x, t.name, t.name)
	case timeKind:
		g.p("if !r.Null() {\n%s = r.Time()\n}", x)
	case bytesKind:
		g.p("%s = r.Bytes()", x)
	case listKind:
		g.parseList(x, t)
	case mapKind:
		n, k, e := g.local("n"), g.local("k"), g.local("e")
		g.p("%s := r.Map()\n%s = make(%s, wire.Size(%s))", n, x, g.name(t), n)
		g.p("for ; %s > 0 && r.Ok(); %s-- {\n%s := r.Text()\nvar %s %s", n, n, k, e, g.use(t.elem))
		g.parse(e, t.elem)
		g.p("%s[%s] = %s\n}\nr.Leave()", x, k, e)
	case structKind:
		if t.name == "" {
			g.p("r.Skip()")
			return
		}
		g.p("parse%s(r, &%s)", t.name, x)
	default:
		g.p("%s = cell.ParseAny(r)", x)
	}
}

func (g *golang) parseList(x string, t *typ) {
	n, e := g.local("n"), g.local("e")
	if t.length > 0 {
		i := g.local("i")
		g.p("if r.Length(r.Array(), %d) {", t.length)
		g.loop(i, x, t.elem)
		g.parse(fmt.Sprintf("%s[%s]", x, i), t.elem)
		g.p("}\n}\nr.Leave()")
		return
	}
	g.p("%s := r.Array()\n%s = make(%s, 0, wire.Size(%s))", n, x, g.name(t), n)
	g.p("for ; %s > 0 && r.Ok(); %s-- {\nvar %s %s", n, n, e, g.use(t.elem))
	g.parse(e, t.elem)
	g.p("%s = append(%s, %s)\n}\nr.Leave()", x, x, e)
}

const word = 64 // fields that one word of bits notes

// parser writes the function that decodes a struct. It passes over keys that it does not know: a newer
// cell may say more.
func (g *golang) parser(t *typ) {
	g.imports[sdk+"wire"] = true
	var all []string
	need := make([]uint64, (len(t.fields)+word-1)/word)
	for i, f := range t.fields {
		all = append(all, f.json)
		if f.need {
			need[i/word] |= 1 << (i % word)
		}
	}
	if len(need) > 0 {
		g.p("var names%s = []string{%s}\n", t.name, quotedList(all))
	}
	g.p("func parse%s(r *wire.Reader, v *%s) {", t.name, t.name)
	if len(need) == 0 {
		g.p("r.Skip()\n}\n")
		return
	}
	g.p("var seen [%d]uint64\nfor n := r.Map(); n > 0 && r.Ok(); n-- {\nswitch string(r.Key()) {", len(need))
	for i := range t.fields {
		f := &t.fields[i]
		g.p("case %q:\nr.Once(&seen[%d], %d)", f.json, i/word, i%word)
		g.parse("v."+f.name, use{typ: f.typ.typ, null: f.pointer})
	}
	g.p("default:\nr.Skip()\n}\n}\nr.Leave()")
	for i, bits := range need {
		if bits != 0 {
			g.p("r.Need(seen[%d], %#x, names%s[%d:])", i, bits, t.name, i*word)
		}
	}
	g.p("}\n")
}
