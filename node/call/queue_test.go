package call

import (
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// While there is no place, the owner comes first, then who has earned it, then newcomers; the lowest is
// refused when too many wait.
func TestQueueEvicts(t *testing.T) {
	var q queue
	full := cellproto.Errorf("call", cellproto.Overloaded, "full")
	var mu sync.Mutex
	var refused []ledger.Class

	add := func(c ledger.Class) error {
		sess := &session{s: &Server{deps: ServerDeps{Rank: func(Who) Rank { return Rank{Class: c, Weight: 1, Group: "g"} }}}}
		p := &passed{s: sess}
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		conn, err := cellproto.NewConn(near, cellproto.Config{})
		if err != nil {
			t.Fatal(err)
		}
		p.relay.Start(conn, &cellproto.Frame{ID: 1}, func(cellproto.Kind, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, c)
		})
		return q.push(p, &cellproto.Frame{Header: cellproto.Header{Budget: time.Hour}}, full)
	}
	for range maxQueued {
		if err := add(ledger.ClassStranger); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(ledger.ClassStranger); !errors.Is(err, full) {
		t.Errorf("one stranger too many: %v", err)
	}
	for _, c := range []ledger.Class{ledger.ClassEarned, ledger.ClassOwner} {
		if err := add(c); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	mu.Lock()
	if !slices.Equal(refused, []ledger.Class{ledger.ClassStranger, ledger.ClassStranger}) {
		t.Errorf("refused are %v", refused)
	}
	mu.Unlock()
	var order []ledger.Class
	for q.q.Len() > 0 {
		r, _ := q.q.Pop()
		order = append(order, r.Class)
	}
	if len(order) != maxQueued || order[0] != ledger.ClassOwner || order[1] != ledger.ClassEarned || order[2] != ledger.ClassStranger {
		t.Errorf("%d, in the order %v", len(order), order[:3])
	}

}
