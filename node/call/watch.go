package call

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// watchQueue is how many races a watcher may be behind; past that it misses some.
const watchQueue = 16

// Watch gives each race of a published cell to each as it ends, until ctx does. It holds one itself at
// first, and whenever there was none for so long.
func (c *Caller) Watch(ctx context.Context, target string, every time.Duration, each func(race.Log) error) error {
	t, err := c.resolvePublished(ctx, target)
	if err != nil {
		return err
	}
	if !t.cell.Defined() {
		return notRaced("watch the races of "+target, t)
	}
	races := make(chan race.Log, watchQueue)
	c.mu.Lock()
	c.watchers[races] = t.cell
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, races)
		c.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case l := <-races:
			if err := each(l); err != nil {
				return err
			}
			timer.Reset(every)
		case <-timer.C:
			r := c.remote(t.cell)
			r.mu.Lock()
			if r.racing == nil {
				c.beginRace(r, race.Watched, true)
			}
			r.mu.Unlock()
			timer.Reset(every)
		case <-ctx.Done():
			return nil
		case <-c.ctx.Done():
			return errStopping("watch the races of " + target)
		}
	}
}

// tellWatchers tells of a race that has ended. Who does not listen misses it.
func (c *Caller) tellWatchers(id cid.Cid, l race.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for races, of := range c.watchers {
		if !of.Equals(id) {
			continue
		}
		select {
		case races <- l:
		default:
		}
	}
}

// notRaced says of a nucleus that was named that it has no others beside it.
func notRaced(op string, t resolved) error {
	return cellproto.Errorf(op, cellproto.BadInput, "%s is a nucleus itself: there is nobody to race", t.where()).
		WithHint("Publish it first, or give the CID that cellctl publish printed.")
}
