package call

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// slowNames is a book whose names are given out one by one.
type slowNames struct {
	book
	asked  chan struct{}
	answer chan cid.Cid
}

func (s *slowNames) ResolveName(ctx context.Context, _ string) (cid.Cid, error) {
	s.asked <- struct{}{}
	select {
	case id := <-s.answer:
		if id.Defined() {
			return id, nil
		}
		return id, cellproto.Errorf("resolve", cellproto.Unavailable, "nobody answers")
	case <-ctx.Done():
		return cid.Undef, ctx.Err()
	}
}

// both is what two published cells have.
type both [2]*published

func (b both) Block(ctx context.Context, c cid.Cid, limit int, from []peer.ID) ([]byte, error) {
	if block, err := b[0].Block(ctx, c, limit, from); err == nil {
		return block, nil
	}
	return b[1].Block(ctx, c, limit, from)
}

func (b both) Checked(ctx context.Context, c cid.Cid, limit int, from []peer.ID, good func([]byte) error) ([]byte, error) {
	return checked(b, ctx, c, limit, from, good)
}

// due has a name be looked up again by the next call.
func (c *Caller) due(name string, age time.Duration) {
	c.names.mu.Lock()
	defer c.names.mu.Unlock()
	n := c.names.m[name]
	n.at, n.due = time.Now().Add(-age), time.Now()
}

// lookedUp waits for the lookup of a name that is on its way.
func (c *Caller) lookedUp(name string) {
	c.names.mu.Lock()
	run := c.names.m[name].running
	c.names.mu.Unlock()
	if run != nil {
		<-run.done
	}
}

// A name is asked of the network once however many calls wait; later ones do not wait, and move to another
// version only when somebody serves it.
func TestNamesAreLookedUpBesideCalls(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	other := publish(t, testSchema())
	book := &slowNames{asked: make(chan struct{}, 100), answer: make(chan cid.Cid)}
	book.add(p.host)
	c := use(t, both{cell, other}, book, nil)
	const name = "k51name"

	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := try(t, c, name, request("echo", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	book.answer <- cell.id
	calls.Wait()
	if n := len(book.asked); n != 1 {
		t.Errorf("20 calls had the network asked %d times", n)
	}
	<-book.asked

	stands := func(want cid.Cid, why string) {
		t.Helper()
		begin := time.Now()
		got, err := c.resolve(t.Context(), name)
		if err != nil || got.cell != want {
			t.Errorf("%s: it stands for %v, %v; want %v", why, got.cell, err, want)
		}
		if took := time.Since(begin); took > nameWait {
			t.Errorf("%s: that took %v", why, took)
		}
	}
	c.due(name, time.Minute)
	stands(cell.id, "while the network is asked")
	<-book.asked
	book.answer <- cid.Undef
	c.lookedUp(name)
	stands(cell.id, "after the network gave no answer")
	if len(book.asked) > 0 {
		t.Error("the network is asked again at once")
	}

	c.due(name, time.Minute)
	stands(cell.id, "while a new version is looked for")
	<-book.asked
	book.answer <- other.id
	c.lookedUp(name)
	stands(cell.id, "with a new version that nobody serves")

	c.due(name, time.Minute)
	stands(cell.id, "once more")
	<-book.asked
	c.mu.Lock()
	delete(c.remotes, other.id) // as if it had never been looked for
	c.mu.Unlock()
	q := provide(t, other, nil)
	book.add(q.host)
	book.answer <- other.id
	c.lookedUp(name)
	stands(other.id, "with a new version that somebody serves")
	if got, want := string(c.cache.read(namesFile)), `{"k51name":"`+other.id.String()+`"}`; got != want {
		t.Errorf("what is kept of it is %s, want %s", got, want)
	}
	if _, err := try(t, c, name, request("echo", "x")); err != nil {
		t.Error(err)
	}
}

// What was last asked of the network long ago is waited for a little.
func TestOldNamesAreWaitedFor(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	other := publish(t, testSchema())
	q := provide(t, other, nil)
	book := &slowNames{asked: make(chan struct{}, 100), answer: make(chan cid.Cid, 1)}
	book.add(p.host, q.host)
	c := use(t, both{cell, other}, book, nil)
	book.answer <- cell.id
	if got, err := c.resolve(t.Context(), "k51name"); err != nil || got.cell != cell.id {
		t.Fatalf("%v, %v", got.cell, err)
	}
	c.due("k51name", 2*nameOld)
	book.answer <- other.id
	if got, err := c.resolve(t.Context(), "k51name"); err != nil || got.cell != other.id {
		t.Errorf("after a long time it stands for %v, %v", got.cell, err)
	}
}
