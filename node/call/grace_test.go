package call

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
)

// refuseStreams has a provider reset the first n streams of calls, or all with n < 0.
func (p *provider) refuseStreams(n int64) {
	serve := p.serveCalls()
	p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
		if got := p.calls.Add(1); n < 0 || got <= n {
			s.Reset()
			return
		}
		serve(s)
	})
}

// A cell whose only provider cannot be used for a moment is raced again within the call, though nobody has answered yet:
// nothing has run, whatever the function is.
func TestOnlyProviderIsRacedAgain(t *testing.T) {
	for _, fn := range []string{"echo", "count", "once"} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			p := provide(t, cell, nil)
			p.refuseStreams(2)
			peers := &book{}
			peers.add(p.host)
			res := call(t, use(t, cell, peers, nil), cell, fn)
			if res.Provider != peerText(p.host) || p.calls.Load() != 3 {
				t.Errorf("%s has answered on stream %d", res.Provider, p.calls.Load())
			}
		})
	}
}

// Whoever stays away is not raced for as long as the call has time.
func TestNobodyIsRacedForever(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	p.refuseStreams(-1)
	peers := &book{}
	peers.add(p.host)
	begin := time.Now()
	_, err := try(t, use(t, cell, peers, nil), cell.id.String(), request("echo", "x"))
	wantKind(t, err, cellproto.Unavailable)
	if n, took := p.calls.Load(), time.Since(begin); n < 2 || took > patience/2 {
		t.Errorf("it was asked %d times in %v", n, took)
	}
}
