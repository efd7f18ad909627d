package call

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// hush is a stream to a provider, which hears nothing any more once it is muted.
type hush struct {
	network.Stream
	muted *atomic.Bool
	heard *atomic.Int64 // reads that gave something
	over  <-chan struct{}
}

func (h hush) Read(b []byte) (int, error) {
	n, err := h.Stream.Read(b)
	if h.muted.Load() {
		<-h.over
		return 0, io.EOF
	}
	h.heard.Add(1)
	return n, err
}

// hushed has a provider's streams be muted, as if it had been killed where no connection tells of it.
func hushed(t *testing.T, p *provider) (muted *atomic.Bool, heard *atomic.Int64) {
	muted, heard = new(atomic.Bool), new(atomic.Int64)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	p.host.SetStreamHandler(cellproto.ProtocolCall, HandleStream(zap.NewNop(), func(s network.Stream) error {
		return p.server.ServeStream(context.Background(), hush{s, muted, heard, over})
	}))
	return muted, heard
}

// A call whose provider answers no ping either goes to the next one, long before half of its time is over; those
// after it do not even try. For that no token is taken.
func TestSilentProvider(t *testing.T) {
	for _, fn := range []string{"count", "echo"} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			peers, muted := &book{}, map[string]*atomic.Bool{}
			for range 2 {
				p := provide(t, cell, nil)
				muted[peerText(p.host)], _ = hushed(t, p)
				peers.add(p.host)
			}
			c := use(t, cell, peers, nil)
			winner := call(t, c, cell, fn).Provider
			r := c.remote(cell.id)
			r.mu.Lock()
			for r.hedges.Take(false) {
			}
			r.mu.Unlock()
			muted[winner].Store(true)
			for i := range 3 {
				begin := time.Now()
				res := call(t, c, cell, fn)
				if res.Provider == winner {
					t.Errorf("call %d was answered by the silent one", i)
				}
				if took := time.Since(begin); took > patience/4 {
					t.Errorf("call %d took %v", i, took)
				}
			}
		})
	}
}

// One that answers pings is only slow: what must not run more often than it has to is not asked of others.
func TestSlowProviderIsWaitedFor(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	_, heardA := hushed(t, a)
	_, heardB := hushed(t, b)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	winner, other, heard := a, b, heardA
	if call(t, c, cell, "count").Provider == peerText(b.host) {
		winner, other, heard = b, a, heardB
	}
	release, begun := make(chan struct{}), other.program.begun.Load()
	winner.program.handle = func(in *cellproto.Inbound) { <-release; answer(in) }
	done := make(chan *Result)
	go func() {
		res, err := try(t, c, cell.id.String(), request("count", "slow"))
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	before := heard.Load()
	eventually(t, "it is pinged three times", func() bool { return heard.Load() >= before+4 }) // and the call itself
	close(release)
	if res := <-done; res == nil || res.Provider != peerText(winner.host) {
		t.Errorf("it was answered by %+v", res)
	}
	if n := other.program.begun.Load(); n != begun {
		t.Errorf("the other one was asked %d times", n-begun)
	}
}

// A provider that fails while somebody looks after the call, since it takes long, is not waited for any longer: what is
// idempotent would wait for half of its time else.
func TestFailsWhileLookedAfter(t *testing.T) {
	for name, fail := range map[string]func(p *provider, in *cellproto.Inbound){
		"loses its connection": func(p *provider, _ *cellproto.Inbound) { p.cutLinks() },
		"has no place": func(_ *provider, in *cellproto.Inbound) {
			in.ReplyError(cellproto.Errorf("call", cellproto.Overloaded, "there is no place"))
		},
	} {
		for _, fn := range []string{"count", "echo"} {
			t.Run(name+", "+fn, func(t *testing.T) {
				cell := publish(t, testSchema())
				a, b := provide(t, cell, nil), provide(t, cell, nil)
				_, heardA := hushed(t, a)
				_, heardB := hushed(t, b)
				peers := &book{}
				peers.add(a.host, b.host)
				c := use(t, cell, peers, rare)
				winner, other, heard := a, b, heardA
				if call(t, c, cell, fn).Provider == peerText(b.host) {
					winner, other, heard = b, a, heardB
				}
				before := heard.Load()
				winner.program.handle = func(in *cellproto.Inbound) {
					for heard.Load() < before+2 && in.Context().Err() == nil { // the call itself, and a ping
						time.Sleep(time.Millisecond)
					}
					fail(winner, in)
				}
				begin := time.Now()
				res := call(t, c, cell, fn)
				if took := time.Since(begin); res.Provider != peerText(other.host) || took > patience/4 {
					t.Errorf("%s answered after %v", res.Provider, took)
				}
			})
		}
	}
}
