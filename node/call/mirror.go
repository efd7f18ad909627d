package call

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// mirrorPause is how long a mirror that could not be called is left alone.
const mirrorPause = 30 * time.Second

// mirrorDir gives the directory of the mirror of a cell on this machine, if there is one that can be started. failing
// says that the providers are to be asked before it.
func (c *Caller) mirrorDir(id cid.Cid, name cellproto.CellID) (dir string, failing, ok bool) {
	if c.deps.Mirrors == nil {
		return "", false, false
	}
	dir, ok = c.deps.Mirrors.Dir(id)
	if !ok || dir == c.cfg.Dir {
		return "", false, false
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	ban, _ := c.reputation.Banned(now, mirrorPeer(name))
	until, bad := c.badMirrors[dir]
	return dir, ban != race.BanNone, !bad || now.After(until)
}

// mirrorPeer stands for the mirror of a cell on this machine in what is remembered of peers: it is judged as they are.
func mirrorPeer(cell cellproto.CellID) cellproto.PeerID { return "mirror:" + cellproto.PeerID(cell) }

// callMirror calls a mirror on this machine, which is started if it sleeps. What it has provably not run, and
// what may be repeated, goes to the providers.
func (c *Caller) callMirror(ctx context.Context, t resolved, req *cellproto.Request) (*Result, error) {
	r, p := c.remote(t.mirrorOf), policy{}
	if err := p.read(c.describeMirror(r, t.dir), req); err != nil {
		return nil, err
	}
	var res *Result
	var err error
	if p.idempotent && anywhere(req) {
		var others bool
		if res, others, err = c.relieveMirror(ctx, t.dir, r, req, &p); others {
			return res, err
		}
	} else {
		res, err = c.askMirrorTwice(ctx, t.dir, r, req, &p)
	}
	if err == nil {
		return res, nil
	}
	return c.afterMirror(ctx, t.dir, r, req, &p, err)
}

// askMirrorTwice is askMirror, and once more where that may be: it may just have been restarted.
func (c *Caller) askMirrorTwice(ctx context.Context, dir string, r *remote, req *cellproto.Request, p *policy) (*Result, error) {
	res, err := c.askMirror(ctx, dir, r, req)
	if err != nil && p.idempotent && cellproto.KindOf(err) == cellproto.MayHaveRun && rewind(req) {
		return c.askMirror(ctx, dir, r, req)
	}
	return res, err
}

// lastMirror asks a mirror that fails, since there is no provider, or none can be reached.
func (c *Caller) lastMirror(ctx context.Context, dir string, r *remote, req *cellproto.Request) (*Result, error) {
	var p policy
	if err := p.read(c.describeMirror(r, dir), req); err != nil {
		return nil, err
	}
	return c.askMirrorTwice(ctx, dir, r, req, &p)
}

// mirrorIsFinal says that the providers are not to be asked what a mirror has failed at: it is the same anywhere, or it
// may have run. An error of the function is believed: the program was verified, and runs here. All else that it says of a
// call it may say for being broken.
func (p *policy) mirrorIsFinal(ctx context.Context, r *remote, req *cellproto.Request, err error) bool {
	switch kind := cellproto.KindOf(err); {
	case kind == cellproto.BadInput:
		return r.misfits(ctx, req)
	case kind.NeverRan():
		return false
	case kind == cellproto.Canceled, kind == cellproto.FuncError && cellproto.KindOf(errors.Unwrap(err)) != cellproto.BadReply:
		return true
	}
	return !p.idempotent
}

// afterMirror has the providers answer what a mirror has failed at, if they may be asked.
func (c *Caller) afterMirror(ctx context.Context, dir string, r *remote, req *cellproto.Request, p *policy, err error) (*Result, error) {
	if ctx.Err() != nil || p.mirrorIsFinal(ctx, r, req, err) {
		return nil, err
	}
	kind := cellproto.KindOf(err)
	if kind == cellproto.Unavailable || kind == cellproto.Incompatible {
		c.leaveAlone(dir, err)
	}
	if !rewind(req) {
		return nil, notAgain(err)
	}
	req.Header.Token = nil
	begin := time.Now()
	res, rerr := c.callRemote(ctx, r, req)
	refused := kind == cellproto.BadInput || refuses(kind)
	switch rkind := cellproto.KindOf(rerr); {
	case rkind == cellproto.NotFound, refused && rkind.NeverRan():
		return nil, err // there is nobody else, or who is says the same: why the mirror fails says more
	case refused && (rerr == nil || rkind == cellproto.FuncError):
		c.mirrorFailed(r, begin)
	}
	return res, rerr
}

// askMirror makes one attempt with a mirror. One that cannot even be connected to is Unavailable, whatever
// the reason.
func (c *Caller) askMirror(ctx context.Context, dir string, r *remote, req *cellproto.Request) (*Result, error) {
	if err := c.tryMirror(ctx, dir); err != nil && ctx.Err() != nil {
		return nil, err
	} else if err != nil {
		return nil, cellproto.Errorf("start "+dir, cellproto.Unavailable, "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	req.Header.Token = nil
	begin := time.Now()
	res, err := c.callDirect(ctx, resolved{dir: dir}, req)
	if err == nil {
		res.Source = "mirror"
	}
	if ctx.Err() == nil && !lostBody(req) {
		c.judgeMirror(dir, r, err, begin)
	}
	return res, err
}

// judgeMirror notes what became of a call to a mirror. That it refuses one is held against it once a provider takes that.
func (c *Caller) judgeMirror(dir string, r *remote, err error, begin time.Time) {
	kind := cellproto.KindOf(err)
	switch {
	case kind == 0:
		now := time.Now()
		took := now.Sub(begin)
		c.observe(now, mirrorPeer(r.name), nil, took)
		if took >= lateLeast {
			c.compareMirror(now, dir, r)
		}
	case kind.NeverRan(), kind == cellproto.FuncError && cellproto.KindOf(errors.Unwrap(err)) != cellproto.BadReply:
	default:
		c.mirrorFailed(r, begin)
	}
}

// compareMirror has the providers of a cell raced in the background whose mirror is slow, as often as a winner is raced
// again. If the best one is much quicker the mirror is left alone for a while. It may be its machine that is busy.
func (c *Caller) compareMirror(now time.Time, dir string, r *remote) {
	mirror := c.observed(mirrorPeer(r.name))
	r.mu.Lock()
	due := mirror.Calls >= comparedCalls && now.Sub(r.compared) >= mirrorPause
	if due {
		r.compared = now
	}
	r.mu.Unlock()
	if !due {
		return
	}
	c.work.Go(func() {
		d, err := c.waitRace(c.ctx, r)
		if err != nil || d.Winner == "" {
			return
		}
		slow, quick := mirror.P99.Duration(), expected(&d.Ranking[0])
		if quick < slow*3/4 {
			c.leaveAlone(dir, cellproto.Errorf("call "+string(r.name), cellproto.Timeout, "99 of 100 calls take up to %v, and %v at %s", slow, quick, d.Winner))
		}
	})
}

// comparedCalls is how many calls of a mirror were measured before it is compared.
const comparedCalls = 10

// mirrorFailed notes that a mirror has failed at a call that began then. What was lost with a program fails with it, as
// one; what began after that has met the next program.
func (c *Caller) mirrorFailed(r *remote, begin time.Time) {
	now := time.Now()
	r.mu.Lock()
	same := !begin.After(r.broke)
	r.broke = now
	r.mu.Unlock()
	if same {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reputation.FailedApart(now, mirrorPeer(r.name))
}

// describeMirror gives the schema of a mirror, from its directory if it is not known yet; nil: there is none.
func (c *Caller) describeMirror(r *remote, dir string) *cellproto.Schema {
	if m, s := r.description(); m != nil {
		return s
	}
	read := func(suffix string, most int64) ([]byte, error) {
		f, err := os.Open(filepath.Join(dir, "published", string(r.name)+suffix))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, most))
	}
	block, err := read(".cbor", cellproto.MaxManifest)
	if err != nil {
		return nil
	}
	m, err := signed.OpenManifest(r.id, block)
	if err != nil {
		return nil
	}
	var s *cellproto.Schema
	if raw, err := read(".schema.json", cellproto.MaxSchema); err == nil {
		if s, err = cellproto.ParseSchema(raw); err != nil || s.Hash() != m.SchemaHash {
			return nil
		}
	}
	r.describe(m, s)
	return s
}

// tryMirror connects to a mirror, which is started if it sleeps. One that cannot be is left alone for a
// while, whatever the reason.
func (c *Caller) tryMirror(ctx context.Context, dir string) error {
	_, err := c.direct(ctx, resolved{dir: dir})
	if err != nil && ctx.Err() == nil {
		c.leaveAlone(dir, err)
	}
	return err
}

// leaveAlone has a mirror not be tried for a while.
func (c *Caller) leaveAlone(dir string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until, bad := c.badMirrors[dir]; bad && time.Now().Before(until) {
		return
	}
	c.deps.Log.Warn("a mirror is not called for a while", zap.String("dir", dir), zap.Error(why))
	if len(c.badMirrors) >= maxNames {
		clear(c.badMirrors)
	}
	c.badMirrors[dir] = time.Now().Add(mirrorPause)
}

// Raced is a race of which CallerDeps.Raced is told, on the race's own goroutine. What that gives is how
// soon another one is wanted, as long as the cell is called; 0: as usual.
type Raced struct {
	Cell      cid.Cid
	Manifest  *signed.Manifest   // nil: it is not known yet
	Best      time.Duration      // what 99 of 100 calls of the winner should stay under; 0: there was none
	Answered  []cellproto.PeerID // the providers that could be measured
	Objective []byte             // the caller's slo.json for this cell, else for all cells; nil: there is none

	// Bandwidth gives what the winner sends, in Mbit/s, and measures it if that is due; 0: it cannot be
	// measured. It takes up to seconds. Nil: there was no winner.
	Bandwidth func() int64
}

// expected is what 99 of 100 calls of the winner should stay under. Of one that only claims it, its failures count as the time
// that they cost: else who kills each call, and is near, would meet every objective.
func expected(w *race.Ranked) time.Duration {
	if w.Own {
		return w.CallP99.Duration()
	}
	return (w.CallP99 + w.Parts.Reputation).Duration()
}

const objectiveFile = "slo.json"

// tellRaced tells of a race that has ended.
func (c *Caller) tellRaced(r *remote, d *race.Decision) {
	if c.deps.Raced == nil {
		return
	}
	out := Raced{Cell: r.id, Objective: c.cache.read(cellDirName(string(r.name)), objectiveFile)}
	if out.Objective == nil {
		out.Objective = c.cache.read(objectiveFile)
	}
	out.Manifest, _ = r.description()
	out.Bandwidth = c.winnerSpeed(r, d)
	if d.Winner != "" {
		out.Best = expected(&d.Ranking[0])
	}
	for _, k := range d.Ranking {
		if k.Out == "" {
			out.Answered = append(out.Answered, k.Peer)
		}
	}
	again := c.deps.Raced(out)
	r.mu.Lock()
	r.hurry = again
	r.mu.Unlock()
}

// Source is what is needed to copy a published cell.
type Source struct {
	CID    cid.Cid
	Block  []byte            // the manifest; its hash and signature were checked
	Schema *cellproto.Schema // nil: it names none
	From   []peer.AddrInfo   // the providers, the best first
}

// Sources finds a published cell and those who provide it. That no nucleus does is no error, as long as
// somebody has the manifest.
func (c *Caller) Sources(ctx context.Context, target string) (*Source, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	t, err := c.resolvePublished(ctx, target)
	if err != nil {
		return nil, err
	}
	if !t.cell.Defined() {
		return nil, cellproto.Errorf("copy "+target, cellproto.BadInput, "%s is a nucleus itself, and not published", t.where()).
			WithHint("Give the CID that cellctl publish printed.")
	}
	r := c.remote(t.cell)
	d, err := c.waitRace(ctx, r)
	if err == nil {
		err = c.explain(r, "copy "+target, d)
	}
	src := &Source{CID: t.cell}
	var ids []peer.ID
	if d != nil {
		r.mu.Lock()
		for _, p := range ranked(d) {
			if info, ok := r.infos[p]; ok {
				src.From, ids = append(src.From, info), append(ids, info.ID)
			}
		}
		r.mu.Unlock()
	}
	limited, done := context.WithTimeout(ctx, cellproto.DefaultTimeout)
	defer done()
	block, m, schema, ferr := c.fetchDescription(limited, r.id, ids)
	if ferr != nil {
		if err != nil {
			return nil, err // that nobody was found says why
		}
		return nil, ferr
	}
	r.describe(m, schema)
	src.Block, src.Schema = block, schema
	if celltoml.Placement(m.Privacy) == celltoml.PlacementFriends {
		c.present(limited, r, ids)
	}
	return src, nil
}

// maxPresent is to how many providers of a cell for friends it is said who asks.
const maxPresent = 4

// present tells providers who we are, since they give what is for friends to none but these. Who cannot be told
// refuses later.
func (c *Caller) present(ctx context.Context, r *remote, ids []peer.ID) {
	for _, id := range ids[:min(len(ids), maxPresent)] {
		p := cellproto.PeerID(id.String())
		lk, err := c.reach(ctx, r, p, false)
		if err == nil { // a token counts once it was shown
			_, err = c.send(ctx, lk, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}}, string(p), string(r.name))
		}
		if err != nil {
			c.deps.Log.Debug("a provider was not told who we are", zap.String("peer", string(p)), zap.Error(err))
		}
	}
}
