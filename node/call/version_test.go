package call

import (
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// A provider whose advert says that it serves another schema, and no callers of this one, is not raced:
// not even pinged, though it would be the best by far.
func TestOtherVersionsAreNotRaced(t *testing.T) {
	cell := publish(t, testSchema())
	other, right := provide(t, cell, nil), provide(t, cell, nil)
	claim := other.claim(cell)
	newer := testSchema()
	newer.Functions["more"] = cellproto.Function{}
	say := func(provided, accepted []cellproto.SchemaHash) {
		claim.Seq++
		claim.Issued, claim.Expires = time.Now(), time.Now().Add(cellproto.AdvertLifetime)
		claim.SchemasProvided, claim.SchemasAccepted = provided, accepted
		sealed, err := signed.SealAdvert(claim, other.key)
		if err != nil {
			t.Fatal(err)
		}
		other.advert = func(cid.Cid) ([]byte, error) { return sealed, nil }
	}
	say([]cellproto.SchemaHash{newer.Hash()}, []cellproto.SchemaHash{newer.Hash()})
	peers := &book{}
	peers.add(other.host, right.host)
	c := use(t, cell, peers, nil)
	if _, err := c.Schema(t.Context(), cell.id.String()); err != nil { // the manifest is known now
		t.Fatal(err)
	}
	measured := func() map[string]bool {
		t.Helper()
		d, err := c.Race(t.Context(), cell.id.String())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, k := range d.Ranking {
			out[string(k.Peer)] = k.Out == ""
			if k.Out != "" && k.Kind != cellproto.Incompatible {
				t.Errorf("%s is out: %s", k.Peer, k.Out)
			}
		}
		return out
	}
	if got := measured(); got[peerText(other.host)] || !got[peerText(right.host)] {
		t.Errorf("measured: %v", got)
	}
	for range 10 {
		if res := call(t, c, cell, "echo"); res.Provider != peerText(right.host) {
			t.Fatal("another version answered")
		}
	}
	if n := other.program.begun.Load(); n != 0 {
		t.Errorf("it was called %d times", n)
	}
	// One that still understands callers of this schema is.
	say([]cellproto.SchemaHash{newer.Hash()}, []cellproto.SchemaHash{cell.schema.Hash(), newer.Hash()})
	if got := measured(); !got[peerText(other.host)] {
		t.Errorf("measured: %v", got)
	}
	// Nobody else: the error says why.
	right.stop()
	say([]cellproto.SchemaHash{newer.Hash()}, nil)
	_, err := c.Race(t.Context(), cell.id.String())
	if err == nil {
		t.Fatal("somebody has won")
	}
	t.Log(err)
}

// Of the providers of a version that accepts callers of an older one, those are raced that say so too.
func TestWhoDoesNotAcceptTheCallerIsNotRaced(t *testing.T) {
	old := cellproto.SchemaHash{7}
	cell := follow(t, "2.0.0", testSchema(), nil, newKeyPair(t), old)
	mean, right := provide(t, cell, nil), provide(t, cell, nil)
	for p, accepted := range map[*provider][]cellproto.SchemaHash{mean: nil, right: {old}} {
		claim := p.claim(cell)
		claim.SchemasAccepted = accepted
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	}
	peers := &book{}
	peers.add(mean.host, right.host)
	c := use(t, cell, peers, func(_ *CallerConfig, d *CallerDeps) {
		d.MadeFor = func(string) cellproto.SchemaHash { return old }
	})
	if _, err := c.Schema(t.Context(), cell.id.String()); err != nil { // the manifest is known now
		t.Fatal(err)
	}
	call(t, c, cell, "echo") // says what it was made for
	d, err := c.Race(t.Context(), cell.id.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range d.Ranking {
		if out := string(k.Peer) == peerText(mean.host); out != (k.Out != "") || out && k.Kind != cellproto.Incompatible {
			t.Errorf("%s is out: %q", k.Peer, k.Out)
		}
	}
}
