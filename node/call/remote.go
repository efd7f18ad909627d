package call

import (
	"context"
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
	trials    race.Trials
	hedges    race.Budget
	infos     map[cellproto.PeerID]peer.AddrInfo
	programs  map[cellproto.PeerID]program   // that adverts named
	suggested []Found                        // see Suggest
	racing    *running                       // nil when no race runs
	speeds    map[cellproto.PeerID]*speed    // of those whose bandwidth somebody wanted to know
	unchecked map[string]time.Time           // functions whose replies are not checked until then
	vouched   map[cellproto.PeerID]vouched   // of those whose replies this caller knows little of
	refused   map[cellproto.PeerID]time.Time // when a provider last did, of calls that others have answered
	silent    map[cellproto.PeerID]time.Time // likewise, of those on which it was silent; see dodged
	broke     time.Time                      // when the mirror here failed last
	compared  time.Time                      // when the providers were raced last since the mirror here is slow
	hurry     time.Duration                  // how soon CallerDeps.Raced wants another race; 0: as usual
	searched  func() string                  // how far the search of the last race got; nil: none was
	asked     asking                         // of the last race

	described  atomic.Pointer[description] // nil: it is not known yet
	describing chan struct{}               // taken while it is fetched
}

// description is what a cell's owner says of it.
type description struct {
	manifest *signed.Manifest
	schema   *cellproto.Schema // nil: the manifest names none
	replies  sync.Map          // promise, of functions that were called -> func() *cellproto.Fit
}

func (r *remote) describe(m *signed.Manifest, s *cellproto.Schema) {
	r.described.Store(&description{manifest: m, schema: s})
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

// madeFor gives what a call was made for, which ctx says; what is no call takes the link of the last one.
func (r *remote) madeFor(ctx context.Context) string {
	if made, ok := ctx.Value(madeKey{}).(string); ok {
		return made
	}
	return r.made.load()
}

// calledAs gives the context of a call by who was made for a schema, "" if that is not known.
func (r *remote) calledAs(ctx context.Context, made string) context.Context {
	if made == "" && r.made.load() == "" {
		return ctx // as most are; a context of its own is not for nothing
	}
	if made != "" {
		r.made.Store(made)
	}
	return context.WithValue(ctx, madeKey{}, made)
}

// as gives the version of a cell's schema by which a call is answered; nil: that is not known.
func (r *remote) as(ctx context.Context, schema *cellproto.Schema) *cellproto.Schema {
	made := r.madeFor(ctx)
	if schema == nil || len(schema.Older) == 0 || len(made) != len(cellproto.SchemaHash{}) {
		return schema
	}
	return schema.Version(cellproto.SchemaHash([]byte(made)))
}

type madeKey struct{}

// fit gives what the schema promises of a function's replies to a call, nil if that is not known.
func (r *remote) fit(ctx context.Context, function string) *cellproto.Fit {
	d := r.described.Load()
	if d == nil {
		return nil
	}
	schema := r.as(ctx, d.schema)
	if schema == nil {
		return nil
	}
	return d.fit(schema, function)
}

// fit reads it once: each reply is checked. schema is one of the versions in d.schema.
func (d *description) fit(schema *cellproto.Schema, function string) *cellproto.Fit {
	key := promise{schema, function}
	fit, ok := d.replies.Load(key)
	if !ok {
		fn, known := schema.Functions[function]
		if !known {
			return nil
		}
		fit, _ = d.replies.LoadOrStore(key, sync.OnceValue(fn.ReplyFit))
	}
	return fit.(func() *cellproto.Fit)()
}

type promise struct {
	schema   *cellproto.Schema
	function string
}

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
	passed   []shown // in trials while it ran; remote.mu guards it
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
		programs: map[cellproto.PeerID]program{}, describing: make(chan struct{}, maxDescribing),
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
// its manifest, and by the one that this caller was made for if the manifest accepts that. One that names no schema is
// judged by its hello.
func (r *remote) suits(ctx context.Context, claim *race.Claim) error {
	m, _ := r.description()
	if m == nil || m.SchemaHash.IsZero() || len(claim.Provided)+len(claim.Accepted) == 0 {
		return nil
	}
	if !claim.Fits([]cellproto.SchemaHash{m.SchemaHash}) {
		return cellproto.Errorf("call "+string(r.name), cellproto.Incompatible, "the provider serves no callers with the schema that the manifest names")
	}
	made := r.madeFor(ctx)
	if len(made) != len(cellproto.SchemaHash{}) {
		return nil
	}
	if hash := cellproto.SchemaHash([]byte(made)); slices.Contains(m.Accepted, hash) && !claim.Fits([]cellproto.SchemaHash{hash}) {
		return cellproto.Errorf("call "+string(r.name), cellproto.Incompatible, "the provider does not accept callers who were made for schema %s", hash.String()[:shownHash])
	}
	return nil
}

// vet checks what a provider has said of itself against the manifest, which was perhaps not known
// when it said so: the schema of its hello, and the program of its advert.
func (r *remote) vet(p cellproto.PeerID, schema []byte) error {
	m, _ := r.description()
	r.mu.Lock()
	says := r.programs[p]
	r.mu.Unlock()
	if err := fits(r.name, m, schema); err != nil {
		return err
	}
	return runs(r.name, m, says)
}

// program is what a provider's advert says of its program.
type program struct {
	binary    signed.Digest // zero: nothing
	repo, ref string
}

// runs checks that the program that a provider names, if it does, is one of the manifest's, or that the provider has
// built it from the source that the manifest names: that has another hash, since few builds give the same bytes.
func runs(cell cellproto.CellID, m *signed.Manifest, p program) error {
	if m == nil || p.binary == (signed.Digest{}) || slices.ContainsFunc(m.Artefacts, func(a signed.Artefact) bool { return a.BLAKE3 == p.binary }) {
		return nil
	}
	if src := m.Source; src != nil && src.Commit != "" && p.repo == src.Repo && p.ref == src.Commit {
		return nil
	}
	return cellproto.Errorf("call "+string(cell), cellproto.Corrupt, "the provider runs another program than the manifest names")
}

// claims notes which program a provider's advert names, and checks it if the manifest is known.
func (r *remote) claims(p cellproto.PeerID, ad *signed.Advert) error {
	says := program{ad.BinaryBLAKE3, ad.Repo, ad.Ref}
	r.mu.Lock()
	if len(r.programs) >= maxInfos {
		clear(r.programs)
	}
	r.programs[p] = says
	r.mu.Unlock()
	m, _ := r.description()
	return runs(r.name, m, says)
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

// replied notes that a provider has answered a call with an error, which is not to its credit.
func (c *Caller) replied(now time.Time, r *remote, p cellproto.PeerID) {
	r.mu.Lock()
	r.answered = now
	if r.winner.Peer == p {
		r.winner.Replied()
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
