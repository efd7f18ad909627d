package ledger

import (
	"container/heap"
	"testing"
)

// pull is what neighbours do once a minute: they compare heads and fetch what is missing.
func (w *world) pull() {
	for _, h := range w.hosts {
		for c, t := range h.totals {
			for to := range w.hosts {
				if e := h.edge(c); to != h.n && !w.cut(h.n, to) && w.hosts[to].heard[e.Name] < t.signed {
					e.Total = t.signed
					heap.Push(&w.mail, letter{w.now + 1 + w.rnd.IntN(5), to, e})
				}
			}
		}
	}
}

// behind counts the registers that somebody does not know to the end.
func (w *world) behind() (n int) {
	for _, h := range w.hosts {
		for c, t := range h.totals {
			for to := range w.hosts {
				if to != h.n && w.hosts[to].heard[h.edge(c).Name] < t.signed {
					n++
				}
			}
		}
	}
	return n
}

// The network falls into two halves for an hour. Both go on; a minute after it has healed all know the
// same, and who spent on both sides has taken twice what it gave at most.
func TestPartition(t *testing.T) {
	const hosts, from, to = 20, 300, 3900
	w := newWorld(hosts, 30, *simSeed)
	w.acquaint(50)
	w.cut = func(a, b int) bool { return w.now >= from && w.now < to && (a < hosts/2) != (b < hosts/2) }
	spender := peer(1000)
	for i := range hosts {
		w.past(spender, peer(i), wh(0.5)) // it has worked for everybody
	}
	var spent uint64
	apart, healed := 0, -1
	for w.now < to+600 {
		w.tick()
		if w.now < to {
			for _, h := range w.hosts {
				if n := min(h.graph.Room(spender), 972); n > 0 {
					h.serve(spender, n)
					spent += n
				}
				if c := peer(w.rnd.IntN(hosts)); c != peer(h.n) {
					h.serve(c, 100) // what goes on between the honest
					w.sign(h, c)
				}
				w.sign(h, spender)
			}
		}
		if w.now%60 == 0 { // and with every new connection, so also when it heals
			w.pull()
		}
		if w.now == to {
			apart = w.behind()
		}
		if w.now >= to && healed < 0 && w.behind() == 0 {
			healed = w.now - to
		}
	}
	e := float64(spent) / float64(hosts*wh(0.5))
	t.Logf("seed %d: %d registers unknown to somebody when it heals, none %d s later; who spent on both sides took %.2f of what it gave", *simSeed, apart, healed, e)
	if apart == 0 {
		t.Error("nothing happened while it was apart")
	}
	if healed < 0 || healed > 60 {
		t.Error("not within a minute")
	}
	if e > 2 {
		t.Error("more than once on each side")
	}
}

// A provider whose meter says twice what it was is left as soon as three others have been seen.
func TestLyingMeter(t *testing.T) {
	honest := []uint64{100, 110, 95, 105, 98}
	const lie = 200
	var seen []uint64
	paid := 0
	for call := range 100 {
		price := honest[call%len(honest)]
		if call%4 == 0 {
			price = lie
		}
		if TooDear(price, seen) {
			continue
		}
		if price == lie {
			paid++
			continue // it is no measure for the others
		}
		seen = append(seen, price)
	}
	t.Logf("a meter that says twice as much is paid %d of 25 times", paid)
	if paid > 1 {
		t.Error("it is not left")
	}
}

// Callers that vanish without having signed cost their window, and no more.
func TestVanishingPeers(t *testing.T) {
	const callers, slice = 50, 500
	var lost, worst, windows uint64
	h := &simHost{graph: NewGraph(peer(0)), totals: map[Key]*simTotal{}}
	w := works{}
	for i := range callers {
		c := peer(100 + i)
		w.did(h.graph, c, peer(0), wh(10)) // each is owed a lot
		acked := wh(float64(i) / 10)
		w.did(h.graph, c, peer(0), acked)
		if acked > 0 {
			h.serve(c, acked)
			h.totals[c].signed = acked
			h.graph.Apply(h.edge(c))
		}
		var unsigned uint64
		for {
			s := Standing{Residual: h.graph.Residual(c), Room: h.graph.Room(c), Acknowledged: acked, Unsigned: unsigned}
			if class, _ := s.Rank(); class != ClassEarned {
				break
			}
			h.serve(c, slice)
			unsigned += slice
		}
		lost, worst = lost+unsigned, max(worst, unsigned)
		windows += Window(acked)
		if unsigned > Window(acked)+slice {
			t.Errorf("caller %d: %d µWh, its window is %d", i, unsigned, Window(acked))
		}
	}
	t.Logf("%d callers vanish: %.0f mWh each on average, %.0f at most; loss over windows %.2f", callers, float64(lost)/callers/1000, float64(worst)/1000, float64(lost)/float64(windows))
}

// Ten times as much as a peer may send (500 entries a second): what it costs of one core, if nobody
// limits it before.
func TestFlood(t *testing.T) {
	const perSecond = 500
	b := newTestBook(9)
	good := wire(t, dual(t, testReceipt(1, 2, 1000), 1, 2))
	b.expect(t, Stored, good)
	forged := wire(t, &Signed{Receipt: testReceipt(1, 2, 2000), ConsumerSig: &Signature{1}, ProviderSig: &Signature{2}})
	for _, f := range []struct {
		name string
		data []byte
		want Verdict
	}{{"repeated", good, Stale}, {"malformed", good[:len(good)-1], Malformed}, {"forged", forged, Forged}} {
		start := cpuTime(t)
		for range perSecond {
			if r := b.Ingest(nowMS, f.data); r.Verdict != f.want {
				t.Fatal(r.Verdict)
			}
		}
		t.Logf("%d %s entries: %.2f %% of a core", perSecond, f.name, (cpuTime(t)-start).Seconds()*100)
	}
	if len(b.regs) != 1 {
		t.Error("something was kept")
	}
}
