package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/celldnet/celld/bench/load"
)

// bench is one run.
type bench struct {
	ctx   context.Context
	o     options
	dir   string // temporary; everything is in it
	procs *procs
	rows  []row
}

func newBench(ctx context.Context, o options) (*bench, error) {
	dir, err := os.MkdirTemp("", "celld-bench-")
	if err != nil {
		return nil, err
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	return &bench{ctx: ctx, o: o, dir: dir, procs: &procs{ctx: ctx, dir: dir}}, nil
}

func (b *bench) close() {
	b.procs.stop()
	os.RemoveAll(b.dir)
}

// row is one line of the table.
type row struct {
	what  string
	ours  string
	peer  string
	ratio string // with its spread; "" when there is no peer
	goal  string
	met   string // yes, no or ""
}

func (b *bench) add(r row) {
	fmt.Fprintf(os.Stderr, "   %-52s ours %-14s peer %-14s ratio %-24s goal %-8s met %s\n", r.what, r.ours, r.peer, r.ratio, r.goal, r.met)
	b.rows = append(b.rows, r)
}

// samples of one quantity, one for each round.
type samples []float64

func (s samples) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func (s samples) median() float64 { return s.quantile(0.5) }

// spread gives the median with the quartiles.
func (s samples) spread() string {
	return fmt.Sprintf("%s (%s–%s)", duration(s.median()), duration(s.quantile(0.25)), duration(s.quantile(0.75)))
}

// take appends what a measurement gave.
func (s *samples) take(v float64, err error) error {
	if err == nil {
		*s = append(*s, v)
	}
	return err
}

// takeTime is take for a duration, in ns.
func (s *samples) takeTime(d time.Duration, err error) error { return s.take(float64(d), err) }

// side is one of the two that take turns: it gives one round's number.
type side func() (float64, error)

// comparison is two sides, and what their ratio ours/peer is to be.
type comparison struct {
	what   string
	ours   side
	peer   side
	format func(float64) string
	atMost float64 // goal; 0: none
	least  float64 // goal; 0: none
	within float64 // goal for ours itself; 0: none
}

// compare lets the two sides take turns, the one that begins alternating, and adds a row.
func (b *bench) compare(c comparison) error {
	if !b.o.rows.MatchString(c.what) {
		return nil
	}
	var ours, peer samples
	for i := range b.o.rounds + 1 {
		sides := []side{c.ours, c.peer}
		var got [2]float64
		for k := range sides {
			at := (k + i) % 2
			v, err := sides[at]()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", c.what, [...]string{"ours", "the peer"}[at], err)
			}
			got[at] = v
		}
		if i == 0 {
			continue // warms up
		}
		ours, peer = append(ours, got[0]), append(peer, got[1])
	}
	b.addRatio(c, ours, peer)
	return nil
}

// addRatio adds the row of a comparison whose two sides were measured round by round.
func (b *bench) addRatio(c comparison, ours, peer samples) {
	ratios := make(samples, len(ours))
	for i := range ratios {
		ratios[i] = ours[i] / peer[i]
	}
	r := row{
		what: c.what, ours: c.format(ours.median()), peer: c.format(peer.median()),
		ratio: fmt.Sprintf("%.2f (%.2f–%.2f)", ratios.median(), ratios.quantile(0.25), ratios.quantile(0.75)),
	}
	switch m := ratios.median(); {
	case c.atMost > 0:
		r.goal, r.met = fmt.Sprintf("≤ %g", c.atMost), yes(m <= c.atMost)
	case c.least > 0:
		r.goal, r.met = fmt.Sprintf("≥ %g", c.least), yes(m >= c.least)
	case c.within > 0:
		r.goal, r.met = "≤ "+c.format(c.within), yes(ours.median() <= c.within)
	}
	b.add(r)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// turn is a side that is a client process: one round with so many callers.
func (b *bench) turn(w *worker, callers int, of func(load.Outcome) float64) side {
	return func() (float64, error) {
		o, err := w.round(load.Round{Callers: callers, For: b.o.round})
		if err != nil {
			return 0, err
		}
		return of(o), nil
	}
}

func median(o load.Outcome) float64     { return float64(o.P50) }
func throughput(o load.Outcome) float64 { return o.PerSecond() }

func duration(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", ns/1e6)
	}
	return fmt.Sprintf("%.2f s", ns/1e9)
}

func perSecond(v float64) string { return fmt.Sprintf("%.1f k/s", v/1e3) }

// self is the driver's own binary, for its roles.
func (b *bench) self() string { return filepath.Join(b.o.bin, "driver") }
