package call

import (
	"context"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multicodec"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// follow publishes a version of a cell after another one.
func follow(t *testing.T, version string, schema *cellproto.Schema, prev *published, key crypto.PrivKey, accepted ...cellproto.SchemaHash) *published {
	t.Helper()
	p := &published{schema: schema, blocks: map[cid.Cid][]byte{}, binary: signed.Digest{byte(len(version)), version[0]}}
	link := blockCID(t, multicodec.Json, schema.Canonical())
	m := signed.Manifest{
		Name: "fake", Version: version, Created: 1, Privacy: "public", Schema: signed.Link{Cid: link}, SchemaHash: schema.Hash(),
		Accepted: append(accepted, schema.Hash()),
		Artefacts: []signed.Artefact{{
			OS: "linux", Arch: "amd64", CID: signed.Link{Cid: blockCID(t, multicodec.Raw, []byte(version))}, Size: 7, BLAKE3: p.binary,
		}},
	}
	if prev != nil {
		m.Prev = signed.Link{Cid: prev.id}
		for id, block := range prev.blocks {
			p.blocks[id] = block
		}
	}
	var err error
	if p.block, p.id, err = signed.SealManifest(m, key); err != nil {
		t.Fatal(err)
	}
	p.blocks[p.id], p.blocks[link] = p.block, schema.Canonical()
	return p
}

// shelf is a Finder that has a book for each cell.
type shelf struct {
	books map[cid.Cid]*book
	names *book
}

func (s shelf) Find(ctx context.Context, id cid.Cid) (<-chan Found, func() string) {
	if b := s.books[id]; b != nil {
		return b.Find(ctx, id)
	}
	return (&book{}).Find(ctx, id)
}

func (s shelf) ResolveName(ctx context.Context, name string) (cid.Cid, error) {
	return s.names.ResolveName(ctx, name)
}

// Who calls by name is led to the newest version that serves what it was made for, for as long as somebody provides
// that.
func TestNamesLeadToTheVersionThatServesTheCaller(t *testing.T) {
	const name = "k51-fake"
	key := newKeyPair(t)
	newest := otherSchema()
	newest.Functions["more"] = cellproto.Function{}
	one := follow(t, "1.0.0", testSchema(), nil, key)
	two := follow(t, "2.0.0", otherSchema(), one, key)
	three := follow(t, "2.1.0", newest, two, key, otherSchema().Hash())
	first, second, third := provide(t, one, nil), provide(t, two, nil), provide(t, three, nil)
	for _, p := range []*provider{second, third} {
		p.program.schema = otherSchema()
	}
	peers := shelf{books: map[cid.Cid]*book{one.id: {}, two.id: {}, three.id: {}}, names: &book{names: map[string]cid.Cid{name: three.id}}}
	peers.books[one.id].add(first.host)
	peers.books[two.id].add(second.host)
	peers.books[three.id].add(third.host)
	var made cellproto.SchemaHash
	c := use(t, three, peers, func(_ *CallerConfig, d *CallerDeps) {
		d.MadeFor = func(string) cellproto.SchemaHash { return made }
	})
	ask := func(fn string, madeFor cellproto.SchemaHash) (*Result, error) {
		made = madeFor
		r := request(fn, "x")
		if madeFor == newest.Hash() || madeFor == otherSchema().Hash() {
			r.Payload = []byte(`{"words":"x"}`)
		}
		return try(t, c, name, r)
	}
	for _, tc := range []struct {
		of   string
		made cellproto.SchemaHash
		want *provider
	}{
		{"an old version", testSchema().Hash(), first},
		{"one that the newest serves as well", otherSchema().Hash(), third},
		{"the newest", newest.Hash(), third},
		{"one that nobody knows", cellproto.SchemaHash{9}, third},
		{"an old version again", testSchema().Hash(), first},
	} {
		res, err := ask("once", tc.made)
		if tc.made == (cellproto.SchemaHash{9}) {
			wantKind(t, err, cellproto.BadInput) // its arguments are those of the first
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.of, err)
		} else if res.Provider != peerText(tc.want.host) {
			t.Errorf("%s: %s has answered, not %s", tc.of, res.Provider, peerText(tc.want.host))
		}
	}
	// Once nobody provides that version any more, the newest says what is the matter.
	first.stop()
	delete(peers.books, one.id)
	later := use(t, three, peers, func(_ *CallerConfig, d *CallerDeps) {
		d.MadeFor = func(string) cellproto.SchemaHash { return testSchema().Hash() }
	})
	before := third.program.asked()
	if _, err := try(t, later, name, request("relay", "x")); err != nil { // this function is as it was
		t.Error(err)
	}
	if n := third.program.asked(); n != before+1 {
		t.Errorf("the newest was asked %d times", n-before)
	}
}

// Two callers of one cell who were made for different schemas each say their own.
func TestCallsSayWhatTheyWereMadeForThemselves(t *testing.T) {
	r := &remote{}
	none := r.calledAs(t.Context(), "")
	a, b := r.calledAs(t.Context(), "a"), r.calledAs(t.Context(), "b")
	c := r.calledAs(t.Context(), "")
	if none != t.Context() {
		t.Error("a call that says nothing costs something")
	}
	for _, one := range []struct {
		ctx  context.Context
		want string
	}{{a, "a"}, {b, "b"}, {c, ""}} {
		if got := r.madeFor(one.ctx); got != one.want {
			t.Errorf("%q, want %q", got, one.want)
		}
	}
	if got := r.madeFor(none); got != "b" {
		t.Errorf("what is no call says %q", got)
	}
}
