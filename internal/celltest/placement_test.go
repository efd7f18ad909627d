package celltest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/internal/ctl"
)

// manifestOf reads a manifest that a cell has published.
func (c *Cell) manifestOf(id string) *signed.Manifest {
	c.t.Helper()
	block, err := os.ReadFile(filepath.Join(c.Dir, "published", id+".cbor"))
	var m *signed.Manifest
	if err == nil {
		m, err = signed.OpenManifest(cid.MustParse(id), block)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// taker is somebody who asks a nucleus for bytes and keeps to no rule of celld's.
type taker struct {
	t    *testing.T
	from peer.AddrInfo
	s    *content.Store
}

func (c *Cell) taker(t *testing.T) taker {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := peer.AddrInfoFromP2pAddr(multiaddr.StringCast(c.Status().Addrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	s, err := content.New(content.Config{}, content.Deps{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return taker{t, *info, s}
}

// takes reports whether a block can be had, and a whole artefact.
func (k taker) block(id cid.Cid) bool {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	_, err := k.s.Block(ctx, id, 2<<20, []peer.ID{k.from.ID})
	return err == nil
}

func (k taker) artefact(a signed.Artefact) bool {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	f := content.File{CID: a.CID.Cid, Size: a.Size, BLAKE3: a.BLAKE3}
	return k.s.FetchFile(ctx, f, []peer.AddrInfo{k.from}, filepath.Join(k.t.TempDir(), "x"), 0o600, nil) == nil
}

// stranger makes the directories of another person on the same network.
func (n *Net) stranger() *Net {
	n.t.Helper()
	other := New(n.t)
	other.name, other.bootstrap = n.name, n.bootstrap
	return other
}

// Where a cell's bytes may go is seen to by whoever has them: the program of a cell that stays at home is given to
// nobody, by no protocol, nor what was published of it before; that of a cell for friends to the owner's own
// nuclei only, though everybody may call it. And whoever gets hold of it all the same does not take it up.
func TestPlacementIsKept(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	a := n.Example("calculator")
	a.Start()
	public := a.Publish()
	program := a.manifestOf(public.CID).Artefacts[0]
	id := cid.MustParse(public.CID)
	if k := a.taker(t); !k.block(id) || !k.artefact(program) {
		t.Error("what is public cannot be had")
	}

	a.Stop()
	a.Edit("", "\n[privacy]\nplacement = \"friends\"\n")
	a.Start()
	friends := a.Publish()
	m := a.manifestOf(friends.CID)
	if m.Privacy != "friends" || friends.CID == public.CID {
		t.Fatalf("%+v", m)
	}
	k := a.taker(t)
	if !k.block(cid.MustParse(friends.CID)) || !k.block(m.Schema.Cid) {
		t.Error("who calls it cannot know what it is")
	}
	if k.artefact(program) || k.block(program.CID.Cid) {
		t.Error("a stranger gets the program of a cell for friends")
	}
	other := n.stranger()
	caller := other.Headless("caller")
	caller.Start()
	caller.AwaitProviders(friends.CID, 1)
	if got := caller.Must("use", friends.CID, "add", "3", "4"); got != "7" {
		t.Errorf("a stranger's call gives %s", got)
	}
	if k.artefact(program) {
		t.Error("after a call by somebody else a stranger gets the program")
	}
	if r := caller.Ctl("mirror", "add", friends.CID); r.Code != 4 || !strings.Contains(r.Stderr, "does not give it to strangers") {
		t.Errorf("a stranger's mirror: exit code %d\n%s", r.Code, r.Stderr)
	}
	own := n.Headless("own")
	own.Start()
	own.AwaitProviders(friends.CID, 1)
	mirror := n.At(own.Must("mirror", "add", friends.CID, "--public")) // the same person
	mk := mirror.taker(t)
	if mk.artefact(program) || !mk.block(cid.MustParse(friends.CID)) {
		t.Error("the mirror of a cell for friends gives its program to strangers, or not even its manifest")
	}
	n.Must(n.root, "mirror", "rm", mirror.Dir)

	a.Stop()
	a.Edit(`placement = "friends"`, `placement = "local"`)
	a.Start()
	if s := a.Status(); s.CID != "" {
		t.Errorf("it is served as %s", s.CID)
	}
	k = a.taker(t)
	if k.artefact(program) || k.block(program.CID.Cid) || k.block(id) || k.block(cid.MustParse(friends.CID)) || k.block(m.Schema.Cid) {
		t.Error("something of a cell that stays at home was given away")
	}
	for _, words := range [][]string{{"publish"}, {"swap", "--publish"}} {
		if r := a.Ctl(words...); r.Code != 4 || !strings.Contains(r.Stderr, "placement") {
			t.Errorf("%v: exit code %d\n%s", words, r.Code, r.Stderr)
		}
	}
	if s := a.Status(); s.CID != "" {
		t.Errorf("it is served as %s", s.CID)
	}
	for _, find := range []string{public.CID, friends.CID} {
		if r := own.Ctl("use", find, "add", "3", "4", "--timeout", "3s"); r.Code == 0 {
			t.Errorf("%s is called still: %s", find, r.Stdout)
		}
	}

	// Somebody serves a manifest that says "local" all the same: it is not taken up, even by its owner.
	b := n.Example("calculator")
	b.Start()
	leaked := b.Publish()
	b.Stop()
	local := b.Republish(leaked, func(m *signed.Manifest) { m.Privacy = "local" })
	b.Start()
	if s := b.Status(); s.CID != local {
		t.Fatalf("it serves %s, not %s", s.CID, local)
	}
	own.AwaitProviders(local, 1)
	if r := own.Ctl("mirror", "add", local); r.Code != 4 || !strings.Contains(r.Stderr, "keeps it on one machine") {
		t.Errorf("a leaked manifest: exit code %d\n%s", r.Code, r.Stderr)
	}
	own.write(".cell-cache/slo.json", `{"max_p99_ms": 1, "clone_on_violation": true}`, 0o600)
	for range 8 {
		reply, meta, err := own.Use(t.Context(), local, "slow", "20")
		if err != nil || string(reply) != "20" || meta.Source == "mirror" {
			t.Errorf("%s by %s: %v", reply, meta.Source, err)
		}
		if _, err := (&ctl.Client{Dir: own.Dir}).Race(t.Context(), local); err != nil && cellproto.KindOf(err) == cellproto.NotFound {
			t.Error(err)
		}
	}
	n.mirrors(t, 0)
	n.nothingLeft(t)
}
