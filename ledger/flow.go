package ledger

import (
	"cmp"
	"slices"
)

// Bounds on one look at the graph. What lies beyond them is not counted, which errs towards less credit.
const (
	maxFan  = 64  // peers that the caller has worked for
	maxScan = 256 // peers of each of those
	maxMids = 4096
	maxTurn = 64 // times that a flow is led another way
)

// unbounded is the edge of a peer to itself: paths of two edges.
const unbounded = 1<<64 - 1

type mid struct {
	a, b      int32 // in hops and lasts
	cap, flow uint64
}

// What a flow is computed for.
type purpose uint8

const (
	look     purpose = iota // how much there is
	lookNow                 // how much of it the windows let through
	drain                   // to be used up
	drainNow                // so, and only what the windows let through: what Room has promised
	pay                     // to be used up but for the last edge of each path, which moved lists
	payMore                 // so, over paths that have a last edge, however thin it is
)

// flow gives the largest flow from s to t over at most three edges, but no more than limit; with
// drain it is taken off the edges that it uses, short paths first.
func (g *Graph) flow(s, t int32, limit uint64, why purpose) uint64 {
	if s == t || limit == 0 || g.banned[s] || g.banned[t] {
		return 0
	}
	direct := min(g.cap(s, t), limit)
	if why == lookNow || why == drainNow {
		direct = min(direct, g.room(s, s, g.cap(s, t)))
	}
	total := direct
	if total < limit {
		g.collect(s, t, why)
		if why == payMore { // the thickest first: a thin one may have been laid on purpose
			slices.SortStableFunc(g.mids, func(x, y mid) int { return cmp.Compare(g.cap(g.lasts[y.b], t), g.cap(g.lasts[x.b], t)) })
		}
		total += g.push(limit-total, why != payMore)
	} else {
		g.mids = g.mids[:0]
	}
	if why == look || why == lookNow {
		return total
	}
	g.moved = g.moved[:0]
	if direct > 0 {
		if why >= pay {
			g.moved = append(g.moved, debt{t, direct})
		} else if t == g.self {
			g.borrow(s, s, direct)
		}
		g.set(s, t, g.cap(s, t)-direct)
	}
	for _, m := range g.mids {
		if m.flow == 0 {
			continue
		}
		a, b := g.hops[m.a], g.lasts[m.b]
		if why >= pay {
			g.moved = append(g.moved, debt{b, m.flow})
		} else if t == g.self {
			g.borrow(s, b, m.flow)
		}
		g.set(s, a, g.cap(s, a)-m.flow)
		if a != b {
			g.set(a, b, g.cap(a, b)-m.flow)
		}
		if why < pay {
			g.set(b, t, g.cap(b, t)-m.flow)
		}
	}
	return total
}

// collect finds the edges that flows from s to t can use. A peer can be in the first place of one path
// and in the last of another, so it stands in both layers.
func (g *Graph) collect(s, t int32, why purpose) {
	g.hops, g.remA, g.first = g.hops[:0], g.remA[:0], g.first[:0]
	g.lasts, g.remB, g.mids = g.lasts[:0], g.remB[:0], g.mids[:0]
	clear(g.at)
	for _, a := range g.out[s][:min(len(g.out[s]), maxFan)] {
		if a == t || g.banned[a] || len(g.mids) >= maxMids {
			continue
		}
		g.hops = append(g.hops, a)
		g.remA = append(g.remA, g.cap(s, a))
		g.first = append(g.first, int32(len(g.mids)))
		if c := g.cap(a, t); c > 0 {
			g.addMid(a, g.through(s, a, c, why), unbounded)
		}
		for _, b := range g.out[a][:min(len(g.out[a]), maxScan)] {
			if b == s || b == t {
				continue
			}
			if c := g.cap(b, t); c > 0 && !g.banned[b] && len(g.mids) < maxMids {
				g.addMid(b, g.through(s, b, c, why), g.cap(a, b))
			}
		}
	}
	g.first = append(g.first, int32(len(g.mids)))
}

func (g *Graph) through(caller, by int32, capacity uint64, why purpose) uint64 {
	if why == lookNow || why == drainNow {
		return g.room(caller, by, capacity)
	}
	if why == payMore {
		return unbounded
	}
	return capacity
}

func (g *Graph) addMid(b int32, toTarget, capacity uint64) {
	i, ok := g.at[b]
	if !ok {
		i = int32(len(g.lasts))
		g.at[b] = i
		g.lasts, g.remB = append(g.lasts, b), append(g.remB, toTarget)
	}
	g.mids = append(g.mids, mid{a: int32(len(g.hops) - 1), b: i, cap: capacity})
}

// push sends as much as it can, at most limit, and notes it in mids. If it need not be exact it takes
// them as they come.
func (g *Graph) push(limit uint64, exact bool) (total uint64) {
	for i := range g.mids { // what is simply there
		m := &g.mids[i]
		f := min(g.remA[m.a], g.remB[m.b], m.cap, limit-total)
		m.flow = f
		g.remA[m.a] -= f
		g.remB[m.b] -= f
		total += f
	}
	if total == limit || len(g.mids) == 0 || !exact {
		return total
	}
	g.sortByB()
	for range maxTurn { // what can be led another way
		if total == limit {
			break
		}
		f := g.turn(limit - total)
		if f == 0 {
			break
		}
		total += f
	}
	return total
}

// sortByB lists the mids of each of lasts.
func (g *Graph) sortByB() {
	nb := len(g.lasts)
	g.start = slices.Grow(g.start[:0], nb+2)[:nb+2]
	clear(g.start)
	for i := range g.mids {
		g.start[g.mids[i].b+2]++
	}
	for b := 2; b < nb+2; b++ {
		g.start[b] += g.start[b-1]
	}
	g.byB = slices.Grow(g.byB[:0], len(g.mids))[:len(g.mids)]
	for i := range g.mids {
		at := &g.start[g.mids[i].b+1]
		g.byB[*at] = int32(i)
		*at++
	}
}

// turn finds one more path, over edges that others use which can go another way (Edmonds and Karp, on
// these two layers), and gives what went over it.
func (g *Graph) turn(limit uint64) uint64 {
	na, nb := len(g.hops), len(g.lasts)
	g.prev = slices.Grow(g.prev[:0], na+nb)[:na+nb]
	const unseen, source = -1, -2
	for i := range g.prev {
		g.prev[i] = unseen
	}
	g.queue = g.queue[:0]
	for a := range na {
		if g.remA[a] > 0 {
			g.prev[nb+a] = source
			g.queue = append(g.queue, int32(a))
		}
	}
	for next := 0; next < len(g.queue); next++ {
		a := g.queue[next]
		for i := g.first[a]; i < g.first[a+1]; i++ {
			m := &g.mids[i]
			if m.flow == m.cap || g.prev[m.b] != unseen {
				continue
			}
			g.prev[m.b] = i
			if g.remB[m.b] > 0 {
				return g.send(m.b, limit, source)
			}
			for _, j := range g.byB[g.start[m.b]:g.start[m.b+1]] { // who uses this one could go elsewhere
				if back := &g.mids[j]; back.flow > 0 && g.prev[int32(nb)+back.a] == unseen {
					g.prev[int32(nb)+back.a] = j
					g.queue = append(g.queue, back.a)
				}
			}
		}
	}
	return 0
}

// send leads what it can along the path that a search has found, back from b.
func (g *Graph) send(end int32, limit uint64, source int32) uint64 {
	nb := int32(len(g.lasts))
	f := min(limit, g.remB[end])
	for b := end; ; {
		m := &g.mids[g.prev[b]]
		f = min(f, m.cap-m.flow)
		i := g.prev[nb+m.a]
		if i == source {
			f = min(f, g.remA[m.a])
			break
		}
		f = min(f, g.mids[i].flow)
		b = g.mids[i].b
	}
	g.remB[end] -= f
	for b := end; ; {
		m := &g.mids[g.prev[b]]
		m.flow += f
		i := g.prev[nb+m.a]
		if i == source {
			g.remA[m.a] -= f
			return f
		}
		g.mids[i].flow -= f
		b = g.mids[i].b
	}
}
