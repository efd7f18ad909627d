package celltest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/internal/ctl"
)

// tallied is what became of calls of one kind.
type tallied struct{ calls, failed, wrong atomic.Int64 }

func (c *tallied) String() string {
	return fmt.Sprintf("%d calls, %d failed, %d wrong", c.calls.Load(), c.failed.Load(), c.wrong.Load())
}

// sum has two numbers added on behalf of a cell, and counts what comes of it.
func (c *tallied) sum(t *testing.T, by *Cell, target, fn, quorum string, a, b int) {
	req := ctl.UseRequest{
		Target: target, Func: fn, Argv: []string{fmt.Sprint(a), fmt.Sprint(b)}, Timeout: cellproto.DefaultTimeout, CallerDir: by.Dir, Quorum: quorum,
	}
	c.calls.Add(1)
	reply, err := (&ctl.Client{Dir: by.Dir}).Use(context.Background(), req, nil)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(reply)
		reply.Close()
	}
	switch {
	case err != nil:
		c.failed.Add(1)
		t.Logf("%s %s: %v", fn, quorum, err)
	case string(text) != fmt.Sprint(a+b):
		c.wrong.Add(1)
	}
}

// outdated makes a provider that is found like all others, and whose advert is the best that ever was, and long over.
func (n *Net) outdated(t *testing.T, of *Cell, cell string) (l *liar, asked *atomic.Int64) {
	t.Helper()
	id := cid.MustParse(cell)
	l, asked = newLiar(t, id, schemaOf(t, of)), new(atomic.Int64)
	l.advert = func(ad signed.Advert) ([]byte, error) {
		asked.Add(1)
		ad.Name, ad.Issued, ad.Expires = "sums", ad.Issued.Add(-time.Hour), ad.Expires.Add(-time.Hour)
		return signed.SealAdvert(ad, l.key)
	}
	l.request = func(s network.Stream, f *cellproto.Frame) { send(s, reply(f, f.ID)) }
	d, err := dht.New(dht.Config{Network: n.name, Bootstrap: n.bootstrap, ServerMode: dht.ModeClient}, dht.Deps{Host: l.host})
	if err == nil {
		err = d.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	d.Announce(id)
	return l, asked
}

// Ten providers, found by the DHT, of which three lie: one gives wrong replies, one none, one an advert that is over. Now
// and then one of them all is killed, and started again. At most one call of a thousand fails, and a quorum is deceived at
// most once in a hundred times. Who calls without a quorum takes the word of whoever wins the first race, until a quorum or a
// check has caught a liar: how many of those replies are wrong is told only.
func TestLiarsAndChurn(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it takes minutes, and node/call has one in a process: CELL_LONG=1")
	}
	t.Parallel()
	const (
		providers, most        = 10, 3 * Patience
		kills, every           = 10, 12 * time.Second
		singles, quorums int64 = 10000, 3000
	)
	n := New(t)
	n.Bootstrap()
	first := n.sums("")
	first.Start()
	cell := first.Publish().CID
	members := []*Cell{first}
	for _, lie := range []string{"wrong", "silent", "", "", "", "", "", ""} {
		c := n.Copy(first)
		c.write("data/lie", lie, 0o600)
		c.Start()
		members = append(members, c)
	}
	outdated, asked := n.outdated(t, first, cell)
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(cell, providers)

	var single, quorum tallied
	var callers sync.WaitGroup
	var over atomic.Bool
	t.Cleanup(func() { over.Store(true); callers.Wait() })
	for i, c := range []struct {
		n          *tallied
		fn, quorum string
	}{{&single, "add", ""}, {&single, "keep", ""}, {&quorum, "add", "2of3"}} {
		callers.Go(func() {
			for k := 0; !over.Load(); k++ {
				c.n.sum(t, caller, cell, c.fn, c.quorum, 1000*i, k)
				time.Sleep(2 * time.Millisecond) // a caller's own work
			}
		})
	}
	seed, begin := rand.Uint64(), time.Now()
	rng := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for killed < kills || (single.calls.Load() < singles || quorum.calls.Load() < quorums) && time.Since(begin) < most {
		time.Sleep(every / 2)
		c := members[rng.IntN(len(members))]
		c.Kill()
		time.Sleep(every / 2)
		c.Start()
		killed++
	}
	over.Store(true)
	callers.Wait()
	took := time.Since(begin)
	t.Logf("seed %d: %d providers, 3 of them lie, %d killed in %v, which is %.0f %% a minute; single %v; quorum 2of3 %v; the advert that is over was read %d times",
		seed, providers, killed, took.Round(time.Second), 100*float64(killed)/providers/took.Minutes(), &single, &quorum, asked.Load())
	for what, c := range map[string]struct {
		n     *tallied
		least int64
	}{"single calls": {&single, singles}, "quorums": {&quorum, quorums}} {
		if calls, failed := c.n.calls.Load(), c.n.failed.Load(); calls < c.least || failed*1000 > calls {
			t.Errorf("%s: %v; at least %d were to be made, and at most 1 of 1000 may fail", what, c.n, c.least)
		}
	}
	if calls, wrong := quorum.calls.Load(), quorum.wrong.Load(); wrong*100 > calls {
		t.Errorf("%d of %d quorums were deceived, at most 1 of 100 may be", wrong, calls)
	}
	if asked.Load() == 0 || outdated.lies.Load() > 0 {
		t.Errorf("the advert that is over was read %d times, and who has sent it called %d times", asked.Load(), outdated.lies.Load())
	}
}
