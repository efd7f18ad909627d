package call

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

func containsAddr(addrs []multiaddr.Multiaddr, a multiaddr.Multiaddr) bool {
	for _, b := range addrs {
		if b.Equal(a) {
			return true
		}
	}
	return false
}

// describe gives the manifest and the schema of a published cell: from memory, from the cache, or
// from the peers named. It is fetched once; a lying provider cannot falsify it, since both are
// named by their hash.
func (c *Caller) describe(ctx context.Context, r *remote, from ...cellproto.PeerID) (*signed.Manifest, *cellproto.Schema, error) {
	if m, s := r.description(); m != nil {
		return m, s, nil
	}
	late := time.NewTimer(describeStagger)
	defer late.Stop()
	select {
	case r.describing <- struct{}{}:
		defer func() { <-r.describing }()
	case <-late.C: // those before us wait for silent peers, perhaps; perhaps we know a better one
	case <-ctx.Done():
		return nil, nil, cellproto.Errorf("fetch manifest "+string(r.name), cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
	if m, s := r.description(); m != nil {
		return m, s, nil
	}
	block, m, s, err := c.fetchDescription(ctx, r.id, r.sources(from))
	if err != nil {
		return nil, nil, err
	}
	r.describe(m, s)
	c.cache.described(r, block, s)
	return m, s, nil
}

// sources gives the peers to ask for blocks of the cell: those named first, then a few of the others
// that are known, since a named one may be silent.
func (r *remote) sources(named []cellproto.PeerID) []peer.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []peer.ID
	for _, p := range named {
		if info, ok := r.infos[p]; ok {
			out = append(out, info.ID)
		}
	}
	for _, info := range r.infos {
		if len(out) >= cellproto.MaxProbed {
			break
		}
		if !slices.Contains(out, info.ID) {
			out = append(out, info.ID)
		}
	}
	return out
}

// describeAhead fetches the description while the race goes on. A call that needs it and does not
// find it asks again.
func (c *Caller) describeAhead(r *remote, from cellproto.PeerID) {
	ctx, cancel := context.WithTimeout(c.ctx, cellproto.DefaultTimeout)
	defer cancel()
	if _, _, err := c.describe(ctx, r, from); err != nil {
		c.deps.Log.Debug("cannot fetch the description", zap.String("cell", string(r.name)), zap.Error(err))
	}
}

func (c *Caller) fetchDescription(ctx context.Context, id cid.Cid, peers []peer.ID) ([]byte, *signed.Manifest, *cellproto.Schema, error) {
	block, m, err := c.fetchManifest(ctx, id, peers)
	if err != nil || !m.Schema.Defined() {
		return block, m, nil, err
	}
	raw, err := c.deps.Blocks.Block(ctx, m.Schema.Cid, cellproto.MaxSchema, peers)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := cellproto.ParseSchema(raw)
	if err != nil {
		return nil, nil, nil, cellproto.Errorf("read schema of "+id.String(), cellproto.Corrupt, "%w", err)
	}
	if s.Hash() != m.SchemaHash {
		return nil, nil, nil, cellproto.Errorf("read schema of "+id.String(), cellproto.Corrupt, "it does not have the hash that the manifest names")
	}
	return block, m, s, nil
}

func (c *Caller) fetchManifest(ctx context.Context, id cid.Cid, peers []peer.ID) ([]byte, *signed.Manifest, error) {
	if c.deps.Blocks == nil {
		return nil, nil, cellproto.Errorf("fetch manifest "+id.String(), cellproto.Unavailable, "this nucleus has no network")
	}
	var m *signed.Manifest
	block, err := c.deps.Blocks.Checked(ctx, id, cellproto.MaxManifest, peers, func(block []byte) (err error) {
		m, err = signed.OpenManifest(id, block)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return block, m, nil
}

// Schema gives the schema of a target, for people and for building arguments.
func (c *Caller) Schema(ctx context.Context, target string) (*cellproto.Schema, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	t, err := c.resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	t.made = ""      // it is what is there now that is asked for
	var broken error // why there is no use in the mirror here
	if t.mirrorOf.Defined() {
		if s := c.describeMirror(c.remote(t.mirrorOf), t.dir); s != nil { // its manifest names it, whatever its nucleus does
			return s, nil
		}
		if broken = c.tryMirror(ctx, t.dir); broken != nil {
			t = resolved{cell: t.mirrorOf}
		}
	}
	if t.cell.Defined() {
		r := c.remote(t.cell)
		_, s, err := c.describeFound(ctx, r)
		if broken != nil && cellproto.KindOf(err) == cellproto.NotFound {
			return nil, broken // there is nobody else: this says more
		}
		if err == nil && s == nil {
			err = cellproto.Errorf("schema of "+target, cellproto.NotFound, "the cell was published without a schema")
		}
		return s, err
	}
	res, err := c.callDirect(ctx, t, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
	if err != nil {
		return nil, err
	}
	raw, err := res.Reply.Bytes(cellproto.MaxSchema)
	if err != nil {
		return nil, err
	}
	return cellproto.ParseSchema(raw)
}

// describeFound is describe for a cell of which perhaps no provider is known yet.
func (c *Caller) describeFound(ctx context.Context, r *remote) (*signed.Manifest, *cellproto.Schema, error) {
	if m, s := r.description(); m != nil {
		return m, s, nil
	}
	r.mu.Lock()
	d := r.decision
	r.mu.Unlock()
	if d == nil {
		var err error
		if d, err = c.waitRace(ctx, r); err != nil {
			return nil, nil, err
		}
		if err := c.explain(r, "find "+string(r.name), d); err != nil {
			return nil, nil, err
		}
	}
	return c.describe(ctx, r, ranked(d)...)
}

func ranked(d *race.Decision) []cellproto.PeerID {
	var ids []cellproto.PeerID
	for _, k := range d.Ranking {
		if k.Out == "" {
			ids = append(ids, k.Peer)
		}
	}
	return ids
}

// Find streams the providers of a target to each, as they are found; who is on this LAN or in the static list when it
// says that it has the cell. It fails with NotFound when there are none.
func (c *Caller) Find(ctx context.Context, target string, each func(Found) error) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	t, err := c.resolvePublished(ctx, target)
	if err != nil {
		return err
	}
	if t.cell.Defined() && c.deps.Finder == nil {
		return cellproto.Errorf("find "+target, cellproto.Unavailable, "this nucleus has no network")
	}
	if !t.cell.Defined() {
		return cellproto.Errorf("find "+target, cellproto.BadInput, "%s is a nucleus itself: there is nothing to find", t.where()).
			WithHint("Publish it first, or give the CID that cellctl publish printed.")
	}
	n := 0
	ctx, stop := context.WithCancel(ctx)
	found, progress := c.deps.Finder.Find(ctx, t.cell)
	s := &sifting{c: c, cell: t.cell, out: make(chan Found)}
	go s.run(ctx, found)
	defer func() { // whatever each said, all that were begun have ended
		stop()
		for range s.out { // nobody wants it any more
		}
	}()
	for f := range s.out {
		if err := each(f); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		return nil
	}
	return cellproto.Errorf("find "+target, cellproto.NotFound, "no provider found: %s%s", progress(), s.said()).
		WithHint(notFoundHint)
}

// sifting passes on of those that a search finds who provides a cell: who has announced it, and of the others those
// who say that they have it.
type sifting struct {
	c            *Caller
	cell         cid.Cid
	out          chan Found // closed at the end
	lacks, quiet atomic.Int32
}

func (s *sifting) run(ctx context.Context, found <-chan Found) {
	defer close(s.out)
	var asked sync.WaitGroup
	defer asked.Wait()
	for f := range found {
		if f.Source != sourceMDNS && f.Source != sourceStatic {
			s.pass(ctx, f)
			continue
		}
		asked.Go(func() {
			switch err := s.ask(ctx, f.Info); cellproto.KindOf(err) {
			case 0, cellproto.Overloaded: // it has it, and has no room now
				s.pass(ctx, f)
			case cellproto.NotFound:
				s.lacks.Add(1)
			default:
				s.quiet.Add(1)
			}
		})
	}
}

func (s *sifting) pass(ctx context.Context, f Found) {
	select {
	case s.out <- f:
	case <-ctx.Done():
	}
}

// ask is nil if a peer has an advert for the cell.
func (s *sifting) ask(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	if err := s.c.deps.Host.Connect(network.WithAllowLimitedConn(ctx, "ask for an advert"), info); err != nil {
		return cellproto.Errorf("ask "+info.ID.String(), unavailable(ctx), "%w", err)
	}
	_, err := askAdvert(ctx, s.c.deps.Host, info.ID, s.cell)
	return err
}

// said tells of those who were asked and not passed on.
func (s *sifting) said() string {
	text := lacking(int(s.lacks.Load()))
	if n := s.quiet.Load(); n > 0 {
		text += fmt.Sprintf("; %d nearby or listed did not answer", n)
	}
	return text
}

// Race measures the providers of a target now, patiently, and gives the ranking.
func (c *Caller) Race(ctx context.Context, target string) (*race.Decision, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	t, err := c.resolvePublished(ctx, target)
	if err != nil {
		return nil, err
	}
	if !t.cell.Defined() {
		return nil, notRaced("race "+target, t)
	}
	return c.raceNow(ctx, c.remote(t.cell), "race "+target, true)
}

// raceNow waits for the race that runs, or holds one.
func (c *Caller) raceNow(ctx context.Context, r *remote, op string, patient bool) (*race.Decision, error) {
	r.mu.Lock()
	run := r.racing
	if run == nil {
		run = c.beginRace(r, race.Expired, patient)
	}
	r.mu.Unlock()
	select {
	case <-run.done:
	case <-ctx.Done():
		return nil, cellproto.Errorf(op, r.lateKind(ctx), "not finished in time: %s", c.progress(r)).
			WithHint("A longer --timeout; cellctl doctor says whether this machine reaches the network.")
	}
	if run.err != nil {
		return nil, run.err
	}
	return run.decision, c.explain(r, op, run.decision)
}

// Version is one published version of a cell.
type Version struct {
	CID      cid.Cid
	Manifest *signed.Manifest
	Note     string // of the last one: why there is none before it, though it names one
}

// maxHistory bounds how far back History walks.
const maxHistory = 256

// History gives the versions of a published cell, newest first, by following prev. It ends with a
// note at one that nobody has any more, or that somebody else has signed: anybody can name any
// manifest as the one before.
func (c *Caller) History(ctx context.Context, id cid.Cid) ([]Version, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	versions, _, err := c.history(ctx, id)
	return versions, err
}

// VersionSchema gives the schema of one of the versions that History gives; nil: it has none.
func (c *Caller) VersionSchema(ctx context.Context, id cid.Cid, which func([]Version) (cid.Cid, error)) (Version, *cellproto.Schema, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	versions, from, err := c.history(ctx, id)
	if err != nil {
		return Version{}, nil, err
	}
	chosen, err := which(versions)
	if err != nil {
		return Version{}, nil, err
	}
	i := slices.IndexFunc(versions, func(v Version) bool { return v.CID == chosen })
	if i < 0 {
		return Version{}, nil, cellproto.Errorf("read history", cellproto.NotFound, "%s is no version of this cell", chosen)
	}
	_, _, schema, err := c.fetchDescription(ctx, chosen, from)
	return versions[i], schema, err
}

// history gives the versions of a cell, and the peers that they can be had from.
func (c *Caller) history(ctx context.Context, id cid.Cid) (versions []Version, from []peer.ID, err error) {
	return c.walk(ctx, id, maxHistory, func(Version) bool { return true })
}

// walk is history, of most versions at most, that ends when more says that it has seen enough.
func (c *Caller) walk(ctx context.Context, id cid.Cid, most int, more func(Version) bool) (versions []Version, from []peer.ID, err error) {
	m, err := c.localManifest(ctx, id)
	if err != nil {
		r := c.remote(id)
		if m, _, err = c.describeFound(ctx, r); err != nil {
			return nil, nil, err
		}
		r.mu.Lock()
		for _, info := range r.infos {
			from = append(from, info.ID)
		}
		r.mu.Unlock()
	}
	out := []Version{{CID: id, Manifest: m}}
	for m.Prev.Defined() && more(out[len(out)-1]) {
		last, prev := &out[len(out)-1], m.Prev.Cid
		if len(out) == most {
			last.Note = "there are older versions, which are not looked at"
			break
		}
		_, before, err := c.fetchManifest(ctx, prev, from)
		if err != nil {
			last.Note = fmt.Sprintf("the version before, %s, cannot be had: %v", prev, err)
			break
		}
		if before.Owner != m.Owner {
			last.Note = fmt.Sprintf("the version before, %s, is signed by another owner, %s", prev, before.Owner)
			break
		}
		m = before
		out = append(out, Version{CID: prev, Manifest: m})
	}
	return out, from, nil
}

// localManifest reads a manifest that this nucleus has itself.
func (c *Caller) localManifest(ctx context.Context, id cid.Cid) (*signed.Manifest, error) {
	if c.deps.Own == nil || c.deps.Own.Serving().Cell != cellproto.CellID(id.String()) {
		return nil, cellproto.Errorf("read manifest", cellproto.NotFound, "not this nucleus's own")
	}
	_, m, err := c.fetchManifest(ctx, id, nil)
	return m, err
}

// Resolve gives the CID that a target stands for, and false when it is a nucleus itself.
func (c *Caller) Resolve(ctx context.Context, target string) (cid.Cid, bool, error) {
	t, err := c.resolve(ctx, target)
	if t.mirrorOf.Defined() {
		t.cell = t.mirrorOf
	}
	return t.cell, t.cell.Defined(), err
}

// Known gives the manifest of a cell that was described before; nil: it was not.
func (c *Caller) Known(id cid.Cid) *signed.Manifest {
	m, _ := c.remote(id).description()
	return m
}

// Where gives the directory that a target is in on this machine, if it is, and the CID that it stands for, if
// that is what it names.
func (c *Caller) Where(ctx context.Context, target string) (dir string, id cid.Cid, err error) {
	t, err := c.resolve(ctx, target)
	if id = t.cell; t.mirrorOf.Defined() {
		id = t.mirrorOf
	}
	return t.dir, id, err
}
