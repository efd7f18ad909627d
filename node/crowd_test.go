package node

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// TestManyPeersLeaveRoom: identities cost nothing, so that many peers together leave room for others, too: of streams, though
// each has no more than one may, and of memory, though none of them reads.
func TestManyPeersLeaveRoom(t *testing.T) {
	t.Run("streams", func(t *testing.T) {
		h := called(t, cellproto.AuthNone)
		info := peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
		const attackers, each = 20, 50
		for range attackers {
			stranger := plainHost(t)
			if err := stranger.Connect(t.Context(), info); err != nil {
				t.Fatal(err)
			}
			for range each {
				s, err := stranger.NewStream(t.Context(), info.ID, cellproto.ProtocolCall)
				if err == nil {
					_, _ = s.Write([]byte{0, 0, 0}) // in vain if it is refused
				}
			}
		}
		othersAreAnswered(t, info)
	})
	t.Run("memory", func(t *testing.T) {
		h := called(t, cellproto.AuthNone)
		info := peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
		const attackers, streams = 5, 48
		data := questions(t, "body", 500, 0)
		before := heap()
		for range attackers {
			settles(flood(t, info, streams, data))
		}
		t.Logf("%d MiB are held", (heap()-before)>>20)
		othersAreAnswered(t, info)
	})
}
