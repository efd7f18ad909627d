package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/mirror/offer"
)

const plenty = 1 << 40 // bytes of room

func TestIntake(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	asker := func(name, group string) offer.Asker { return offer.Asker{Peer: peer.ID(name), Group: group} }
	a := asker("a", "g")
	newOne := func() *intake { return newIntake(func() time.Time { return now }) }
	kind := func(i *intake, from offer.Asker, p incoming, bps, free int64) cellproto.Kind {
		return cellproto.KindOf(i.admit(from, p, bps, free))
	}
	small := incoming{cell: "c", publisher: "p", size: 10 << 20}

	i := newOne()
	for name, c := range map[string]struct {
		size, bps, free int64
		want            cellproto.Kind
	}{
		"as usual":           {10 << 20, 5e6, plenty, 0},
		"the largest":        {maxIntake, 5e6, plenty, 0},
		"too large":          {maxIntake + 1, 0, plenty, cellproto.Denied},
		"too slow for it":    {200 << 20, 100e3, plenty, cellproto.Denied},
		"the least rate":     {10 << 20, 1, plenty, 0},
		"the disk is full":   {10 << 20, 5e6, 9 << 20, cellproto.Overloaded},
		"no room to be left": {10 << 20, 5e6, -1, cellproto.Overloaded},
	} {
		if got := kind(i, a, incoming{size: c.size}, c.bps, c.free); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}

	// A day's bytes, of a peer and of its network; the next day they come again.
	i.charge(a, intakePeer)
	if kind(i, a, small, 0, plenty) != cellproto.Overloaded || kind(i, asker("b", "g"), small, 0, plenty) != 0 {
		t.Error("of one peer there is no end, or its network has none left")
	}
	i.charge(asker("b", "g"), intakeGroup-intakePeer)
	if kind(i, asker("c", "g"), small, 0, plenty) != cellproto.Overloaded || kind(i, asker("d", "h"), small, 0, plenty) != 0 {
		t.Error("of one network there is no end, or another has none left")
	}
	now = now.Add(intakeDay)
	if kind(i, a, small, 0, plenty) != 0 {
		t.Error("nothing is forgotten")
	}

	// Source is charged as a whole before it comes: nobody sees how much has.
	i = newOne()
	source, takes := incoming{cell: "s", publisher: "p", size: mirror.MaxClone, source: true}, 0
	for ; kind(i, a, source, 0, plenty) == 0; takes++ {
		i.begin(context.Background(), a, source, 0)
	}
	if takes != intakePeer/mirror.MaxClone {
		t.Errorf("source was fetched for one peer %d times a day", takes)
	}

	// What did not start is not fetched again for an hour, for nobody; a publisher may fail sometimes.
	i = newOne()
	i.notStarted(small)
	if err := i.admit(asker("z", "z"), small, 0, plenty); cellproto.RetryAfterOf(err) != failedFor {
		t.Errorf("it did not start a moment ago: %v", err)
	}
	next := incoming{cell: "d", publisher: "p"}
	if kind(i, a, next, 0, plenty) != 0 {
		t.Error("another one of the same publisher")
	}
	i.notStarted(next)
	i.notStarted(incoming{cell: "e", publisher: "p"})
	if kind(i, a, incoming{cell: "f", publisher: "p"}, 0, plenty) != cellproto.Overloaded || kind(i, a, incoming{cell: "f", publisher: "q"}, 0, plenty) != 0 {
		t.Error("a publisher may fail for ever, or all are refused for one")
	}
	now = now.Add(failedFor)
	if kind(i, a, small, 0, plenty) != 0 {
		t.Error("it is never forgotten")
	}
}

// What comes comes at the owner's rate, and is charged to who asked; what an earlier attempt left is neither.
func TestIntakeIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, from := newIntake(time.Now), offer.Asker{Peer: "a", Group: "g"}
		arrived := i.begin(context.Background(), from, incoming{}, 5e6)
		begun := time.Now()
		const left, size = 100 << 20, 200 << 20
		for done := int64(left); done <= size; done += 64 << 10 {
			arrived(done)
		}
		if took := time.Since(begun).Seconds(); took < (size-left-intakeBurst)/5e6 || took > (size-left)/5e6+1 {
			t.Errorf("100 MiB took %v s", took)
		}
		if i.bytes.Load() != size-left || i.spent["group g"] != size-left {
			t.Errorf("%d bytes came, %d were charged", i.bytes.Load(), i.spent["group g"])
		}
		ctx, cancel := context.WithCancel(context.Background())
		arrived = i.begin(ctx, from, incoming{}, 1)
		arrived(0)
		cancel()
		begun = time.Now()
		if arrived(100 << 20); time.Since(begun) > time.Second {
			t.Error("who has left is waited for")
		}
	})
}
