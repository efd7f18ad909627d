package celltest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// TestStrangerWhoReadsNothing: who has no token, asks without an end and reads nothing costs a small machine a few
// MiB, and others their calls nothing.
func TestStrangerWhoReadsNothing(t *testing.T) {
	n := New(t)
	n.Bootstrap()
	c := n.Example("calculator")
	c.args = []string{"--profile", "router"}
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	if _, _, err := caller.Use(t.Context(), published.CID, "add", "3", "4"); err != nil {
		t.Fatal(err)
	}
	before := c.nucleusRSS()
	const streams, requests = 16, 45_000
	sent := flood(t, c.Status().Addrs, streams, questions(t, requests))
	for same, last := 0, int64(-1); same < 20; time.Sleep(50 * time.Millisecond) { // until it is not rid of more
		if n := sent(); n == last {
			same++
		} else {
			same, last = 0, n
		}
	}
	for range 20 {
		if reply, _, err := caller.Use(t.Context(), published.CID, "add", "3", "4"); err != nil || string(reply) != "7" {
			t.Fatalf("meanwhile another caller gets %s, %v", reply, err)
		}
	}
	after := c.nucleusRSS()
	t.Logf("RSS %d MiB before, %d MiB with %d streams of which nothing is read", before>>20, after>>20, streams)
	if after-before > 64<<20 {
		t.Errorf("a stranger costs %d MiB", (after-before)>>20)
	}
	c.Stop()
}

// nucleusRSS is what the nucleus says that it has in memory, in bytes.
func (c *Cell) nucleusRSS() int64 {
	c.t.Helper()
	m, err := (&ctl.Client{Dir: c.Dir}).Metrics(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return m.Nucleus.RSS
}

// questions are a hello without a token and n requests.
func questions(t *testing.T, n int) (data []byte) {
	t.Helper()
	hello, err := (&cellproto.Hello{Versions: []uint{cellproto.Version}, Agent: "stranger"}).Marshal()
	if err == nil {
		data, err = cellproto.AppendFrame(nil, &cellproto.Frame{Type: cellproto.TypeHello, Payload: hello})
	}
	for i := 0; i < n && err == nil; i++ {
		data, err = cellproto.AppendFrame(data, &cellproto.Frame{
			Type: cellproto.TypeRequest, ID: uint32(2*i + 1), Header: cellproto.Header{Func: "add"}, Payload: make([]byte, 128),
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// flood has a stranger send data on several streams, and read nothing. sent gives how many bytes it is rid of.
func flood(t *testing.T, addrs []string, streams int, data []byte) (sent func() int64) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := peer.AddrInfoFromP2pAddr(ma.StringCast(addrs[0]))
	if err == nil {
		err = h.Connect(t.Context(), *info)
	}
	if err != nil {
		t.Fatal(err)
	}
	var total atomic.Int64
	for range streams {
		s, err := h.NewStream(t.Context(), info.ID, cellproto.ProtocolCall)
		if err != nil {
			t.Fatal(err)
		}
		go func(s network.Stream) { // until the host is closed
			for rest := data; len(rest) > 0; {
				k, err := s.Write(rest[:min(len(rest), 16<<10)])
				total.Add(int64(k))
				if rest = rest[k:]; err != nil {
					return
				}
			}
		}(s)
	}
	return total.Load
}
