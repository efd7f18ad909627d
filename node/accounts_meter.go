package node

import (
	"runtime"
	"time"

	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/node/call"
)

// What a cell's program uses, divided among those who call.

// measured is what a run of the program has used.
type measured struct {
	run, cpu uint64
}

// measure gives what the program has used since it was measured last.
func (a *accounts) measure(now time.Time) call.Spent {
	took := now.Sub(a.at)
	a.at = now
	if a.n.program == nil {
		return call.Spent{}
	}
	u := a.n.program.Usage()
	before := a.last
	a.last = measured{u.Run, u.CPU}
	if u.Run != before.run {
		before.cpu = 0 // another run of it: what its start took is part of what its callers wanted
	}
	return call.Spent{
		CPU: u.CPU - min(before.cpu, u.CPU), RAM: uint64(float64(u.RSS) * took.Seconds()), Cores: runtime.NumCPU(), Aside: a.aside(took),
	}
}

// aside estimates the time in flight of the calls that the program takes from its callers itself.
func (a *accounts) aside(took time.Duration) uint64 {
	load := a.n.load() // which counts what they have done
	g := a.n.program.GrantedUse()
	calls := g.Served - min(a.granted, g.Served)
	a.granted = g.Served
	each := time.Duration(load.P50) * time.Microsecond
	return uint64(g.InFlight)*uint64(took) + min(calls*uint64(max(each, 0)), uint64(took)*uint64(max(g.Conns, 1)))
}

// tick divides what was used among those who called. It reports whether anybody did.
func (a *accounts) tick(now time.Time) bool {
	s := a.measure(now)
	s.Energy = a.energy.of(s.CPU)
	return a.n.server.Meter().Tick(now, s) > 0
}

// meterOf gives a usage as receipts have it.
func meterOf(u call.Usage) ledger.Meter {
	return ledger.Meter{CPU: u.CPU, Wall: u.Wall, RAM: u.RAM, In: u.In, Out: u.Out, Energy: u.Energy}
}

// usages gives what each caller has used.
func (a *accounts) usages() map[string]call.Usage {
	all := map[string]call.Usage{}
	a.n.server.Meter().Each(func(who string, u call.Usage) { all[who] = u })
	return all
}
