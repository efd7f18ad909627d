package node

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/call"
)

const (
	// missedAgain is how soon a cell is raced again whose best provider misses the objective, as long as
	// it is called: so five misses take seconds, not minutes.
	missedAgain = time.Second
	// placeTimeout bounds the making of one copy.
	placeTimeout = 10 * time.Minute
	// maxPlaced is of how many cells the races are remembered.
	maxPlaced = 256
	// compareAgain is how often a cell is compared with the mirrors of other versions.
	compareAgain = 5 * time.Minute
)

// placer hears how this nucleus's races go and has a copy made where the objective is missed. Calls go on
// meanwhile and never wait for it.
type placer struct {
	n      *nucleus
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	cells map[cid.Cid]*placement
}

// placement is what the placer knows of one cell.
type placement struct {
	races    []mirror.Outcome // the last MissesToPlace
	making   bool
	failures int
	failed   time.Time
	why      string    // of the last decision, for the log
	compared time.Time // with the mirrors of other versions
	follows  bool      // a version before it has a copy here that is in use
	public   bool      // which is announced
}

func newPlacer(n *nucleus, started *closers) *placer {
	p := &placer{n: n, cells: map[cid.Cid]*placement{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	started.add(func() { p.cancel(); p.work.Wait() })
	return p
}

// raced takes in a race and does what is due. It gives how soon the next one is wanted; 0: as usual.
func (p *placer) raced(out call.Raced) time.Duration {
	objective, err := mirror.ParseObjective(out.Objective, out.Manifest)
	if err != nil {
		p.n.log.Warn("a caller's objective cannot be read", zap.Stringer("cell", out.Cell), zap.Error(err))
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return 0
	}
	c := p.cells[out.Cell]
	if c == nil {
		if len(p.cells) >= maxPlaced {
			p.forget()
		}
		c = &placement{}
		p.cells[out.Cell] = c
	}
	c.races = append(c.races, mirror.Outcome{Score: out.Best})
	c.races = c.races[max(len(c.races)-mirror.MissesToPlace, 0):]
	s := mirror.Situation{
		Objective: objective, Races: c.races, Copy: p.copy(out.Cell, c), HereAllowed: true, Failures: c.failures, Failed: c.failed,
		Follows: c.follows,
	}
	if out.Manifest != nil {
		account := p.n.mirrors.account
		s.Placement, s.Friend = celltoml.Placement(out.Manifest.Privacy), out.Manifest.Owner == account
		if now := time.Now(); out.Best > 0 && now.Sub(c.compared) >= compareAgain {
			c.compared = now
			p.work.Go(func() { p.compare(out.Cell, out.Manifest, c, s) })
		}
	}
	if p.act(out.Cell, c, s) {
		return 0
	}
	if objective.Clone && !objective.Empty() && s.Copy == mirror.NoCopy && objective.Misses(c.races[len(c.races)-1]) {
		return missedAgain
	}
	return 0
}

// act does what is due about a cell, and reports whether a copy is being made now. p.mu is held.
func (p *placer) act(cell cid.Cid, c *placement, s mirror.Situation) bool {
	d := mirror.Decide(time.Now(), s)
	if d.Why != c.why {
		p.n.log.Debug("placement", zap.Stringer("cell", cell), zap.Stringer("action", d.Action), zap.String("why", d.Why))
		c.why = d.Why
	}
	if d.Action != mirror.MirrorHere {
		return false
	}
	c.making = true
	p.n.log.Info("copying a cell here", zap.Stringer("cell", cell), zap.String("why", d.Why))
	p.work.Go(func() { p.make(cell, c, c.public) })
	return true
}

// compare looks whether a cell that serves is a newer version of what is mirrored here. What it replaces is to
// retire, and if that was in use, gets a copy of the newer one for a successor.
func (p *placer) compare(cell cid.Cid, m *signed.Manifest, c *placement, s mirror.Situation) {
	ctx, cancel := context.WithTimeout(p.ctx, compareTimeout)
	defer cancel()
	before, err := p.n.mirrors.replacedBy(ctx, cell, m)
	if err != nil {
		p.n.log.Warn("cannot look for mirrors of older versions", zap.Stringer("cell", cell), zap.Error(err))
		return
	}
	for _, b := range before {
		if mirror.State(ctx, b.Dir) == ctl.Stopped {
			continue
		}
		p.mu.Lock()
		c.follows, c.public = true, c.public || b.Public
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Follows, s.Copy = c.follows, p.copy(cell, c); s.Follows && p.ctx.Err() == nil {
		p.act(cell, c, s)
	}
}

// compareTimeout bounds the reading of a cell's history.
const compareTimeout = time.Minute

func (p *placer) copy(cell cid.Cid, c *placement) mirror.Copy {
	if c.making {
		return mirror.Making
	}
	if _, ok := p.n.mirrors.store.Dir(cell); ok {
		return mirror.Here
	}
	return mirror.NoCopy
}

// forget makes room for another cell. p.mu is held.
func (p *placer) forget() {
	for id, c := range p.cells {
		if !c.making {
			delete(p.cells, id)
			return
		}
	}
}

// make makes the copy.
func (p *placer) make(cell cid.Cid, c *placement, public bool) {
	ctx, cancel := context.WithTimeout(p.ctx, placeTimeout)
	defer cancel()
	log := p.n.log.With(zap.Stringer("cell", cell))
	row, err := p.n.mirrors.add(ctx, cell.String(), public, func(text string) { log.Debug("copying", zap.String("step", text)) })
	p.mu.Lock()
	defer p.mu.Unlock()
	c.making = false
	if err == nil {
		c.failures, c.races, c.follows = 0, nil, false
		log.Info("the copy serves", zap.String("dir", row.Dir), zap.String("tier", row.SandboxTier))
		return
	}
	if cellproto.KindOf(err) != cellproto.Canceled {
		log.Warn("cannot copy it", zap.Error(err), zap.String("hint", cellproto.HintOf(err)))
	}
	c.failures++
	c.failed = time.Now()
}
