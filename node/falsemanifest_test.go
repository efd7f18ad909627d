package node

import (
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/node/call"
)

// TestFalseManifestIsNotKept: a manifest whose signature is false is refused, and nobody gets it from who was shown it.
func TestFalseManifestIsNotKept(t *testing.T) {
	store := func(h host.Host) *content.Store {
		s, err := content.New(content.Config{}, content.Deps{Host: h})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(s.Stop)
		return s
	}
	liar, h := plainHost(t), plainHost(t)
	key := h.Peerstore().PrivKey(h.ID())
	block, _, err := signed.SealManifest(signed.Manifest{Name: "fake", Version: "1.0.0", Created: 1, Privacy: "public"}, key)
	if err != nil {
		t.Fatal(err)
	}
	block[len(block)-1] ^= 1 // the last thing in it is the signature
	id, err := cid.Prefix{Version: 1, Codec: uint64(multicodec.DagCbor), MhType: multihash.SHA2_256, MhLength: -1}.Sum(block)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.OpenManifest(id, block); err == nil {
		t.Fatal("the manifest is good")
	}
	lies, kept := store(liar), store(h)
	if err := lies.PutBlock(t.Context(), id, block); err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: liar.ID(), Addrs: liar.Addrs()}); err != nil {
		t.Fatal(err)
	}
	c := call.NewCaller(call.CallerConfig{Dir: t.TempDir(), Agent: "test"}, call.CallerDeps{
		Host: h, Blocks: kept, Identity: call.Identity{Peer: h.ID(), Host: key}, Log: zap.NewNop(),
	})
	t.Cleanup(c.Close)
	if _, err := c.Sources(t.Context(), id.String()); err == nil {
		t.Error("it is taken")
	}
	if kept.Has(t.Context(), id) {
		t.Error("it is kept")
	}
}
