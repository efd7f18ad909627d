package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/internal/ctl"
)

const (
	swaps       = 10                     // at most
	swapCallers = 4                      // whose connection the program holds, and as many that are relayed
	swapLoad    = time.Second            // of calls, in which the swap happens
	swapAfter   = 300 * time.Millisecond // of these
	swapWarmUp  = 200 * time.Millisecond
)

// swapped replaces a program by another build of it while it is called. A call that fails ends the run.
func swapped(b *bench) error {
	n, err := b.network("swap")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo-one")
	if err != nil {
		return err
	}
	s := &swap{b: b, c: c, next: "two", then: "one"}
	for range min(swaps, b.o.rounds) + 1 {
		if err := s.round(); err != nil {
			return err
		}
	}
	stalls := comparison{
		what:   fmt.Sprintf("swap: longest stall of %d callers, half granted, half relayed / exec of the program to its first reply, under the same calls", 2*swapCallers),
		format: duration, atMost: 1.5,
	}
	b.addRatio(stalls, s.stalls[1:], s.busyStarts[1:]) // the first round warms up
	stalls.what = "swap: the same / exec of the program to its first reply, while nobody calls"
	b.addRatio(stalls, s.stalls[1:], s.starts[1:])
	b.add(row{what: "swap: longest stall of the same callers without a swap, p50 (and quartiles)", ours: s.calm[1:].spread()})
	b.add(row{
		what: "swap: from the request to the first reply of the new program, under these calls, p50 (and quartiles)",
		ours: s.firsts[1:].spread(),
	})
	b.add(row{what: "swap: calls that failed", ours: fmt.Sprintf("0 of %d", s.calls), goal: "0", met: "yes"}) // else this were not reached
	return nil
}

// swap is the cell whose program is replaced, and what was measured in each round.
type swap struct {
	b          *bench
	c          *cellDir
	next, then string // builds

	starts     samples // from exec to the first reply
	busyStarts samples // the same, under the calls
	calm       samples // longest stalls without a swap, which are the machine's
	stalls     samples // longest stalls with one
	firsts     samples // from the request for a swap to the first reply of the new program
	calls      int
}

// round measures a start, has the program called by both kinds of callers, and replaces it.
func (s *swap) round() error {
	if err := s.b.awaitGrants(s.c); err != nil { // the trial of the last program is over
		return err
	}
	start := many(startsPerRound, func() (time.Duration, error) {
		return s.b.execReply(filepath.Join(s.c.dir, "bin", "program"), s.c.dir)
	})
	if err := s.starts.take(start()); err != nil {
		return err
	}
	workers := make([]*worker, 2)
	for i, role := range []string{"call-local", "call-local-relayed"} {
		var err error
		if workers[i], err = s.b.procs.worker(s.b.self(), "role", role, s.c.dir, "echo"); err != nil {
			return err
		}
		defer workers[i].pr.stop()
		if _, err := workers[i].round(load.Round{Callers: swapCallers, For: swapWarmUp}); err != nil {
			return err
		}
	}
	if err := s.calm.take(s.during(workers, func() error { return nil })); err != nil {
		return err
	}
	if _, err := s.during(workers, func() error { return s.busyStarts.take(start()) }); err != nil {
		return err
	}
	return s.stalls.take(s.during(workers, s.replace))
}

// during does something while the workers call, and gives their longest stall.
func (s *swap) during(workers []*worker, do func() error) (float64, error) {
	type result struct {
		load.Outcome
		error
	}
	results := make(chan result, len(workers))
	begin := time.Now()
	for _, w := range workers {
		go func() {
			o, err := w.round(load.Round{Callers: swapCallers, For: swapLoad})
			results <- result{o, err}
		}()
	}
	time.Sleep(swapAfter)
	err := do()
	if err == nil && time.Since(begin) > swapLoad {
		err = errors.New("it took longer than the calls went on")
	}
	longest := time.Duration(0)
	for range workers {
		r := <-results
		err = errors.Join(err, r.error)
		longest, s.calls = max(longest, r.Max), s.calls+r.Calls
	}
	return float64(longest), err
}

// replace swaps, and notes when the new program first answers.
func (s *swap) replace() error {
	done := make(chan error, 1)
	took, err := s.b.firstReply(s.c, s.next, func() error {
		go func() {
			_, err := (&ctl.Client{Dir: s.c.dir}).Swap(s.b.ctx, filepath.Join(s.b.o.bin, "echo-"+s.next), ctl.Guard{}, false)
			done <- err
		}()
		return nil
	})
	if err != nil {
		select {
		case swapErr := <-done: // says more
			err = errors.Join(swapErr, err)
		default:
		}
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	s.next, s.then = s.then, s.next
	s.firsts = append(s.firsts, float64(took))
	return nil
}
