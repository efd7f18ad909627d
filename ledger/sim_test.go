package ledger

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var simSeed = flag.Uint64("sim.seed", 1, "seed of the simulations")

// world is a network of honest hosts in simulated seconds: each has its own graph and hears of the
// others' receipts after a while. Signatures and stores are tested elsewhere; here it is about who is
// served.
type world struct {
	rnd   *rand.Rand
	now   int // s
	hosts []*simHost
	delay int // s, the longest that a receipt travels
	cut   func(from, to int) bool
	mail  mailbox
}

type simHost struct {
	n      int
	graph  *Graph
	totals map[Key]*simTotal // by consumer
	heard  map[Hash]uint64
}

type simTotal struct {
	used, signed, published uint64
	at                      int // when it was published last
}

type letter struct {
	at int
	to int
	e  Edge
}

type mailbox []letter

func (m mailbox) Len() int           { return len(m) }
func (m mailbox) Less(i, j int) bool { return m[i].at < m[j].at }
func (m mailbox) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *mailbox) Push(x any)        { *m = append(*m, x.(letter)) }
func (m *mailbox) Pop() any {
	x := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return x
}

func wh(x float64) uint64 { return uint64(x * 1e6) }

func newWorld(hosts, delay int, seed uint64) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 7)), delay: delay}
	for i := range hosts {
		w.hosts = append(w.hosts, &simHost{n: i, graph: NewGraph(peer(i)), totals: map[Key]*simTotal{}, heard: map[Hash]uint64{}})
	}
	return w
}

// past adds work that everybody knows of.
func (w *world) past(from, to Key, amount uint64) {
	for _, h := range w.hosts {
		h.graph.Apply(Edge{Name: edgeName(from, to), From: from, To: to, Total: amount, Signed: amount})
	}
}

// past work among the honest: half of all pairs know each other, most a little, some well.
func (w *world) acquaint(mean float64) {
	for i := range w.hosts {
		for j := range w.hosts {
			if i != j && w.rnd.IntN(2) == 0 {
				w.past(peer(i), peer(j), wh(w.rnd.ExpFloat64()*mean))
			}
		}
	}
}

// tick brings the letters of one second.
func (w *world) tick() {
	w.now++
	for len(w.mail) > 0 && w.mail[0].at <= w.now {
		l := heap.Pop(&w.mail).(letter)
		w.hosts[l.to].graph.Apply(l.e)
		w.hosts[l.to].heard[l.e.Name] = max(w.hosts[l.to].heard[l.e.Name], l.e.Total)
	}
}

func (h *simHost) edge(c Key) Edge {
	t := h.totals[c]
	return Edge{Name: edgeName(peer(h.n), c), From: peer(h.n), To: c, Total: t.used, Signed: t.signed}
}

// serve has a host do some work for a caller.
func (h *simHost) serve(c Key, amount uint64) {
	if h.totals[c] == nil {
		h.totals[c] = &simTotal{}
	}
	h.totals[c].used += amount
	h.graph.Apply(h.edge(c))
}

// sign has a caller sign for everything, and the host tell others when it is time to.
func (w *world) sign(h *simHost, c Key) {
	t := h.totals[c]
	if t == nil || t.signed == t.used {
		return
	}
	t.signed = t.used
	h.graph.Apply(h.edge(c))
	w.publish(h, c)
}

func (w *world) publish(h *simHost, c Key) {
	t := h.totals[c]
	if !PublishDue(t.published, t.signed, MinWindow, time.Duration(w.now-t.at)*time.Second) {
		return
	}
	t.published, t.at = t.signed, w.now
	e := h.edge(c)
	e.Total = t.signed
	for to := range w.hosts {
		if to != h.n && (w.cut == nil || !w.cut(h.n, to)) {
			heap.Push(&w.mail, letter{w.now + 1 + w.rnd.IntN(w.delay), to, e})
		}
	}
}

// attack is what a crowd of k identities does with the credit of real work that one of them has done.
type attack struct {
	k       int
	split   bool // they share the credit out, instead of each claiming all of it
	decoys  bool // each is also owed a lot by somebody who does not exist, which it could pay with
	signs   bool // for what it takes, as late as it can, so that it can go on; else never
	mute    int  // of those who sign, one in so many never does; 0: all do
	eclipse int  // hosts that hear nothing of the others
	days    int  // of which each but the last ends with Forgive; 0: one
}

func (a attack) signer(s int) bool { return a.signs && (a.mute == 0 || s%a.mute != 0) }

// choose finds one of the crowd that is owed something here.
func (a attack) choose(w *world, h *simHost) (c Key, room uint64) {
	for try := range 5 {
		switch try {
		case 0, 1: // who did the work, and the first to whom it was signed over
			c = peer(1000 + min(try, a.k-1))
		default:
			c = peer(1000 + w.rnd.IntN(a.k))
		}
		if room = h.graph.Room(c); room > 0 {
			break
		}
	}
	return c, room
}

// extract runs an attack on 20 hosts of four cores (3.5 W each) that give the crowd all that they have, which
// is the worst that the queue can do, and returns earned-tier service over real work.
func extract(seed uint64, delay int, a attack) float64 {
	const hosts, work, perSecond = 20, 40.0, 4 * 972
	w := newWorld(hosts, delay, seed)
	w.acquaint(50)
	worker := peer(1000)
	for range 4 {
		w.past(worker, peer(w.rnd.IntN(hosts)), 0)
	}
	real := uint64(0)
	for _, i := range w.rnd.Perm(hosts)[:4] {
		w.past(worker, peer(i), wh(work/4))
		real += wh(work / 4)
	}
	for s := 1; s < a.k; s++ { // what they say of each other
		if a.decoys {
			w.past(peer(1000+s), peer(5000+s), wh(1e6))
		}
		said := wh(1e6)
		if a.split {
			said = wh(work) / uint64(a.k)
		}
		w.past(peer(1000+s), worker, said)
	}
	w.cut = func(from, to int) bool { return to < a.eclipse }
	earned := w.spend(a, perSecond)
	for range a.days - 1 {
		for _, h := range w.hosts {
			h.graph.Forgive()
		}
		earned += w.spend(a, perSecond)
	}
	return float64(earned) / float64(real)
}

// spend has the crowd take what it can, until no host gives it anything any more, and gives how much that was.
func (w *world) spend(a attack, perSecond uint64) (earned uint64) {
	end := w.now + 48*3600
	for idle := 0; idle < 2*w.delay+20 && w.now < end; {
		w.tick()
		took := uint64(0)
		for _, h := range w.hosts {
			for left := perSecond; left > 0; {
				c, room := a.choose(w, h)
				if room == 0 && a.signs {
					for s := range a.k {
						if a.signer(s) {
							w.sign(h, peer(1000+s))
						}
					}
					c, room = a.choose(w, h)
				}
				n := min(left, room)
				if n == 0 {
					break
				}
				h.serve(c, n)
				left, took = left-n, took+n
			}
		}
		earned += took
		if idle++; took > 0 {
			idle = 0
		}
	}
	return earned
}

// Crowds of many identities take little more than one of them has worked for. CELL_LONG has crowds of four sizes
// instead of two, those that share the credit out without decoys, and more than one identity where hosts are eclipsed.
func TestSybils(t *testing.T) {
	t.Logf("seed %d; 20 hosts of 4 cores, 40 Wh of real work for 4 of them, gossip up to 60 s", *simSeed)
	sizes, ways, slowest := []int{1, 100}, [][2]bool{{false, false}, {true, true}}, 10
	if long() {
		sizes, ways, slowest = []int{1, 10, 100, 1000}, append(ways, [2]bool{true, false}), 100
	}
	worst := func(delay int, a attack) (e float64) {
		for _, v := range ways {
			a.split, a.decoys = v[0], v[1]
			e = max(e, extract(*simSeed, delay, a))
			if a.k == 1 {
				break
			}
		}
		return e
	}
	for _, k := range sizes {
		signing := worst(60, attack{k: k, signs: true})
		never := extract(*simSeed, 60, attack{k: k, split: true})
		t.Logf("k = %4d: E = %.2f if they sign, %.2f if they never do", k, signing, never)
		if k == 1 || long() {
			t.Logf("%.2f with a fifth of the hosts eclipsed", extract(*simSeed, 60, attack{k: k, split: true, signs: true, eclipse: 4}))
		}
		if signing > 1.25 || never > 1.25 {
			t.Errorf("k = %d: more than 1.25", k)
		}
		if signing < 0.75 {
			t.Errorf("k = %d: not even what they worked for: the attack of the simulation is a weak one", k)
		}
	}
	crowd := attack{k: slowest, split: true, signs: true}
	quick, slow := extract(*simSeed, 60, crowd), extract(*simSeed, 600, crowd)
	t.Logf("k = %4d: %.2f, with gossip that takes ten minutes: %.2f", slowest, quick, slow)
	if slow < quick+0.05 {
		t.Error("slow gossip costs nothing: does the simulation see what it is about?")
	}
}

// What is forgiven daily opens the windows again for a crowd that has time. It still takes little more than what one of it has worked for,
// when just so many sign that others' debts are forgiven: for four weeks. With CELL_LONG for a year, and when fewer of it sign, or none.
func TestWeeksOfForgiving(t *testing.T) {
	days, crowds := 28, []attack{{k: 100, split: true, signs: true, mute: 10}}
	if long() {
		days, crowds = 365, append(crowds, attack{k: 1}, attack{k: 100, split: true}, attack{k: 100, split: true, signs: true, mute: 2})
	}
	for _, a := range crowds {
		a.days = 1
		first := extract(*simSeed, 60, a)
		a.days = days
		e := extract(*simSeed, 60, a)
		t.Logf("seed %d: %+v: E = %.2f after a day, %.2f at the end", *simSeed, a, first, e)
		if e > 1.25 {
			t.Error("more than 1.25")
		}
	}
}

// demand is one honest or free-riding caller of the queue's simulation.
type demand struct {
	key    Key
	gives  bool
	served uint64
}

// Those who only take are served from what is left: 30 % free-riders on busy hosts, for 200 s or with CELL_LONG 600.
func TestFreeRiders(t *testing.T) {
	const hosts, callers = 10, 40
	seconds := 200
	if long() {
		seconds = 600
	}
	w := newWorld(hosts, 60, *simSeed)
	w.acquaint(20)
	var all []*demand
	for i := range callers {
		d := &demand{key: peer(500 + i), gives: i >= callers*3/10}
		if d.gives {
			for range 5 {
				w.past(d.key, peer(w.rnd.IntN(hosts)), wh(1+w.rnd.Float64()*10))
			}
		}
		all = append(all, d)
	}
	const cost, perSecond = 50, 972 // a call of 51 ms; one core
	queues, waits := make([]Queue, hosts), map[[2]int]int{}
	var id uint64
	for range seconds {
		w.tick()
		for i, h := range w.hosts {
			q := &queues[i]
			for n, d := range all { // everybody always has two calls waiting
				s := Standing{Residual: h.graph.Residual(d.key), Room: h.graph.Room(d.key)}
				class, weight := s.Rank()
				for ; waits[[2]int{i, n}] < 2; waits[[2]int{i, n}]++ {
					id++
					q.Push(Request{ID: id, Caller: d.key, Class: class, Weight: weight, Group: fmt.Sprint(d.key[:5]), Cost: cost})
				}
			}
			for spent := 0; spent < perSecond; spent += cost {
				r, ok := q.Pop()
				if !ok {
					break
				}
				q.Done(r.ID, cost)
				h.serve(r.Caller, cost)
				for n, d := range all {
					if d.key == r.Caller {
						d.served += cost
						waits[[2]int{i, n}]--
					}
				}
				if t := h.totals[r.Caller]; SignDue(t.used-t.signed, MinWindow, time.Duration(w.now%10/9)*10*time.Second) {
					w.sign(h, r.Caller)
				}
			}
		}
	}
	var gave, rode float64
	for _, d := range all {
		if d.gives {
			gave += float64(d.served) / (callers * 7 / 10)
		} else {
			rode += float64(d.served) / (callers * 3 / 10)
		}
	}
	t.Logf("seed %d: each contributor had %.2f Wh, each free-rider %.3f: %.1f times", *simSeed, gave/1e6, rode/1e6, gave/rode)
	if gave < 10*rode {
		t.Error("less than ten times")
	}
}
