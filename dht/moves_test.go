package dht

import (
	"bufio"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/event"
	corenet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protodelim"
)

// A host that comes by another address, as by its first relay, announces everything again, with it.
func TestAnnounceAgainAfterAMove(t *testing.T) {
	t.Parallel()
	const name = "moves"
	relay := ma.StringCast("/ip4/198.51.100.7/tcp/4001")
	var moved atomic.Bool
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.AddrsFactory(func(addrs []ma.Multiaddr) []ma.Multiaddr {
			if moved.Load() {
				return append(addrs[:len(addrs):len(addrs)], relay)
			}
			return addrs
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })

	var records, withRelay atomic.Int64 // that a peer was given
	keeper := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	keeper.SetStreamHandler(privatePrefix+protocol.ID(name)+"/kad/1.0.0", func(s corenet.Stream) {
		defer s.Close() //nolint:errcheck // a peer that does not care
		r := bufio.NewReader(s)
		for {
			var m pb.Message
			if protodelim.UnmarshalFrom(r, &m) != nil {
				return
			}
			if m.GetType() == pb.Message_ADD_PROVIDER {
				records.Add(1)
				for _, p := range pb.PBPeersToPeerInfos(m.GetProviderPeers()) {
					if ma.Contains(p.Addrs, relay) {
						withRelay.Add(1)
					}
				}
				continue // which has no answer
			}
			if _, err := protodelim.MarshalTo(s, pb.NewMessage(m.GetType(), m.GetKey(), 0)); err != nil {
				return
			}
		}
	})
	var looks atomic.Int64 // at the clock; DHT.watch looks at each tick
	d := startWith(t, Config{Network: name, Bootstrap: addrs(t, keeper)}, Deps{Host: h, Log: zap.NewNop()}, func(d *DHT) {
		d.now = func() time.Time { looks.Add(1); return time.Now() }
	})
	eventually(t, "the keeper is in the table", func() bool { return d.Status().WANPeers == 1 })
	c := cidOf(t, "a cell at home")
	announced(t, d, c)
	// What the first peer in the table gives rise to is over when the watch has ticked again.
	before := looks.Load()
	eventually(t, "further ticks", func() bool { return looks.Load() >= before+3 })
	keys := int64(d.AnnounceState(c).Keys)
	if n := withRelay.Load(); records.Load() < keys || n != 0 {
		t.Fatalf("%d records for %d keys, %d of them with the relay", records.Load(), keys, n)
	}

	moved.Store(true)
	emitter, err := h.EventBus().Emitter(new(event.EvtLocalAddressesUpdated))
	if err != nil {
		t.Fatal(err)
	}
	defer emitter.Close()
	eventually(t, "all records name the relay", func() bool { return withRelay.Load() >= keys }, func() {
		if err := emitter.Emit(event.EvtLocalAddressesUpdated{}); err != nil {
			t.Fatal(err)
		}
	})
}
