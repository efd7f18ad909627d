package gen

import (
	"fmt"
	"go/token"
	"maps"
	"strings"
)

// names gives out names that nobody has yet: each with the last number that was put behind it, from 1.
type names map[string]int

func (n names) take(base string) string {
	name := base
	for n[name] > 0 {
		n[base]++
		name = fmt.Sprintf("%s%d", base, n[base])
	}
	n[name] = 1
	return name
}

// rename gives the types that have a name of reserved another one.
func rename(types []*typ, reserved names) map[*typ]string {
	taken := maps.Clone(reserved)
	for _, t := range types {
		if reserved[t.name] == 0 {
			taken.take(t.name)
		}
	}
	other := map[*typ]string{}
	for _, t := range types {
		if reserved[t.name] > 0 {
			other[t] = taken.take(t.name + "_")
		}
	}
	return other
}

// initialisms are words that Go writes in capitals.
var initialisms = map[string]bool{
	"api": true, "cid": true, "cpu": true, "dns": true, "html": true, "http": true, "https": true, "id": true, "ip": true,
	"json": true, "ms": true, "os": true, "ram": true, "sql": true, "ttl": true, "uid": true, "uri": true, "url": true, "uuid": true,
}

// exported makes a Go name of any text: of its ASCII letters and digits, the first a capital.
func exported(text string) string {
	if token.IsExported(text) && token.IsIdentifier(text) && ascii(text) {
		return text
	}
	words := strings.FieldsFunc(text, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	})
	var b strings.Builder
	for _, w := range words {
		if initialisms[strings.ToLower(w)] {
			b.WriteString(strings.ToUpper(w))
			continue
		}
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	name := b.String()
	if name == "" || '0' <= name[0] && name[0] <= '9' {
		name = "X" + name
	}
	return name
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// ownNames are those that every client has.
const ownNames = "Cell Client Dep New SchemaHash"

// vetted are methods that have one signature for go vet (its stdmethods), whatever they take.
var vetted = words("GobDecode GobEncode MarshalJSON MarshalXML ReadByte ReadRune UnmarshalJSON UnmarshalXML UnreadByte UnreadRune WriteByte")

// nameAll gives every function, type and field its name in Go, from which those of the other languages
// are made.
func (m *model) nameAll(b *builder) {
	types := words(ownNames)
	methods := names{}
	for _, fn := range m.funcs {
		fn.name = methods.take(exported(fn.json))
	}
	for _, fn := range m.funcs {
		if fn.method = fn.name; vetted[fn.name] > 0 {
			fn.method = methods.take(fn.name + "Call")
		}
	}
	n := namer{model: m, types: types, seen: map[*typ]bool{}}
	for _, node := range b.order {
		if t := b.defs[node].typ; b.hints[t] != "" && n.used(t) {
			n.name(t, exported(b.hints[t]))
		}
	}
	for _, node := range b.order {
		if t := b.defs[node].typ; b.hints[t] != "" && n.used(t) {
			n.within(t, t.name)
		}
	}
	for _, fn := range m.funcs {
		if fn.args != nil && fn.args.kind == structKind && fn.args.name == "" {
			fn.args.alias = false
		}
		if fn.out.typ != nil && fn.out.kind == structKind && len(fn.out.fields) > 0 && fn.out.name == "" {
			fn.out.alias = false
		}
		n.visit(fn.args, fn.name+"Args")
		n.visit(fn.out.typ, fn.name+"Reply")
		if fn.args != nil && fn.args.about == "" {
			fn.args.about = "what " + fn.name + " takes"
		}
		if fn.out.typ != nil && fn.out.about == "" {
			fn.out.about = "what " + fn.name + " gives"
		}
	}
}

type namer struct {
	model *model
	types names
	seen  map[*typ]bool
	reach map[*typ]bool
}

// used says whether the functions come to t: of definitions that are one type only one is.
func (n *namer) used(t *typ) bool {
	if n.reach == nil {
		n.reach = map[*typ]bool{}
		for _, fn := range n.model.funcs {
			n.mark(fn.args)
			n.mark(fn.out.typ)
		}
	}
	return n.reach[t]
}

func (n *namer) mark(t *typ) {
	if t == nil || n.reach[t] {
		return
	}
	n.reach[t] = true
	n.mark(t.elem.typ)
	for _, f := range t.fields {
		n.mark(f.typ.typ)
	}
}

func (n *namer) name(t *typ, base string) {
	t.name = n.types.take(base)
	n.model.types = append(n.model.types, t)
}

// visit names t, if it needs a name and has none, and what is in it.
func (n *namer) visit(t *typ, base string) {
	if t == nil {
		return
	}
	if t.name == "" && (t.kind == structKind && len(t.fields) > 0 || t.kind == enumKind) {
		n.name(t, base)
	}
	n.within(t, base)
}

// within names what is in t, whose name is base, or would be.
func (n *namer) within(t *typ, base string) {
	if n.seen[t] {
		return
	}
	n.seen[t] = true
	if t.name != "" {
		base = t.name
	}
	n.visit(t.elem.typ, base)
	fields := names{}
	for i := range t.fields {
		f := &t.fields[i]
		f.name = fields.take(exported(f.json))
		n.visit(f.typ.typ, base+f.name)
	}
}
