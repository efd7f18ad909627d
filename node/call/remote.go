package call

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// remote is what the caller knows of one published cell.
type remote struct {
	id   cid.Cid
	name cellproto.CellID
	used time.Time // by a call, last; Caller.mu guards it
	made madeFor

	mu        sync.Mutex
	answered  time.Time // when a provider did last
	winner    race.Cached
	decision  *race.Decision // the last one with a winner
	infos     map[cellproto.PeerID]peer.AddrInfo
	binaries  map[cellproto.PeerID]signed.Digest // the programs that adverts named
	suggested []Found                            // see Suggest
	racing    *running                           // nil when no race runs
	speeds    map[cellproto.PeerID]*speed        // of those whose bandwidth somebody wanted to know
	unchecked map[string]time.Time               // functions whose replies are not checked until then
	hurry     time.Duration                      // how soon CallerDeps.Raced wants another race; 0: as usual
	searched  func() string                      // how far the search of the last race got; nil: none was

	described  atomic.Pointer[description] // nil: it is not known yet
	describing chan struct{}               // taken while it is fetched
}

// description is what a cell's owner says of it.
type description struct {
	manifest *signed.Manifest
	schema   *cellproto.Schema // nil: the manifest names none
}

func (r *remote) describe(m *signed.Manifest, s *cellproto.Schema) {
	r.described.Store(&description{m, s})
}

// description gives what is known already; nil when nothing is.
func (r *remote) description() (*signed.Manifest, *cellproto.Schema) {
	if d := r.described.Load(); d != nil {
		return d.manifest, d.schema
	}
	return nil, nil
}

// madeFor is the hash of a schema as bytes, "" for none.
type madeFor struct{ p atomic.Pointer[string] }

// Store notes what the last call was made for. It allocates only when that is another one.
func (m *madeFor) Store(hash string) {
	if m.load() != hash {
		kept := hash // not hash itself, which would be allocated each time then
		m.p.Store(&kept)
	}
}

func (m *madeFor) load() string {
	if p := m.p.Load(); p != nil {
		return *p
	}
	return ""
}

func (r *remote) madeFor() string { return r.made.load() }

// maxDescribing is how many fetches of one description there are at once; who has waited for
// describeStagger does not wait for the others any longer.
const (
	maxDescribing   = 3
	describeStagger = 500 * time.Millisecond
)

// maxRemotes is how many published cells are remembered in memory.
const maxRemotes = 256

// running is a race that others can wait for.
type running struct {
	done     chan struct{}
	decision *race.Decision
	err      error
}

// remote gives what is known of a published cell, from memory or else from the cache.
func (c *Caller) remote(id cid.Cid) *remote { return c.remoteAt(id, time.Now()) }

// remoteAt is remote for who knows the time.
func (c *Caller) remoteAt(id cid.Cid, now time.Time) *remote {
	c.mu.Lock()
	r := c.remotes[id]
	if r != nil {
		r.used = now
		c.mu.Unlock()
		return r
	}
	c.mu.Unlock()
	fresh := &remote{
		id: id, name: cellproto.CellID(id.String()), used: now, infos: map[cellproto.PeerID]peer.AddrInfo{},
		binaries: map[cellproto.PeerID]signed.Digest{}, describing: make(chan struct{}, maxDescribing),
	}
	c.cache.load(fresh)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.remotes[id]; r != nil { // somebody was quicker
		return r
	}
	if len(c.remotes) >= maxRemotes {
		c.forgetOldest()
	}
	c.remotes[id] = fresh
	return fresh
}

// forgetOldest makes room for another remote. Calls and races that use it go on. c.mu is held.
func (c *Caller) forgetOldest() {
	var oldest *remote
	for _, r := range c.remotes {
		if oldest == nil || r.used.Before(oldest.used) {
			oldest = r
		}
	}
	delete(c.remotes, oldest.id)
}

// fits checks that the schema that a peer serves is the manifest's.
func (r *remote) fits(schema []byte) error {
	m, _ := r.description()
	return fits(r.name, m, schema)
}

func fits(cell cellproto.CellID, m *signed.Manifest, schema []byte) error {
	if m == nil || m.SchemaHash.IsZero() || len(schema) == 0 || string(schema) == string(m.SchemaHash[:]) {
		return nil
	}
	return cellproto.Errorf("call "+string(cell), cellproto.Incompatible, "the provider serves another schema than the manifest names")
}

// suits checks that a provider says in its advert that it serves callers who know the cell by the schema of
// its manifest. One that names no schema is judged by its hello.
func (r *remote) suits(claim *race.Claim) error {
	m, _ := r.description()
	if m == nil || m.SchemaHash.IsZero() || len(claim.Provided)+len(claim.Accepted) == 0 || claim.Fits([]cellproto.SchemaHash{m.SchemaHash}) {
		return nil
	}
	return cellproto.Errorf("call "+string(r.name), cellproto.Incompatible, "the provider serves no callers with the schema that the manifest names")
}

// vet checks what a provider has said of itself against the manifest, which was perhaps not known
// when it said so: the schema of its hello, and the program of its advert.
func (r *remote) vet(p cellproto.PeerID, schema []byte) error {
	m, _ := r.description()
	r.mu.Lock()
	binary := r.binaries[p]
	r.mu.Unlock()
	if err := fits(r.name, m, schema); err != nil {
		return err
	}
	return runs(r.name, m, binary)
}

// runs checks that the program that a provider names, if it does, is one of the manifest's.
func runs(cell cellproto.CellID, m *signed.Manifest, binary signed.Digest) error {
	if m == nil || binary == (signed.Digest{}) || slices.ContainsFunc(m.Artefacts, func(a signed.Artefact) bool { return a.BLAKE3 == binary }) {
		return nil
	}
	return cellproto.Errorf("call "+string(cell), cellproto.Corrupt, "the provider runs another program than the manifest names")
}

// claims notes which program a provider's advert names, and checks it if the manifest is known.
func (r *remote) claims(p cellproto.PeerID, binary signed.Digest) error {
	r.mu.Lock()
	if len(r.binaries) >= maxInfos {
		clear(r.binaries)
	}
	r.binaries[p] = binary
	r.mu.Unlock()
	m, _ := r.description()
	return runs(r.name, m, binary)
}

func (c *Caller) succeeded(now time.Time, r *remote, p cellproto.PeerID, took time.Duration) {
	r.mu.Lock()
	r.answered = now
	if r.winner.Peer == p {
		r.winner.Called(took)
	}
	c.raceAgainLocked(now, r)
	r.mu.Unlock()
}

func (c *Caller) failed(now time.Time, r *remote, p cellproto.PeerID) {
	r.mu.Lock()
	if r.winner.Peer == p {
		r.winner.Failed()
	}
	c.raceAgainLocked(now, r)
	r.mu.Unlock()
}
