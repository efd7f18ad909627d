package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/internal/celltest/netdelay"
	"github.com/celldnet/celld/internal/ctl"
)

const (
	farAway = 100 * time.Millisecond // one way to the original: whoever can go to the copy does
	nearby  = time.Millisecond
	loadFor = 8 * time.Second
	inARow  = 50 // calls that the copy answers before it is paused
	nap     = 20 // ms, of a call
)

// distance is a network where callers are near the donor, and far from the original.
type distance struct {
	*netdelay.Net
	stranger, owner, caller site
}

func newDistance() (n *distance, err error) {
	n = &distance{}
	if n.Net, err = netdelay.New(1); err != nil {
		return nil, err
	}
	var all []*netdelay.Machine
	for i, s := range []*site{&n.stranger, &n.owner, &n.caller} {
		addr := netip.AddrFrom4([4]byte{11, byte(10 * (i + 1)), 0, 1})
		m, err := n.Machine(addr)
		if err != nil {
			n.Close()
			return nil, err
		}
		all = append(all, m)
		*s = site{"/ip4/" + addr.String() + "/tcp/0", m.Start}
	}
	n.Connect(all[0], all[1], netdelay.Path{Delay: farAway})
	n.Connect(all[0], all[2], netdelay.Path{Delay: farAway})
	n.Connect(all[1], all[2], netdelay.Path{Delay: nearby})
	return n, nil
}

// pauses measures what the owner's load does to callers who are near the copy that is hosted, and how soon that stands.
func (o options) pauses() error {
	net, err := newDistance()
	if err != nil {
		return err
	}
	defer net.Close()
	p, err := o.pair(net.stranger, net.owner)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.donor.give(); err != nil {
		return err
	}
	dir, err := p.donor.place(p.what)
	if err != nil {
		return err
	}
	caller, self, err := o.caller(p.addr, net.caller)
	if err != nil {
		return err
	}
	defer caller.stop(self)
	copied, err := ask[ctl.Status](p.donor, "status", dir)
	if err != nil {
		return err
	}
	calls := callsOf(self, p.what.Cell.String(), copied.PeerID)
	defer calls.stop()
	if err := calls.until("the copy answers all of them", func() bool { return calls.row.Load() >= inARow }); err != nil {
		return err
	}
	if err := o.pausedByLoad(dir, calls); err != nil {
		return err
	}
	return o.paused(p.donor, dir)
}

// pausedByLoad has the owner's machine work, and counts what becomes of the calls that go to its copy.
func (o options) pausedByLoad(dir string, calls *calls) error {
	watched, err := watch(dir)
	if err != nil {
		return err
	}
	owner := exec.Command(o.self, "burn")
	before := calls.count()
	begin := time.Now()
	if err := owner.Start(); err != nil {
		return err
	}
	time.Sleep(loadFor)
	at := watched()
	err = owner.Process.Kill()
	_ = owner.Wait() // it was killed
	if err != nil {
		return err
	}
	calls.stop()
	n := calls.count().since(before)
	stood := loadFor
	if !at.IsZero() {
		stood = at.Sub(begin)
	}
	row("load above the mark to the last instruction", fmt.Sprintf("%.1f s", stood.Seconds()), "<= 5 s", stood <= 5*time.Second)
	row("calls lost by that pause", fmt.Sprintf("%d of %d: %d to it, then %d", n.lost, n.made, n.there, n.made-n.there-n.lost),
		"0", n.lost == 0 && n.there > 0 && n.made > n.there)
	return nil
}

// caller is somebody who calls cells, from a cell in the directory self.
func (o options) caller(bootstrap string, at site) (m *machine, self string, err error) {
	if m, err = o.machine("caller", bootstrap, at); err != nil {
		return
	}
	self = filepath.Join(m.dir, "caller")
	err = os.MkdirAll(self, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(self, "cell.toml"), []byte("[cell]\nname = \"caller\"\n"), 0o644)
	}
	if err == nil {
		_, err = m.ctl("start", self)
	}
	return
}

// calls are calls of a cell by somebody, two at a time, until they are stopped.
type calls struct {
	made, lost, there atomic.Int64 // there: the copy has answered
	row               atomic.Int64 // of these, how many came last, without another one between
	stop              func()
}

// counts are calls up to a moment.
type counts struct{ made, lost, there int64 }

func (c *calls) count() counts { return counts{c.made.Load(), c.lost.Load(), c.there.Load()} }

func (a counts) since(b counts) counts {
	return counts{a.made - b.made, a.lost - b.lost, a.there - b.there}
}

// callsOf begins to call a cell from the one in dir. The copy is the provider of that peer ID.
func callsOf(dir, target, copied string) *calls {
	ctx, cancel := context.WithCancel(context.Background())
	c := &calls{}
	var work sync.WaitGroup
	c.stop = func() { cancel(); work.Wait() }
	for range 2 {
		work.Go(func() {
			for ctx.Err() == nil {
				c.one(dir, target, copied)
			}
		})
	}
	return c
}

func (c *calls) one(dir, target, copied string) {
	provider, err := use(context.Background(), dir, target, "nap", nap)
	switch {
	case err != nil:
		if c.lost.Add(1) <= 3 {
			fmt.Fprintln(os.Stderr, "give: a call failed:", err)
		}
		time.Sleep(100 * time.Millisecond) // it may fail at once, again and again
	case provider == copied:
		c.there.Add(1)
		c.row.Add(1)
	}
	if err != nil || provider != copied {
		c.row.Store(0)
	}
	c.made.Add(1)
}

// until waits until the calls are so.
func (c *calls) until(what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("still not: %s: %+v", what, c.count())
		}
	}
	return nil
}

// paused measures what a machine uses for what it hosts while that is paused.
func (o options) paused(donor *machine, dir string) error {
	span := min(o.span, 10*time.Second)
	var pids []string
	for _, d := range []string{donor.home(), dir} {
		text, err := os.ReadFile(filepath.Join(d, "run", "pid"))
		if err != nil {
			return err
		}
		pids = append(pids, strings.TrimSpace(string(text)))
	}
	time.Sleep(2 * time.Second) // until what the callers have caused is over
	used := func() (total time.Duration, err error) {
		for _, pid := range pids {
			cpu, err := cpuOf(pid)
			if err != nil {
				return 0, err
			}
			total += cpu
		}
		return total, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(span)
	after, err := used()
	if err != nil {
		return err
	}
	p := 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	row("both daemons, while it waits for a quiet minute", fmt.Sprintf("%.3f %% of a processor", p), "<= 1 %", p <= 1)
	return nil
}
