package gen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// link replaces references by what they refer to. Definitions of one name that say the same in several
// functions become one type.
func (m *model) link(b *builder) {
	classes := b.classes()
	m.shareRoots(b, classes)
	first := map[string]*use{} // by class
	for _, node := range b.order {
		class, u := classes[node], b.defs[node]
		switch best := first[class]; {
		case best == nil:
			first[class] = u
		case u.kind != structKind:
		case !best.ordered && (u.ordered || u.output && !best.output):
			b.merge(u.typ, best.typ)
			first[class] = u
		default:
			b.merge(best.typ, u.typ)
		}
	}
	l := linker{target: func(node string) use { return *first[classes[node]] }, done: map[*typ]bool{}}
	for _, fn := range m.funcs {
		fn.args, fn.out = l.link(use{typ: fn.args}).typ, l.link(fn.out)
	}
	for _, node := range b.order {
		l.unroll(l.target(node).typ)
	}
}

// shareRoots has what a function takes or gives be the type of a definition that says the same: a schema has
// no name for a type that stands at its root, where it often is one that has a name elsewhere.
func (m *model) shareRoots(b *builder, classes map[string]string) {
	named := map[string]string{} // a node by the signature of its struct
	for _, node := range b.order {
		if u := b.defs[node]; u.kind == structKind && !u.null && len(u.fields) > 0 {
			if s := signature(*u, classes, 0); named[s] == "" {
				named[s] = node
			}
		}
	}
	root := func(t *typ, context string) *typ {
		if t == nil || t.kind != structKind {
			return t
		}
		like := named[signature(use{typ: t}, classes, 0)]
		if like == "" {
			return t
		}
		node := context + "\x00" // no definition has this place
		b.defs[node], classes[node] = &use{typ: t}, classes[like]
		b.order = append(b.order, node)
		return &typ{kind: refKind, ref: node}
	}
	for _, fn := range m.funcs {
		fn.args = root(fn.args, fn.json+" input")
		fn.out.typ = root(fn.out.typ, fn.json+" output")
	}
}

// merge takes into a struct what another one that is the same in Go says of its fields.
func (b *builder) merge(into, other *typ) {
	if name := b.hints[other]; name != "" && b.hints[into] == "" {
		b.hints[into], into.alias = name, false
	}
	for i := range into.fields {
		f := &into.fields[i]
		for _, o := range other.fields {
			if o.json != f.json {
				continue
			}
			switch {
			case into.output == other.output:
				f.omit, f.need = f.omit || o.omit, f.need && o.need
			case other.output: // only an output tells one pointer from another
				f.omit, f.need = o.omit, o.need
			}
			switch { // an input says whether it is a pointer in Go
			case f.soft && !o.soft:
				f.pointer, f.soft = o.pointer, false
			case f.soft || !o.soft:
				f.pointer = f.pointer || o.pointer
			}
			f.sendNull = f.sendNull || o.sendNull
		}
	}
	into.output = into.output || other.output
	into.ordered = into.ordered || other.ordered
}

// classes sorts the definitions into those that are the same type: first all of one name are taken to be,
// then those that turn out to differ are parted, until none do.
func (b *builder) classes() map[string]string {
	classes := map[string]string{}
	for _, node := range b.order {
		_, classes[node], _ = strings.Cut(node, "\x00")
	}
	for count := 0; ; {
		next, seen := map[string]string{}, map[string]bool{}
		for _, node := range b.order {
			next[node] = classes[node] + "\x00" + signature(*b.defs[node], classes, 0)
			seen[next[node]] = true
		}
		if len(seen) == count {
			return classes
		}
		count = len(seen)
		ids := map[string]string{}
		for i, s := range slices.Sorted(maps.Keys(seen)) {
			ids[s] = fmt.Sprint(i)
		}
		for node, s := range next {
			classes[node] = ids[s]
		}
	}
}

// signature says all of a type that the code made of it depends on.
func signature(u use, classes map[string]string, depth int) string {
	if u.typ == nil || depth > maxDepth {
		return "-"
	}
	s := fmt.Sprintf("(%d %v %d %v %d %q", u.kind, u.null, u.bits, u.unsigned, u.length, u.values)
	if u.kind == refKind {
		s += " " + classes[u.ref]
	}
	s += " " + signature(u.elem, classes, depth+1)
	fields := slices.Clone(u.fields)
	slices.SortFunc(fields, func(x, y field) int { return strings.Compare(x.json, y.json) })
	for _, f := range fields {
		s += fmt.Sprintf(" %q %q %v %s", f.json, f.doc, f.sure, signature(f.typ, classes, depth+1))
	}
	return s + ")"
}

type linker struct {
	target func(node string) use
	done   map[*typ]bool
}

// link gives u with all references followed. A circle of references says nothing.
func (l *linker) link(u use) use {
	for range maxDepth {
		if u.typ == nil {
			return u
		}
		if u.kind != refKind {
			break
		}
		to := l.target(u.ref)
		u = use{typ: to.typ, null: (u.null || to.null) && to.kind != anyKind}
	}
	if u.kind == refKind {
		return anything()
	}
	if l.done[u.typ] {
		return u
	}
	l.done[u.typ] = true
	u.elem = l.link(u.elem)
	for i := range u.fields {
		f := &u.fields[i]
		f.typ = l.link(f.typ)
		f.pointer = f.pointer || f.typ.null && !f.typ.nillable()
		f.typ.null = false
	}
	return u
}

// unroll has what can contain itself do so by a pointer: Go has no struct within itself, and no list or
// map type that is only a list or map of itself.
func (l *linker) unroll(t *typ) {
	if t.kind == listKind || t.kind == mapKind {
		if reaches(t.elem.typ, t, false, map[*typ]bool{}) {
			t.elem = anything()
		}
		return
	}
	for i := range t.fields {
		f := &t.fields[i]
		if !f.pointer && reaches(f.typ.typ, t, true, map[*typ]bool{}) {
			f.pointer = true
		}
	}
}

// reaches says whether a value of t contains one of to: of a struct what it has inside itself, else through
// lists and maps that have no name.
func reaches(t, to *typ, inside bool, seen map[*typ]bool) bool {
	if t == nil || seen[t] {
		return false
	}
	if t == to {
		return true
	}
	seen[t] = true
	switch {
	case inside && t.kind == listKind && t.length > 0, !inside && (t.kind == listKind || t.kind == mapKind):
		return !t.elem.null && reaches(t.elem.typ, to, inside, seen)
	case inside && t.kind == structKind:
		for _, f := range t.fields {
			if !f.pointer && reaches(f.typ.typ, to, inside, seen) {
				return true
			}
		}
	}
	return false
}
