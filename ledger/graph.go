package ledger

import (
	"cmp"
	"slices"
)

// Graph is the work graph as one host sees it: an edge from u to v is what u has done for v and v has
// not yet made good. What a caller is owed by this host is the flow from the caller to it over at most
// three edges: over those that the caller has worked for, and those that they have.
//
// When v serves u, the paths from u to v are drained by as much: a debt goes around in a circle and
// is gone. When somebody else serves u, u pays with its paths to this host. So a crowd that shares one edge can use it once, and the sum over all edges of what a host
// has given less what it has taken stays what it was.
//
// What this host does on credit before the caller has signed for it is bounded at the last edge of the
// path, not at the caller: identities that all come in by one honest peer share one window. Otherwise a
// crowd that never signs, of which other hosts then never hear, could take its credit at each of them.
// A Graph has no lock.
type Graph struct {
	self   int32
	ids    map[Key]int32
	out    [][]int32         // neighbours that a node has worked for; some edges may be empty
	edges  map[uint64]uint64 // from<<32|to -> µWh
	toSelf []uint64          // edges to self, which is asked for most
	known  map[Hash]uint64   // totals of registers that have been taken in
	banned map[int32]bool
	merged map[Key]bool     // hosts that are, or were, an account's
	signed map[Hash]uint64  // of known, what the consumer has signed for; of this host's registers
	open   map[int32]*entry // by the last edge of the paths to this host
	owing  map[int32][]debt // by caller, oldest first: what it has not signed for

	// scratch of one flow
	hops  []int32  // A: those that the source has worked for
	remA  []uint64 // what the source may still send there
	first []int32  // their edges in mids
	lasts []int32  // B: those that have worked for the target
	remB  []uint64
	mids  []mid
	start []int32 // of the mids of one of lasts, in byB
	byB   []int32
	prev  []int32 // of a search: the mid by which B was reached; then that by which A was
	queue []int32
	at    map[int32]int32
	moved []debt
}

// entry is one who has worked for this host, by whom others come in. All in µWh.
type entry struct {
	own          uint64 // that it has used itself and not signed for
	unsigned     uint64 // that others have used who came in, less what is forgiven
	acknowledged uint64 // by itself
	signed       uint64 // of what came in, by whomever
	forgiven     uint64 // of what others had not signed for, in all
}

// debt is unsigned use of what came in by one entry, or by none.
type debt struct {
	by     int32 // or strange
	amount uint64
}

// strange is the entry of those who are owed nothing.
const strange = -1

// How a window follows what is owed.
const (
	windowPart  = 50   // at most a fiftieth
	leastWindow = 1000 // µWh, and at least this: a second of one core
)

// NewGraph gives the graph of a host that has worked for nobody.
func NewGraph(self Key) *Graph {
	g := &Graph{ids: map[Key]int32{}, edges: map[uint64]uint64{}, known: map[Hash]uint64{}, banned: map[int32]bool{}, merged: map[Key]bool{},
		signed: map[Hash]uint64{}, open: map[int32]*entry{}, owing: map[int32][]debt{}, at: map[int32]int32{}}
	g.self = g.node(self)
	return g
}

func (g *Graph) node(k Key) int32 {
	if n, ok := g.ids[k]; ok {
		return n
	}
	n := int32(len(g.out))
	g.ids[k] = n
	g.out = append(g.out, nil)
	g.toSelf = append(g.toSelf, 0)
	return n
}

func edgeKey(from, to int32) uint64 { return uint64(uint32(from))<<32 | uint64(uint32(to)) }

func (g *Graph) cap(from, to int32) uint64 {
	if to == g.self {
		return g.toSelf[from]
	}
	return g.edges[edgeKey(from, to)]
}

func (g *Graph) set(from, to int32, v uint64) {
	k := edgeKey(from, to)
	old, ok := g.edges[k]
	switch {
	case v > 0 && !ok:
		g.out[from] = append(g.out[from], to)
	case v == 0 && ok:
		i := slices.Index(g.out[from], to)
		g.out[from][i] = g.out[from][len(g.out[from])-1]
		g.out[from] = g.out[from][:len(g.out[from])-1]
		delete(g.edges, k)
	}
	if v > 0 && v != old {
		g.edges[k] = v
	}
	if to == g.self {
		g.toSelf[from] = v
	}
}

// Apply takes in what a register says. Totals that are not above what is known of it change nothing.
func (g *Graph) Apply(e Edge) {
	from, to := g.node(e.From), g.node(e.To)
	if from == to {
		return
	}
	if known := g.known[e.Name]; e.Total > known {
		g.known[e.Name] = e.Total
		gain := e.Total - known
		if from != g.self && to != g.self {
			gain -= g.transfer(from, to, gain)
		}
		if from != g.self && to != g.self {
			gain -= g.flow(to, from, gain, drain)
			gain -= g.assign(from, to, gain)
		}
		if rest := g.claim(from, to, gain); rest > 0 && from == g.self {
			g.owe(to, strange, rest)
		}
	}
	if signed := g.signed[e.Name]; from == g.self && e.Signed > signed {
		g.signed[e.Name] = e.Signed
		g.settle(to, e.Signed-signed)
	}
}

// claim makes to owe from, and sets that off against what from owes to. It gives what was left.
func (g *Graph) claim(from, to int32, amount uint64) uint64 {
	if from == g.self {
		amount -= g.flow(to, from, amount, drainNow)
	}
	amount -= g.flow(to, from, amount, drain)
	if amount > 0 {
		g.set(from, to, add(g.cap(from, to), amount))
	}
	return amount
}

// transfer has a caller that was served elsewhere pay with what could have brought it here: those who
// owe it owe its provider instead. So each host sees the same credit shrink, although each may lead
// the same debt back on other paths. It gives how much was paid so.
func (g *Graph) transfer(provider, caller int32, amount uint64) uint64 {
	var paid uint64
	for _, why := range []purpose{pay, payMore} {
		if paid == amount {
			break
		}
		g.moved = g.moved[:0]
		paid += g.flow(caller, g.self, amount-paid, why)
		for _, m := range slices.Clone(g.moved) { // claims need the scratch
			if m.by != provider {
				g.claim(provider, m.by, m.amount)
			}
		}
	}
	return paid
}

// assign has a caller pay with what others owe it, whether or not a path leads from them to anywhere.
func (g *Graph) assign(provider, caller int32, amount uint64) (paid uint64) {
	for _, a := range slices.Clone(g.out[caller][:min(len(g.out[caller]), maxFan)]) {
		if paid == amount {
			break
		}
		n := min(g.cap(caller, a), amount-paid)
		if a == provider || a == g.self || n == 0 {
			continue
		}
		g.set(caller, a, g.cap(caller, a)-n)
		g.claim(provider, a, n)
		paid += n
	}
	return paid
}

// borrow notes what a caller has used of what came in by an entry.
func (g *Graph) borrow(caller, by int32, amount uint64) {
	if g.open[by] == nil {
		g.open[by] = &entry{}
	}
	if o := g.open[by]; caller == by {
		o.own += amount
	} else {
		o.unsigned += amount
	}
	g.owe(caller, by, amount)
}

// maxDebts bounds what is remembered of one caller, who may never sign; past it the order is not kept.
const maxDebts = 64

func (g *Graph) owe(caller, by int32, amount uint64) {
	list := g.owing[caller]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].by == by {
			list[i].amount = add(list[i].amount, amount)
			return
		}
		if len(list) < maxDebts {
			break
		}
	}
	g.owing[caller] = append(list, debt{by, amount})
}

// settle takes what a caller has signed for off what it owes, the oldest first.
func (g *Graph) settle(caller int32, amount uint64) {
	list := g.owing[caller]
	for len(list) > 0 && amount > 0 {
		d := &list[0]
		part := min(d.amount, amount)
		if o := g.open[d.by]; o != nil {
			o.signed = add(o.signed, part)
			if d.by == caller {
				o.own -= min(o.own, part)
				o.acknowledged += part
			} else {
				o.unsigned -= min(o.unsigned, part)
			}
		}
		amount -= part
		if d.amount -= part; d.amount == 0 {
			list = list[1:]
		}
	}
	if len(list) == 0 {
		delete(g.owing, caller)
	} else {
		g.owing[caller] = list
	}
}

// room gives how much of an edge to this host, of that capacity, a caller can use before somebody signs.
// Its own window grows with what it has signed for; that of others who come in by it does not, and neither
// takes of the other. Neither opens for more than a fiftieth of what is owed, or many small credits would be as many windows.
func (g *Graph) room(caller, by int32, capacity uint64) uint64 {
	var o entry
	if p := g.open[by]; p != nil {
		o = *p
	}
	w, used := uint64(MinWindow), o.unsigned
	if caller == by {
		w, used = Window(o.acknowledged), o.own
	}
	w = o.window(w, capacity)
	return min(capacity, w-min(used, w))
}

// window gives what of an edge of that capacity may be unsigned, at most w.
func (o *entry) window(w, capacity uint64) uint64 {
	return min(w, add(capacity, add(o.unsigned, o.own))/windowPart)
}

// Forgive halves what others have not signed for at each entry. It is called once a day: else who signs nothing and comes back no more would
// keep others out for long. In all no more is forgiven than one window, and a tenth of what was signed for, or a crowd could use up by
// and by, at each host, what the entry is owed. Past that the entry is open again when those who come in there sign, as newcomers at first.
func (g *Graph) Forgive() {
	for by, o := range g.open {
		most := add(o.window(MinWindow, g.toSelf[by]), o.signed/windowShare)
		n := min(o.unsigned/2, most-min(o.forgiven, most))
		o.unsigned, o.forgiven = o.unsigned-n, o.forgiven+n
	}
}

// Residual gives what this host still owes a caller, in µWh.
func (g *Graph) Residual(caller Key) uint64 {
	n, ok := g.ids[caller]
	if !ok || n == g.self {
		return 0
	}
	return g.flow(n, g.self, unbounded, look)
}

// Room gives how much of that the caller can use now: no more than the windows are open by which it
// comes in. It is 0 until somebody who has come in there signs.
func (g *Graph) Room(caller Key) uint64 {
	n, ok := g.ids[caller]
	if !ok || n == g.self {
		return 0
	}
	return g.flow(n, g.self, unbounded, lookNow)
}

// Near says whether a peer is at most two edges away from this host, either way: what it does can
// matter for who is owed what here.
func (g *Graph) Near(k Key) bool {
	n, ok := g.ids[k]
	if !ok {
		return false
	}
	if n == g.self || g.toSelf[n] > 0 || g.cap(g.self, n) > 0 {
		return true
	}
	for _, m := range g.out[n][:min(len(g.out[n]), maxScan)] {
		if g.toSelf[m] > 0 {
			return true
		}
	}
	return false
}

// Merge makes what a host gave and took its account's. From now on the host's edges come with the
// account's name. If it was another account's before, what it did there is that one's, with what that
// one's other hosts did: whoever has the key of one host takes nothing of it along.
func (g *Graph) Merge(host, account Key) {
	h, ok := g.ids[host]
	if !ok {
		return // it has done nothing, and there are many such
	}
	a := g.node(account)
	moves := g.merged[host] && h != g.self
	g.merged[host] = true
	if h == a {
		return
	}
	if moves {
		g.ids[host] = a
		return
	}
	g.moveEdges(h, a)
	g.moveDebts(h, a)
	if h == g.self { // what is owed to this host is owed to its owner's node
		delete(g.ids, host)
		g.self = a
		for n := range g.toSelf {
			g.toSelf[n] = g.edges[edgeKey(int32(n), a)]
		}
	}
	g.ids[host] = a
}

// moveEdges makes the edges of h those of a.
func (g *Graph) moveEdges(h, a int32) {
	type arc struct {
		from, to int32
		v        uint64
	}
	var move []arc
	for k, v := range g.edges {
		if from, to := int32(k>>32), int32(uint32(k)); from == h || to == h {
			move = append(move, arc{from, to, v})
		}
	}
	slices.SortFunc(move, func(x, y arc) int { return cmp.Or(cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to)) })
	for _, m := range move {
		g.set(m.from, m.to, 0)
		if m.from == h {
			m.from = a
		}
		if m.to == h {
			m.to = a
		}
		if m.from != m.to {
			g.set(m.from, m.to, add(g.cap(m.from, m.to), m.v))
		}
	}
}

// moveDebts makes what h has not signed for, and what others have not on paths that end with it, a's. What one of them has used that came in
// by the other is a's own from now on.
func (g *Graph) moveDebts(h, a int32) {
	lists := map[int32][]debt{h: g.owing[h]}
	if o := g.open[h]; o != nil {
		lists = g.owing // anybody can have come in by it
		if g.open[a] == nil {
			g.open[a] = &entry{}
		}
		to := g.open[a]
		to.own, to.unsigned, to.acknowledged = to.own+o.own, to.unsigned+o.unsigned, to.acknowledged+o.acknowledged
		to.signed, to.forgiven = to.signed+o.signed, to.forgiven+o.forgiven
		delete(g.open, h)
	}
	for caller, list := range lists {
		for i := range list {
			d := &list[i]
			before := caller == d.by
			if d.by == h {
				d.by = a
			}
			if d.by == a && !before && (caller == h || caller == a) {
				o := g.open[a]
				n := min(d.amount, o.unsigned)
				o.own, o.unsigned = o.own+n, o.unsigned-n
			}
		}
	}
	for _, d := range g.owing[h] {
		g.owe(a, d.by, d.amount)
	}
	delete(g.owing, h)
}

// Ban takes everything that leads through an identity out, for good.
func (g *Graph) Ban(id Key) { g.banned[g.node(id)] = true }
