package cellproto

// dirty finds the schemas of two documents that lead to a definition which is not the same in both, in
// however many steps. Where there is no other difference than these, two schemas with one sum are the same.
func dirty(a, b *document) map[*schemaNode]bool {
	m := marker{changed: map[string]bool{}, users: map[string][]string{}, nodes: map[*schemaNode]bool{}}
	m.whole = a.root.sum == b.root.sum && len(a.defs) == len(b.defs)
	for name, def := range a.defs {
		if other := b.defs[name]; other == nil || other.sum != def.sum {
			m.change(name)
		}
	}
	for name := range b.defs {
		if a.defs[name] == nil {
			m.change(name)
		}
	}
	m.whole = m.whole && len(m.queue) == 0
	for _, d := range []*document{a, b} {
		for name, def := range d.defs {
			m.uses(name, def)
		}
	}
	for len(m.queue) > 0 {
		name := m.queue[len(m.queue)-1]
		m.queue = m.queue[:len(m.queue)-1]
		for _, user := range m.users[name] {
			m.change(user)
		}
	}
	for _, d := range []*document{a, b} {
		m.mark(d.root)
		for _, def := range d.defs {
			m.mark(def)
		}
	}
	return m.nodes
}

type marker struct {
	whole   bool // the documents are the same throughout
	changed map[string]bool
	queue   []string            // changed ones whose users are not marked yet
	users   map[string][]string // of a definition: those that refer to it
	nodes   map[*schemaNode]bool
}

func (m *marker) change(name string) {
	if !m.changed[name] {
		m.changed[name] = true
		m.queue = append(m.queue, name)
	}
}

// uses notes what is referred to within a definition.
func (m *marker) uses(def string, n *schemaNode) {
	if to, ok := n.local(); ok {
		m.users[to] = append(m.users[to], def)
	}
	for _, in := range n.inner {
		m.uses(def, in)
	}
}

// mark notes which schemas within n, itself among them, lead to what has changed.
func (m *marker) mark(n *schemaNode) (leads bool) {
	name, ok := n.local()
	switch {
	case ok:
		leads = m.changed[name]
	case len(n.ref) > 0 && n.ref[0] == '#': // somewhere in the document
		leads = !m.whole
	}
	for _, in := range n.inner {
		leads = m.mark(in) || leads
	}
	if leads {
		m.nodes[n] = true
	}
	return leads
}
