package node

import (
	"context"
	"slices"
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
	// missedAgain is how soon a cell is raced again whose best provider misses the objective, as long as it is called
	// and that was not often enough: so five misses take seconds, not minutes.
	missedAgain = time.Second / 2
	// goneAgain is the same where there is a copy near by, which is not found at the moment.
	goneAgain = 3 * time.Second
	// placeTimeout bounds the making of one copy.
	placeTimeout = 10 * time.Minute
	// maxPlaced is of how many cells the races are remembered.
	maxPlaced = 256
	// thereGrace is how long the copy at a donor may be missing in races before another place is looked for.
	thereGrace = 20 * time.Second
	// brokenFor is how long a donor is not asked that has said yes and then not done it.
	brokenFor = 15 * time.Minute
	// compareAgain is how often a cell is compared with the mirrors of other versions.
	compareAgain = 5 * time.Minute
)

// placer hears how this nucleus's races go and has a copy made where the objective is missed: at a donor
// near by, else here. Calls go on meanwhile and never wait for it. What it does is in placing.go.
type placer struct {
	n      *nucleus
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	cells map[cid.Cid]*placement
}

// placement is what the placer knows of one cell. placer.mu guards it.
type placement struct {
	name      string
	situation mirror.Situation   // as of the last race; its Races, Donors and what failed count
	answered  []cellproto.PeerID // in the last race
	making    bool
	there     *there
	why       string // of the last decision
	step      string // what is going on
	since     time.Time
	compared  time.Time // with the mirrors of other versions
	public    bool      // the mirror that this one follows is announced
}

// there is a copy at a donor.
type there struct {
	donor, mirror cellproto.PeerID
	seen          time.Time // in a race, or made
	raced         bool      // it was seen in a race
}

func newPlacer(n *nucleus, started *closers) *placer {
	p := &placer{n: n, cells: map[cid.Cid]*placement{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	started.add(func() { p.cancel(); p.work.Wait() })
	if n.mirror == nil {
		p.work.Go(p.sweep)
	}
	return p
}

// sweep removes what a nucleus that was killed has left of a copy.
func (p *placer) sweep() {
	if err := p.n.mirrors.store.Sweep(p.ctx); err != nil && p.ctx.Err() == nil {
		p.n.log.Warn("what is left of copies cannot be removed", zap.Error(err))
	}
}

// raced takes in a race and does what is due. It gives how soon the next one is wanted; 0: as usual.
func (p *placer) raced(out call.Raced) time.Duration {
	objective, err := mirror.ParseObjective(out.Objective, out.Manifest)
	if err != nil {
		p.n.log.Warn("a caller's objective cannot be read", zap.Stringer("cell", out.Cell), zap.Error(err))
		return 0
	}
	outcome := mirror.Outcome{Score: out.Best}
	if objective.Clone && objective.MinBandwidth > 0 && out.Bandwidth != nil {
		outcome.Bandwidth = out.Bandwidth() // real bytes, so only where somebody wants a copy for their sake
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return 0
	}
	now := time.Now()
	c := p.of(out.Cell)
	s := &c.situation
	s.Objective, s.HaveDonors, s.HereAllowed = objective, p.n.cfg.Network.Name != offline, true // the latter is looked at when it matters
	s.Races = append(s.Races, outcome)
	s.Races = s.Races[max(len(s.Races)-mirror.MissesToPlace, 0):]
	if out.Manifest != nil {
		c.name = out.Manifest.Name
		s.Alone = out.Manifest.Alone
		s.Placement, s.Friend = celltoml.Placement(out.Manifest.Privacy), out.Manifest.Owner == p.n.mirrors.account
		if out.Best > 0 && now.Sub(c.compared) >= compareAgain {
			c.compared = now
			p.work.Go(func() { p.compare(out.Cell, out.Manifest, c) })
		}
	}
	c.answered = out.Answered
	p.lookThere(c, now)
	begun, again := p.act(out.Cell, c, now)
	if begun || !objective.Clone || objective.Empty() || !objective.Misses(s.Races[len(s.Races)-1]) {
		return 0
	}
	switch {
	case s.Copy == mirror.NoCopy && !s.Missed():
		return missedAgain
	case s.Copy == mirror.NoCopy && !again.IsZero():
		return max(again.Sub(now), missedAgain)
	case s.Copy == mirror.There && !slices.Contains(out.Answered, c.there.mirror): // its machine may be starting anew
		return goneAgain
	}
	return 0
}

// of gives what is known of a cell. p.mu is held.
func (p *placer) of(cell cid.Cid) *placement {
	c := p.cells[cell]
	if c == nil {
		if len(p.cells) >= maxPlaced {
			p.forget()
		}
		c = &placement{}
		p.cells[cell] = c
	}
	return c
}

// note says what was decided, if that is another thing than before. p.mu is held.
func (p *placer) note(cell cid.Cid, c *placement, d mirror.Decision) {
	if d.Why != c.why {
		p.n.log.Debug("placement", zap.Stringer("cell", cell), zap.Stringer("action", d.Action), zap.String("why", d.Why))
		c.why = d.Why
	}
}

// lookThere sees whether the copy at a donor is still there: its owner may have come back. One that was never
// there is the donor's fault. p.mu is held.
func (p *placer) lookThere(c *placement, now time.Time) {
	switch {
	case c.there == nil:
	case slices.Contains(c.answered, c.there.mirror):
		c.there.seen, c.there.raced = now, true
	case now.Sub(c.there.seen) > thereGrace:
		if !c.there.raced {
			p.n.caller.AvoidDonor(c.there.donor, brokenFor)
		}
		c.there = nil
		c.situation.AskedDonors, c.situation.Donors = time.Time{}, nil
	}
}

// act begins what is due about a cell, and reports whether it did; if not, when to look again; zero: no need. p.mu is held.
func (p *placer) act(cell cid.Cid, c *placement, now time.Time) (begun bool, again time.Time) {
	c.situation.Copy = p.copy(cell, c)
	d := mirror.Decide(now, c.situation)
	if !c.making {
		p.note(cell, c, d)
	}
	if c.making || d.Action != mirror.AskDonors && d.Action != mirror.PlaceAt && d.Action != mirror.MirrorHere {
		return false, d.Again
	}
	c.making, c.since = true, now
	p.work.Go(func() { p.pursue(cell, c) })
	return true, time.Time{}
}

// compare looks whether a cell that serves is a newer version of what is mirrored here. What it replaces is to
// retire, and if that was in use, gets a copy of the newer one for a successor.
func (p *placer) compare(cell cid.Cid, m *signed.Manifest, c *placement) {
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
		c.situation.Follows, c.public = true, c.public || b.Public
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.situation.Follows && p.ctx.Err() == nil {
		p.act(cell, c, time.Now())
	}
}

// compareTimeout bounds the reading of a cell's history.
const compareTimeout = time.Minute

func (p *placer) copy(cell cid.Cid, c *placement) mirror.Copy {
	if c.making {
		return mirror.Making
	}
	if p.n.mirrors.hasOwn(cell) {
		return mirror.Here
	}
	if c.there != nil {
		return mirror.There
	}
	return mirror.NoCopy
}

// forget makes room for another cell. p.mu is held.
func (p *placer) forget() {
	for id, c := range p.cells {
		if !c.making && c.there == nil {
			delete(p.cells, id)
			return
		}
	}
	for id, c := range p.cells {
		if !c.making {
			delete(p.cells, id)
			return
		}
	}
}

// rows gives the cells for which a copy is wanted or was made, for people.
func (p *placer) rows() []ctl.Placement {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rows []ctl.Placement
	for id, c := range p.cells {
		if !c.situation.Objective.Clone || c.situation.Objective.Empty() {
			continue
		}
		row := ctl.Placement{CID: id.String(), Name: c.name, Why: c.why, Since: c.since, State: ctl.PlacementNone}
		switch copied := p.copy(id, c); copied {
		case mirror.Making:
			row.State, row.Step = ctl.PlacementMaking, c.step
		case mirror.Here:
			row.State = ctl.PlacementHere
		case mirror.There:
			row.State, row.Donor, row.Mirror = ctl.PlacementThere, string(c.there.donor), string(c.there.mirror)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b ctl.Placement) int { return b.Since.Compare(a.Since) })
	return rows[:min(len(rows), maxPlacementRows)]
}

// maxPlacementRows bounds what status tells.
const maxPlacementRows = 16

// placementOf gives what is known of one cell's placement, in a line; "": nothing.
func (p *placer) placementOf(cell cid.Cid) string {
	for _, row := range p.rows() {
		if row.CID == cell.String() {
			return row.String()
		}
	}
	return ""
}
