package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/internal/ctl"
)

const (
	startsPerRound  = 5
	thawsPerRound   = 10
	thawGoal        = 500 * time.Microsecond
	stateTimeout    = 30 * time.Second
	statePollsEvery = 10 * time.Millisecond
)

// starts measures the first reply of a program that sleeps, and of one that is frozen, over a connection
// that the nucleus hands over.
func (b *bench) starts(n *network) error {
	c, err := n.cell("starter", "echo-one", "\n[life_cycle]\nfreeze_after = 0\nidle_timeout = \"50ms\"\n")
	if err != nil {
		return err
	}
	if err := b.compare(comparison{
		what: "local: start, from the call to the first reply / exec of the same program to its first reply",
		ours: many(startsPerRound, func() (time.Duration, error) { return b.wake(c, ctl.Idle) }),
		peer: many(startsPerRound, func() (time.Duration, error) {
			return b.execReply(filepath.Join(c.dir, "bin", "program"), c.dir)
		}),
		format: duration, atMost: 1.3,
	}); err != nil {
		return err
	}
	return b.thaws(n)
}

// thaws measures the first reply of a program that is frozen: to a client that is still to connect, which is
// all that there can be on the way that is handed over, since whoever held a connection is sent back before
// the program freezes; and to one whose connection the nucleus relays.
func (b *bench) thaws(n *network) error {
	c, err := n.cell("sleeper", "echo-one", "\n[life_cycle]\nfreeze_after = \"50ms\"\nidle_timeout = 0\n")
	if err != nil {
		return err
	}
	if err := b.awaitGrants(c); err != nil { // starts it
		return err
	}
	relayed, err := cell.LocalConfig{Dir: c.dir, Relay: true}.Open()
	if err != nil {
		return err
	}
	defer relayed.Close()
	for _, r := range []struct {
		what string
		wake func() (time.Duration, error)
		goal time.Duration // 0: none
	}{
		{"local: frozen, from the call to the first reply, p50 (and quartiles)", func() (time.Duration, error) { return b.wake(c, ctl.Frozen) }, thawGoal},
		{"local: frozen, the same over a relayed connection that is there", func() (time.Duration, error) { return b.wakeOver(c, ctl.Frozen, relayed) }, 0},
	} {
		var took samples
		for range (b.o.rounds + 1) * thawsPerRound {
			if err := took.takeTime(r.wake()); err != nil {
				return err
			}
		}
		took = took[thawsPerRound:] // those before warm up
		out := row{what: r.what, ours: took.spread()}
		if r.goal > 0 {
			out.goal, out.met = "≤ "+duration(float64(r.goal)), yes(took.median() <= float64(r.goal))
		}
		b.add(out)
	}
	return nil
}

// many gives the median of so many.
func many(times int, one func() (time.Duration, error)) side {
	return func() (float64, error) {
		var s samples
		for range times {
			if err := s.takeTime(one()); err != nil {
				return 0, err
			}
		}
		return s.median(), nil
	}
}

// wake waits until the program is idle, or frozen, and gives how long a client of the SDK then waits for
// its first reply, with its connection still to be made.
func (b *bench) wake(c *cellDir, from string) (time.Duration, error) {
	l, err := cell.Open(c.dir)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return b.wakeOver(c, from, l)
}

// wakeOver is wake with a client that may be connected.
func (b *bench) wakeOver(c *cellDir, from string, l *cell.Local) (time.Duration, error) {
	before, err := b.awaitState(c, from)
	if err != nil {
		return 0, err
	}
	payload := load.Payload()
	begin := time.Now()
	reply, err := l.Do(b.ctx, &cell.Request{Func: "echo", Args: payload})
	if err != nil {
		return 0, err
	}
	took := time.Since(begin)
	got, err := reply.Bytes(load.PayloadSize)
	if err == nil {
		err = load.Check(payload, got)
	}
	if err != nil {
		return 0, err
	}
	after, err := b.awaitServed(c, before.Served)
	if err != nil {
		return 0, err
	}
	started := after.Starts - before.Starts
	if want := from == ctl.Idle; want != (started == 1) || !want && started != 0 {
		return 0, fmt.Errorf("the program was %s and started %d times for a call", from, started)
	}
	return took, nil
}

// awaitServed waits until the nucleus has counted a call. A program that starts can have answered it before the nucleus has
// heard its hello, and is idle until then.
func (b *bench) awaitServed(c *cellDir, before int64) (ctl.Status, error) {
	for end := time.Now().Add(stateTimeout); ; time.Sleep(statePollsEvery) {
		st, err := c.status(b)
		switch {
		case err != nil || st.Served > before:
			return st, err
		case time.Now().After(end):
			return st, errors.New("the call is not counted")
		}
	}
}

// awaitState waits until the program has come to rest.
func (b *bench) awaitState(c *cellDir, state string) (ctl.Status, error) {
	for end := time.Now().Add(stateTimeout); ; time.Sleep(statePollsEvery) {
		st, err := c.status(b)
		switch {
		case err != nil:
			return st, err
		case st.State == state && (state != ctl.Idle || st.ProgramPID == 0): // one that is stopping has a process
			return st, nil
		case time.Now().After(end):
			return st, errors.New("the program is " + st.State + ", not " + state)
		}
	}
}
