package call

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A watcher hears of its own races and of those that calls begin, of this cell only.
func TestWatch(t *testing.T) {
	cell, another := publish(t, testSchema()), publish(t, testSchema())
	p, q := provide(t, cell, nil), provide(t, another, nil)
	peers := &book{}
	peers.add(p.host)
	for id, b := range another.blocks {
		cell.blocks[id] = b
	}
	c := use(t, cell, peers, nil)
	heard := make(chan race.Log)
	enough := errors.New("enough")
	ended := make(chan error, 1)
	go func() {
		n := 0
		ended <- c.Watch(t.Context(), cell.id.String(), time.Hour, func(l race.Log) error {
			heard <- l
			if n++; n == 2 {
				return enough
			}
			return nil
		})
	}()
	first := <-heard
	if first.Why != race.Watched || string(first.Winner) != peerText(p.host) || len(first.Candidates) != 1 || first.Cell != cellproto.CellID(cell.id.String()) {
		t.Errorf("%+v", first)
	}
	peers.mu.Lock()
	peers.found = nil
	peers.mu.Unlock()
	peers.add(q.host)
	if _, err := c.Race(t.Context(), another.id.String()); err != nil {
		t.Fatal(err)
	}
	peers.add(p.host)
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
		t.Fatal(err)
	}
	if second := <-heard; second.Why != race.Expired || second.Cell != first.Cell {
		t.Errorf("%+v", second)
	}
	if err := <-ended; err != enough {
		t.Errorf("it ends with %v", err)
	}
	// One that is held anew whenever there was none for a while, until the time is over.
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := c.Watch(ctx, cell.id.String(), time.Millisecond, func(race.Log) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	}); err != nil || n < 3 {
		t.Errorf("%d races, %v", n, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.watchers) != 0 {
		t.Errorf("%d watchers are left", len(c.watchers))
	}
}
