package call

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// What metering adds to a call, and what it takes of a processor with 50 pairs that are active: in processor time,
// which does not depend on what else the machine does. Without CELL_LONG only what is far off fails.
func TestMeterFigures(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	b := &book{}
	b.add(p.host)
	c := use(t, cell, b, nil)
	for range 200 {
		call(t, c, cell, "echo")
	}
	const calls, rounds = 3000, 1_000_000
	spent := func(n int, f func()) time.Duration {
		begin := cpuTime(t)
		for range n {
			f()
		}
		return (cpuTime(t) - begin) / time.Duration(n)
	}
	each := spent(calls, func() { call(t, c, cell, "echo") })
	m := newMeter()
	m.asleep.Store(false)
	g, now := m.gauge("a"), time.Now()
	var a asked
	key := askedKey{cellproto.PeerID(p.host.ID().String()), cell.id.String(), "echo"}
	// Both sides: begin and end; a read and a write counted, each more than once for small calls; by function.
	metering := spent(rounds, func() {
		for range 2 {
			m.begin(g, now)
			m.end(g, now)
			for range 2 {
				g.in.Add(100)
				g.out.Add(100)
			}
		}
		a.add(key, time.Millisecond)
	})
	share := 100 * float64(metering) / float64(each)
	many := newMeter()
	gauges := make([]*gauge, 50)
	for i := range gauges {
		gauges[i] = many.gauge(fmt.Sprint(i))
	}
	at := time.Now()
	tick := spent(20_000, func() {
		for _, g := range gauges {
			many.begin(g, at)
			many.end(g, at.Add(time.Millisecond))
		}
		at = at.Add(time.Second)
		many.Tick(at, Spent{CPU: 1e8, RAM: 1e5, Energy: 100})
		many.Each(func(string, Usage) {})
	})
	core := 100 * tick.Seconds()
	t.Logf("metering adds %v to a call that takes %v, both sides together: %.2f %% (goal 1)", metering, each, share)
	t.Logf("with 50 active pairs it takes %v a second: %.4f %% of a processor (goal 0.1)", tick, core)
	long := os.Getenv("CELL_LONG") != ""
	if core > 0.1 || share > 5 || long && share > 1 {
		t.Error("more than that")
	}
}
