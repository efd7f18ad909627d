package call

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// A name is asked of the network once, however many calls wait for it, and again in the background: calls
// go on with what it stood for. They move to another version when somebody was found who serves it.

const (
	nameTTL     = time.Minute      // IPNS records made by publish say so too
	nameRetry   = 10 * time.Second // after the network gave no answer, or nobody serves the new version
	nameTimeout = 30 * time.Second // of one lookup
	// nameOld is how old an answer may be for a call not to wait for a newer one; it then waits for
	// nameWait, and a quarter of its time at most.
	nameOld  = 10 * time.Minute
	nameWait = 2 * time.Second

	maxNames = 1024
)

// names remembers what names stand for.
type names struct {
	mu sync.Mutex
	m  map[string]*named
}

// named is what is known of one name.
type named struct {
	cell    cid.Cid // undefined: not known yet
	at      time.Time
	due     time.Time // when to look again
	running *lookup   // nil: nobody looks
}

// lookup is a question to the network that is on its way.
type lookup struct {
	done chan struct{}
	err  error
}

// byName gives the CID that a name stands for. The first call waits for the network; later ones do not, but
// when they are the first for a long time.
func (c *Caller) byName(ctx context.Context, op, name string) (cid.Cid, error) {
	now := time.Now()
	c.names.mu.Lock()
	n := c.names.m[name]
	if n == nil {
		if len(c.names.m) >= maxNames {
			clear(c.names.m)
		}
		n = &named{}
		c.names.m[name] = n
	}
	run := n.running
	if run == nil && !now.Before(n.due) {
		run = c.lookUp(name, n)
	}
	known, old := n.cell, now.Sub(n.at) > nameOld
	c.names.mu.Unlock()
	switch {
	case known.Defined() && (run == nil || !old):
		return known, nil
	case known.Defined():
		wait := nameWait
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, deadline.Sub(now)/4)
		}
		limited, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		_ = run.wait(limited, op) // what it stood for will do
	default:
		if err := run.wait(ctx, op); err != nil {
			return cid.Undef, c.noName(op, name, err)
		}
	}
	c.names.mu.Lock()
	defer c.names.mu.Unlock()
	return n.cell, nil
}

func (c *Caller) noName(op, name string, err error) error {
	if !errors.Is(err, ErrNoName) {
		return err
	}
	return cellproto.Errorf(op, cellproto.NotFound,
		"there is no dependency, no directory with a cell.toml and no remote cell of that name, and it is no CID, IPNS name or domain").
		WithHint("%s", c.namesHint(name))
}

func (l *lookup) wait(ctx context.Context, op string) error {
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "the name was not resolved in time: %w", ctx.Err()).
			WithHint("Give it more time with --timeout, or use the CID itself.")
	}
}

// lookUp asks the network for a name, on a goroutine of its own. c.names.mu is held.
func (c *Caller) lookUp(name string, n *named) *lookup {
	l := &lookup{done: make(chan struct{})}
	n.running = l
	before := n.cell
	began := c.work.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, nameTimeout)
		defer cancel()
		id, err := c.deps.Finder.ResolveName(ctx, name)
		if err == nil && before.Defined() && !id.Equals(before) {
			c.deps.Log.Info("a name stands for another version", zap.String("name", name), zap.Stringer("before", before), zap.Stringer("now", id))
			err = c.ready(ctx, id)
		}
		if err == nil && !id.Equals(before) {
			c.cache.named(name, id)
		}
		c.names.mu.Lock()
		defer c.names.mu.Unlock()
		n.running, l.err = nil, err
		now := time.Now()
		switch {
		case err == nil:
			n.cell, n.at, n.due = id, now, now.Add(nameTTL)
		case before.Defined():
			n.due = now.Add(nameRetry)
			c.deps.Log.Debug("a name is used as it was", zap.String("name", name), zap.Error(err))
		case c.names.m[name] == n:
			delete(c.names.m, name) // whoever asks next begins anew
		}
		close(l.done)
	})
	if !began {
		n.running, l.err = nil, errStopping("resolve "+name)
		close(l.done)
	}
	return l
}

// ready sees to it that a version that calls are about to move to can be called: its description is here,
// and somebody has won a race for it.
func (c *Caller) ready(ctx context.Context, id cid.Cid) error {
	if t := c.published(id); t.dir != "" {
		return nil // here, or a mirror of it
	}
	r := c.remote(id)
	d, err := c.waitRace(ctx, r)
	if err == nil {
		err = d.Err("use " + string(r.name))
	}
	if err != nil {
		return err
	}
	_, _, err = c.describe(ctx, r, ranked(d)...)
	return err
}
