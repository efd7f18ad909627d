package gen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// link replaces references by what they refer to. Definitions of one name that say the same in several
// functions become one type.
func (m *model) link(b *builder) error {
	classes, err := b.classes()
	if err != nil {
		return err
	}
	m.shareRoots(b, classes)
	first := map[int]*use{} // by class
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
	e := bounder{lists: map[*typ]int{}, words: map[*typ]int{}, done: map[*typ]bool{}}
	for _, fn := range m.funcs {
		e.bound(fn.args)
		e.bound(fn.out.typ)
	}
	for _, node := range b.order {
		e.bound(l.target(node).typ)
	}
	return nil
}

// shareRoots has what a function takes or gives be the type of a definition that says the same: a schema has
// no name for a type that stands at its root, where it often is one that has a name elsewhere.
func (m *model) shareRoots(b *builder, classes map[string]int) {
	named := map[string]string{} // a node by the signature of its struct
	for _, node := range b.order {
		if u := b.defs[node]; u.kind == structKind && !u.null && len(u.fields) > 0 {
			if s := signature(*u, classes); named[s] == "" {
				named[s] = node
			}
		}
	}
	root := func(t *typ, context string) *typ {
		if t == nil || t.kind != structKind {
			return t
		}
		like := named[signature(use{typ: t}, classes)]
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
	others := make(map[string]*field, len(other.fields))
	for i := range other.fields {
		others[other.fields[i].json] = &other.fields[i]
	}
	for i := range into.fields {
		f := &into.fields[i]
		o := others[f.json]
		if o == nil {
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
	into.output = into.output || other.output
	into.ordered = into.ordered || other.ordered
}

// classes sorts the definitions into those that are the same type: first all that have one name and say the same
// themselves are taken to be, then those that refer to what differs are parted, until none do.
func (b *builder) classes() (map[string]int, error) {
	p := parting{class: map[string]int{}, refs: map[string][]string{}, users: map[string][]string{}}
	var first [][]string
	at := map[string]int{}
	for _, node := range b.order {
		_, name, _ := strings.Cut(node, "\x00")
		text, refs := describe(*b.defs[node])
		p.refs[node] = refs
		for _, ref := range refs {
			p.users[ref] = append(p.users[ref], node)
		}
		key := name + "\x00" + text
		if _, ok := at[key]; !ok {
			at[key] = len(first)
			first = append(first, nil)
		}
		first[at[key]] = append(first[at[key]], node)
	}
	for _, nodes := range first {
		p.add(nodes)
	}
	changed := b.order
	for steps := 0; len(changed) > 0; {
		if steps += len(changed); steps > maxParted {
			return nil, cellproto.Errorf("generate", cellproto.TooLarge, "too many definitions are the same but for what they refer to")
		}
		changed = p.part(changed)
	}
	return p.class, nil
}

// parting is what classes works on.
type parting struct {
	class map[string]int
	sizes []int               // of each class
	refs  map[string][]string // of a node, in their order
	users map[string][]string // those that refer to a node
}

func (p *parting) add(nodes []string) {
	for _, node := range nodes {
		p.class[node] = len(p.sizes)
	}
	p.sizes = append(p.sizes, len(nodes))
}

// part parts the classes of the nodes by what these refer to, and gives the nodes whose references changed by that.
// Within a class the nodes that are not among them have not changed, and differ from those that have.
func (p *parting) part(nodes []string) (changed []string) {
	groups := map[string][]string{}
	var keys []string
	for _, node := range nodes {
		key := fmt.Append(nil, p.class[node])
		for _, ref := range p.refs[node] {
			key = fmt.Append(append(key, ' '), p.class[ref])
		}
		if groups[string(key)] == nil {
			keys = append(keys, string(key))
		}
		groups[string(key)] = append(groups[string(key)], node)
	}
	again := map[string]bool{}
	for _, key := range keys {
		group := groups[key]
		was := p.class[group[0]]
		if len(group) == p.sizes[was] { // it is all that is left of its class
			continue
		}
		p.sizes[was] -= len(group)
		p.add(group)
		for _, node := range group {
			for _, user := range p.users[node] {
				if !again[user] {
					again[user] = true
					changed = append(changed, user)
				}
			}
		}
	}
	return changed
}

// signature says all of a type that the code made of it depends on.
func signature(u use, classes map[string]int) string {
	text, refs := describe(u)
	b := []byte(text)
	for _, ref := range refs {
		b = fmt.Append(append(b, ' '), classes[ref])
	}
	return string(b)
}

// describe says all of a type that the code made of it depends on, but for what its references lead to.
func describe(u use) (text string, refs []string) {
	var b strings.Builder
	var write func(u use, depth int)
	write = func(u use, depth int) {
		if u.typ == nil || depth > maxDepth {
			b.WriteByte('-')
			return
		}
		fmt.Fprintf(&b, "(%d %v %d %v %d %q ", u.kind, u.null, u.bits, u.unsigned, u.length, u.values)
		if u.kind == refKind {
			refs = append(refs, u.ref)
		}
		write(u.elem, depth+1)
		fields := slices.Clone(u.fields)
		slices.SortFunc(fields, func(x, y field) int { return strings.Compare(x.json, y.json) })
		for _, f := range fields {
			fmt.Fprintf(&b, " %q %q %v ", f.json, f.doc, f.sure)
			write(f.typ, depth+1)
		}
		b.WriteByte(')')
	}
	write(u, 0)
	return b.String(), refs
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

// bounder has what can contain itself do so by a pointer, and bounds what has no end otherwise: Go has no struct
// within itself, and lists and maps have no names.
type bounder struct {
	lists map[*typ]int // how many lists and maps are within each other from here on
	words map[*typ]int // see size
	done  map[*typ]bool
}

// endless is the depth or size of what is not finished yet, so that it contains itself. It is more than any other, and an
// int of 32 bits holds it and what is added to it.
const endless = 1 << 30

func (e *bounder) bound(t *typ) {
	if t == nil || e.done[t] {
		return
	}
	e.done[t] = true
	e.depth(t)
	e.size(t)
	e.bound(t.elem.typ)
	for i := range t.fields {
		e.bound(t.fields[i].typ.typ)
	}
}

// depth counts the lists and maps within each other, and ends them where they are too many.
func (e *bounder) depth(t *typ) int {
	if t.kind != listKind && t.kind != mapKind {
		return 0
	}
	if d, ok := e.lists[t]; ok {
		return d
	}
	e.lists[t] = endless
	d := 1 + e.depth(t.elem.typ)
	if d > maxUnnamed {
		t.elem, d = anything(), 1
	}
	e.lists[t] = d
	return d
}

// size counts the values that a value holds in itself. An array that would hold too many becomes a slice, and a
// struct within another one is behind a pointer.
func (e *bounder) size(t *typ) int {
	switch {
	case t.kind == listKind && t.length > 0:
		return e.array(t)
	case t.kind != structKind:
		return 1
	}
	if n, ok := e.words[t]; ok {
		return n
	}
	e.words[t] = endless
	sum := 1
	for i := range t.fields {
		f := &t.fields[i]
		n := 1
		if !f.pointer {
			n = e.size(f.typ.typ)
		}
		if n > 1 && sum+n > maxWords {
			f.pointer, n = true, 1
		}
		sum += n
	}
	e.words[t] = sum
	return sum
}

func (e *bounder) array(t *typ) int {
	n := 1
	if !t.elem.null {
		e.depth(t)
		n = e.size(t.elem.typ)
	}
	if n >= endless {
		return endless
	}
	if t.length > maxWords/n { // as a product it may be more than an int holds
		t.length = 0
		return 1
	}
	return n * t.length
}
