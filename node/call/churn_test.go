package call

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// crowd is providers of one cell, of whom some lie and some come and go.
type crowd struct {
	t     *testing.T
	cell  *published
	peers *book
	rng   *rand.Rand
	lies  []func(*provider)

	members []*member
}

type member struct {
	p   *provider
	lie int // 0: honest, else 1 + the index of its lie
}

// The lies of which the target speaks. wrong is the same wrong reply for all, as if they were one person.
func (c *crowd) wrong(p *provider) { p.program.handle = lie("lie") }

func (c *crowd) silent(p *provider) { p.program.handle = silent }

// stale gives an advert that is long over, and the best that ever was.
func (c *crowd) stale(p *provider) {
	claim := p.claim(c.cell)
	claim.P50, claim.P99, claim.Seq = time.Microsecond, time.Microsecond, 1
	claim.Issued = claim.Issued.Add(-time.Hour)
	claim.Expires = claim.Issued.Add(cellproto.AdvertLifetime)
	p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
}

// join adds a provider. All who can be found change at once.
func (c *crowd) join(lie int) {
	p := provide(c.t, c.cell, nil)
	if lie > 0 {
		c.lies[lie-1](p)
	}
	c.members = append(c.members, &member{p, lie})
	c.tell()
}

func (c *crowd) tell() {
	var found []Found
	for _, m := range c.members {
		found = append(found, Found{Info: infoOf(m.p.host), Source: "dht"})
	}
	c.rng.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	c.peers.mu.Lock()
	c.peers.found = found
	c.peers.mu.Unlock()
}

// churn has one die without a word and another one of its sort come.
func (c *crowd) churn() {
	i := c.rng.IntN(len(c.members))
	gone := c.members[i]
	c.members = append(c.members[:i], c.members[i+1:]...)
	gone.p.stop()
	c.join(gone.lie)
}

// counts is what became of the calls.
type counts struct{ calls, failed, wrong atomic.Int64 }

func (c *counts) String() string {
	return fmt.Sprintf("%d calls, %d failed, %d wrong replies", c.calls.Load(), c.failed.Load(), c.wrong.Load())
}

// Thirty of a hundred providers lie, and ten of a hundred are replaced each minute: calls go well, and a
// quorum is hardly ever deceived. The time is shorter than a minute, and as much churn in it as in one,
// or with CELL_LONG two minutes.
func TestLiarsAndChurn(t *testing.T) {
	const providers, lying = 20, 6
	length, churns := 6*time.Second, 2
	if os.Getenv("CELL_LONG") != "" {
		length, churns = 2*time.Minute, 4
	}
	for _, mix := range []struct {
		name string
		lies func(c *crowd) []func(*provider)
	}{
		{"wrong replies, stale adverts, silence", func(c *crowd) []func(*provider) { return []func(*provider){c.wrong, c.stale, c.silent} }},
		{"wrong replies, all of them the same", func(c *crowd) []func(*provider) { return []func(*provider){c.wrong} }},
	} {
		t.Run(mix.name, func(t *testing.T) {
			seed := rand.Uint64()
			c := &crowd{t: t, cell: publish(t, testSchema()), peers: &book{}, rng: rand.New(rand.NewPCG(seed, 0))}
			c.lies = mix.lies(c)
			for i := range providers {
				lie := 0
				if i < lying {
					lie = 1 + i%len(c.lies)
				}
				c.join(lie)
			}
			caller := use(t, c.cell, c.peers, func(cfg *CallerConfig, _ *CallerDeps) { cfg.SpotCheck = 0.01 })
			var plain, quorums counts
			end := time.Now().Add(length)
			var callers sync.WaitGroup
			for i := range 8 {
				callers.Go(func() {
					for n := 0; time.Now().Before(end); n++ {
						switch text := fmt.Sprint(i, " ", n); {
						case i < 4:
							c.count(&plain, caller, request("echo", text), text)
						case i < 6:
							c.count(&plain, caller, request("count", text), text)
						default:
							c.count(&quorums, caller, quorum("2of3", "echo", text), text)
						}
						time.Sleep(5 * time.Millisecond) // a caller's own work
					}
				})
			}
			pause := time.NewTicker(length / time.Duration(churns+1))
			defer pause.Stop()
			for range churns {
				<-pause.C
				c.churn()
			}
			callers.Wait()
			t.Logf("seed %d, %d providers, %d of them lie, %d replaced in %v: single %v; quorum 2of3 %v; %d checked unasked",
				seed, providers, lying, churns, length, &plain, &quorums, caller.checked.Load())
			for name, n := range map[string]*counts{"single calls": &plain, "quorums": &quorums} {
				if calls, failed := n.calls.Load(), n.failed.Load(); calls < 20 || failed*1000 > calls {
					t.Errorf("%s: %v; at most 1 of 1000 may fail", name, n)
				}
			}
			if calls, wrong := quorums.calls.Load(), quorums.wrong.Load(); wrong*100 > calls {
				t.Errorf("quorums: %d of %d wrong, at most 1 of 100 may be", wrong, calls)
			}
		})
	}
}

func (c *crowd) count(n *counts, caller *Caller, req *cellproto.Request, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), cellproto.DefaultTimeout)
	defer cancel()
	n.calls.Add(1)
	res, err := caller.Call(ctx, c.cell.id.String(), req)
	switch {
	case err != nil:
		n.failed.Add(1)
		c.t.Logf("%s: %v", req.Header.Func, err)
	case string(res.Reply.Payload) != fmt.Sprintf(`{"text":%q}`, text):
		n.wrong.Add(1)
	}
}
