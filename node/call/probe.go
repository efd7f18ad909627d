package call

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// raceAgain begins a race in the background, if there is reason to.
func (c *Caller) raceAgain(now time.Time, r *remote) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.raceAgainLocked(now, r)
}

// raceAgainLocked is raceAgain with r.mu held.
func (c *Caller) raceAgainLocked(now time.Time, r *remote) {
	why := r.winner.ShouldRace(now, c.cfg.Policy)
	if why == race.NoReason && r.hurry > 0 && r.decision != nil && now.Sub(r.decision.At) >= r.hurry {
		why = race.Missed
	}
	if why != race.NoReason && r.racing == nil {
		c.beginRace(r, why, true)
	}
}

// waitRace waits for the race that runs, or begins one.
func (c *Caller) waitRace(ctx context.Context, r *remote) (*race.Decision, error) {
	r.mu.Lock()
	run := r.racing
	if run == nil {
		run = c.beginRace(r, race.NoWinner, false)
	}
	r.mu.Unlock()
	select {
	case <-run.done:
		return run.decision, run.err
	case <-ctx.Done():
		return nil, cellproto.Errorf("use "+string(r.name), r.lateKind(ctx), "no provider answered in time: %s", c.progress(r)).
			WithHint("Check with cellctl find %s that somebody provides it, and with cellctl doctor that this machine reaches the network.", r.name)
	}
}

// lateKind is the kind of error when ctx has ended before a race: nobody was found, for all that could
// be found out in the caller's time, or those who were did not answer.
func (r *remote) lateKind(ctx context.Context) cellproto.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind := cellproto.KindOf(ctx.Err()); kind != cellproto.Timeout || len(r.asked.open) > 0 {
		return kind
	}
	return cellproto.NotFound
}

// asking is what the candidates of one race have said to whether they have the cell.
type asking struct {
	open  map[cellproto.PeerID]bool // who has it or may have it: announced it, or was named by the owner, and has not denied it
	lacks map[cellproto.PeerID]bool // who has denied it
}

// joined notes a candidate. One that is merely on this LAN stands for nothing until it says that it has the cell.
func (a *asking) joined(p cellproto.PeerID, source string) {
	if source != sourceMDNS {
		a.has(p)
	}
}

// has notes that a candidate has the cell, or may well, unless it has denied it.
func (a *asking) has(p cellproto.PeerID) {
	if a.lacks[p] {
		return
	}
	if a.open == nil {
		a.open = map[cellproto.PeerID]bool{}
	}
	a.open[p] = true
}

// denied notes that a candidate does not have the cell.
func (a *asking) denied(p cellproto.PeerID) {
	delete(a.open, p)
	if a.lacks == nil {
		a.lacks = map[cellproto.PeerID]bool{}
	}
	a.lacks[p] = true
}

// String says for people what came of the asking, after how far the search got.
func (a *asking) String() string {
	text := lacking(len(a.lacks))
	switch {
	case len(a.open) == 0:
		return text
	case text == "":
		return "; none of the candidates can be used so far"
	}
	return text + "; none of the others can be used so far"
}

// lacking says that so many peers do not have what was searched for.
func lacking(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "; 1 peer was asked and does not have it"
	}
	return fmt.Sprintf("; %d peers were asked and do not have it", n)
}

// progress says how far the search for a cell got.
func (c *Caller) progress(r *remote) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := "the search has not begun"
	if r.searched != nil {
		text = r.searched()
	}
	return text + r.asked.String()
}

// explain adds to the error of a race that has found nobody who has the cell how far the search got.
func (c *Caller) explain(r *remote, op string, d *race.Decision) error {
	err := d.Err(op)
	kind := cellproto.KindOf(err)
	switch {
	case err == nil:
		return nil
	case d.Seen == 0:
		return cellproto.Errorf(op, kind, "no provider found: %s", c.progress(r)).WithHint("%s", cellproto.HintOf(err))
	case kind == cellproto.NotFound, (kind == cellproto.Unavailable || kind == cellproto.Timeout) && !r.hoped():
		return cellproto.Errorf(op, cellproto.NotFound, "no provider found: %s", c.progress(r)).WithHint(notFoundHint)
	}
	return err
}

const notFoundHint = "Check the CID, and that the provider's nucleus runs (cellctl status there); cellctl doctor says whether this machine reaches the network."

// hoped says whether a candidate of the last race may have the cell.
func (r *remote) hoped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked.open) > 0
}

// beginRace starts the goroutine of a race. r.mu is held.
func (c *Caller) beginRace(r *remote, why race.Reason, patient bool) *running {
	run := &running{done: make(chan struct{})}
	r.racing, r.asked = run, asking{}
	r.winner.Begin(why)
	began := c.work.Go(func() {
		run.decision, run.err = c.race(c.ctx, r, patient, why)
		r.mu.Lock()
		r.racing = nil
		if d := run.decision; d != nil && d.Winner != "" {
			for _, t := range run.passed {
				d = d.Tried(t.peer, t.obs)
			}
			run.decision = d
			r.winner.Take(d)
			r.decision = d
		} else {
			r.winner.GiveUp(time.Now())
		}
		r.mu.Unlock()
		close(run.done)
		if run.decision != nil {
			c.cache.raced(r, run.decision, why)
			c.tellWatchers(r.id, run.decision.Log(r.name, why))
			c.tellRaced(r, run.decision)
			c.remember(rememberEvery)
		}
	})
	if !began {
		r.racing = nil
		run.err = errStopping("race")
		close(run.done)
	}
	return run
}

// raceEvent is something that happened to a race.
type raceEvent func(now time.Time, rc *race.Race)

// race finds candidates, asks and pings them, and gives the decision. It drives node/race's state
// machine: all it decides itself is how to carry out what that asks for.
func (c *Caller) race(ctx context.Context, r *remote, patient bool, why race.Reason) (*race.Decision, error) {
	rc, err := race.New(race.Config{Patient: patient}, rand.Uint64(), time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cellproto.DefaultTimeout)
	defer cancel()
	d := &driver{
		c: c, r: r, ctx: ctx, events: make(chan raceEvent, 16),
		joined: map[cellproto.PeerID]bool{}, renewed: map[cellproto.PeerID]chan struct{}{}, searched: make(chan struct{}),
	}
	c.work.Go(d.find)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ready := rc.Ready()
		if ready.Decision != nil {
			c.deps.Log.Debug("race", zap.String("cell", string(r.name)), zap.String("why", string(why)),
				zap.String("winner", string(ready.Decision.Winner)), zap.Duration("took", ready.Decision.Took))
			return ready.Decision, nil
		}
		for _, a := range ready.Actions {
			d.carryOut(a)
		}
		timer.Reset(time.Until(ready.Deadline))
		select {
		case ev := <-d.events:
			ev(time.Now(), rc)
		case <-timer.C:
			rc.Tick(time.Now())
		case <-c.ctx.Done():
			return nil, errStopping("race")
		}
	}
}

// driver carries out what one race asks for, each thing on a goroutine that ends with the race.
type driver struct {
	c      *Caller
	r      *remote
	ctx    context.Context
	events chan raceEvent

	joined   map[cellproto.PeerID]bool          // guarded by r.mu
	renewed  map[cellproto.PeerID]chan struct{} // of those remembered: closed when they are found elsewhere; guarded by r.mu
	searched chan struct{}                      // closed when nobody is found any more
}

func (d *driver) tell(ev raceEvent) bool {
	select {
	case d.events <- ev:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// find joins the providers to the race as they are found: those remembered first.
func (d *driver) find() {
	defer d.tell(func(now time.Time, rc *race.Race) { rc.Close(now) })
	defer close(d.searched)
	if d.c.deps.Finder == nil || d.c.deps.Host == nil {
		return
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	for _, f := range d.c.remembered(d.r) {
		d.r.mu.Lock()
		d.renewed[cellproto.PeerID(f.Info.ID.String())] = make(chan struct{})
		d.r.mu.Unlock()
		d.join(f, cancel)
	}
	found, progress := d.c.deps.Finder.Find(ctx, d.r.id)
	d.r.mu.Lock()
	d.r.searched = progress
	d.r.mu.Unlock()
	for f := range found {
		d.join(f, cancel)
		d.renew(f.Info.ID)
	}
}

// renew notes that a peer that was remembered has been found, perhaps at another address.
func (d *driver) renew(p peer.ID) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	id := cellproto.PeerID(p.String())
	if found, ok := d.renewed[id]; ok {
		close(found)
		delete(d.renewed, id)
	}
}

// moved says whether a peer that could not be reached has, or gets, an address that was not tried.
func (d *driver) moved(p cellproto.PeerID, tried peer.AddrInfo) bool {
	d.awaitRenewal(p)
	return slices.ContainsFunc(d.info(p).Addrs, func(a multiaddr.Multiaddr) bool { return !containsAddr(tried.Addrs, a) })
}

// awaitRenewal waits until a peer that was remembered is found, or nobody is found any more.
func (d *driver) awaitRenewal(p cellproto.PeerID) {
	d.r.mu.Lock()
	found, ok := d.renewed[p]
	d.r.mu.Unlock()
	if !ok {
		return // it was found already, or never remembered
	}
	select {
	case <-found:
	case <-d.searched:
	case <-d.ctx.Done():
	}
}

func (d *driver) join(f Found, enough func()) {
	id := cellproto.PeerID(f.Info.ID.String())
	if f.Info.ID == d.c.deps.Host.ID() {
		return
	}
	d.r.mu.Lock()
	d.r.know(f.Info, d.c.links.places.At(f.Info.ID), d.joined)
	d.joined[id] = true
	d.r.asked.joined(id, f.Source)
	d.r.mu.Unlock()
	obs := d.c.observed(id)
	d.tell(func(now time.Time, rc *race.Race) {
		if !rc.Join(now, race.Candidate{Peer: id, Source: f.Source}, obs) {
			enough()
		}
	})
}

// merge gives where a peer may be, bounded as an advert's addresses are. First comes where it was reached, if that is known;
// of the rest those that are known already and the new ones have half of the places each if there are too many: anybody may
// name addresses of anybody.
func merge(old, new peer.AddrInfo, reached multiaddr.Multiaddr) peer.AddrInfo {
	var addrs []multiaddr.Multiaddr
	add := func(most int, from ...multiaddr.Multiaddr) {
		for _, a := range from {
			if len(addrs) < most && !containsAddr(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	const all = cellproto.MaxAdvertAddrs
	if reached != nil {
		add(1, reached)
	}
	add(all/2, old.Addrs...)
	add(all, new.Addrs...)
	add(all, old.Addrs...)
	return peer.AddrInfo{ID: new.ID, Addrs: addrs}
}

func (d *driver) carryOut(a race.Action) {
	switch a.Do {
	case race.AskAdvert:
		d.c.work.Go(func() { d.advert(a.Candidate) })
	case race.AskPing:
		d.c.work.Go(func() { d.ping(a.Candidate) })
	}
}

// advert connects to a candidate and asks for its advert. The manifest is fetched from the first
// that can be reached, while the race goes on.
func (d *driver) advert(cand race.Candidate) {
	info := d.info(cand.Peer)
	lk, err := d.c.links.peer(d.ctx, info, string(d.r.name), d.r.madeFor(d.ctx))
	if err != nil && d.moved(cand.Peer, info) {
		info = d.info(cand.Peer)
		lk, err = d.c.links.peer(d.ctx, info, string(d.r.name), d.r.madeFor(d.ctx))
	}
	if err != nil {
		d.tell(func(now time.Time, rc *race.Race) { rc.Failed(now, cand.Peer, cellproto.KindOf(err)) })
		return
	}
	d.tell(func(_ time.Time, rc *race.Race) { rc.Path(cand.Peer, lk.relayed) })
	d.c.work.Go(func() { d.c.describeAhead(d.r, cand.Peer) })
	ad, err := askAdvert(d.ctx, d.c.deps.Host, info.ID, d.r.id)
	d.c.clocks.note(info.ID, ad, err, time.Now())
	if err != nil {
		kind := cellproto.KindOf(err)
		if kind == cellproto.Corrupt {
			d.c.observe(time.Now(), cand.Peer, err, 0)
		}
		d.said(cand.Peer, kind)
		d.tell(func(now time.Time, rc *race.Race) {
			if kind == cellproto.Corrupt || kind == cellproto.NotFound || kind == cellproto.BadInput {
				rc.Failed(now, cand.Peer, kind) // it lies, or it does not have the cell
				return
			}
			rc.AdvertFailed(now, cand.Peer, kind)
		})
		return
	}
	d.said(cand.Peer, 0)
	ad, _ = d.c.newest.Put(ad, time.Now()) // an older one than we have is dropped
	if err := d.r.claims(cand.Peer, ad); err != nil {
		d.c.observe(time.Now(), cand.Peer, err, 0)
		d.tell(func(now time.Time, rc *race.Race) { rc.Failed(now, cand.Peer, cellproto.KindOf(err)) })
		return
	}
	claim := claimOf(ad)
	if err := d.r.suits(d.ctx, &claim); err != nil {
		d.tell(func(now time.Time, rc *race.Race) { rc.Failed(now, cand.Peer, cellproto.KindOf(err)) })
		return
	}
	d.tell(func(now time.Time, rc *race.Race) { rc.AdvertArrived(now, cand.Peer, claim) })
}

// said notes what a candidate has answered to whether it has the cell.
func (d *driver) said(p cellproto.PeerID, kind cellproto.Kind) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	switch kind {
	case cellproto.NotFound:
		d.r.asked.denied(p)
	case 0, cellproto.Overloaded:
		d.r.asked.has(p)
	}
}

func (d *driver) info(p cellproto.PeerID) peer.AddrInfo {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	return d.r.infos[p]
}

// ping measures one round trip of frames, from the first byte of the link on.
func (d *driver) ping(cand race.Candidate) {
	rtt, err := d.pingOnce(cand.Peer)
	d.tell(func(now time.Time, rc *race.Race) {
		if err != nil {
			rc.Failed(now, cand.Peer, cellproto.KindOf(err))
			return
		}
		rc.PingArrived(now, cand.Peer, rtt)
	})
}

func (d *driver) pingOnce(p cellproto.PeerID) (time.Duration, error) {
	lk, err := d.c.links.peer(d.ctx, d.info(p), string(d.r.name), d.r.madeFor(d.ctx))
	if err != nil {
		return 0, err
	}
	hello, err := lk.greeted(d.ctx)
	if err != nil {
		return 0, err
	}
	if err := d.r.fits(hello.Schema); err != nil {
		return 0, err
	}
	rtt, err := lk.ping(d.ctx)
	if err != nil {
		lk.doubt()
		return 0, err
	}
	d.welcome(p, lk)
	return rtt, nil
}

// welcome notes that a peer answers on a link. One that has come back takes part in the race as that.
func (d *driver) welcome(p cellproto.PeerID, lk *link) {
	now := time.Now()
	d.c.mu.Lock()
	back := d.c.reputation.Back(now, lk.since, p)
	obs := d.c.reputation.Observed(now, p)
	d.c.mu.Unlock()
	if back {
		d.tell(func(_ time.Time, rc *race.Race) { rc.Observe(p, obs) })
	}
}

func claimOf(ad *signed.Advert) race.Claim {
	return race.Claim{
		P50: race.MicrosOf(ad.P50), P99: race.MicrosOf(ad.P99), Queue: int(ad.Queue), Capacity: int(ad.Capacity),
		Free: int(ad.FreeSlots), Provided: ad.SchemasProvided, Accepted: ad.SchemasAccepted,
	}
}
