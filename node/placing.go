package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/internal/addrgroup"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/mirror/offer"
)

// How a copy comes to its place: donors are asked, and one of them, or this machine, takes the cell up.

const (
	// donorsTime is how long donors are looked for and asked, in all.
	donorsTime = 6 * time.Second
	// donorsSettle is how long after the first yes others may still give theirs: they may be nearer.
	donorsSettle = 400 * time.Millisecond
	// donorTime is how long one donor may take at most, so that another one still can.
	donorTime = placeTimeout / 2
	// donorStart is what it may take besides fetching the program, and donorRate how fast it fetches that at least, in
	// bytes a second. What it tells meanwhile costs it nothing, and does not count.
	donorStart = 30 * time.Second
	donorRate  = 512 << 10
	// maxAsked is how many peers are asked about one cell, and maxAskedNear how many of one network.
	maxAsked     = 16
	maxAskedNear = 4
)

// errNotNeeded says that the objective is met meanwhile: somebody else's copy serves.
var errNotNeeded = errors.New("the objective is met")

// pursuit is the making of one copy.
type pursuit struct {
	p        *placer
	cell     cid.Cid
	c        *placement
	log      *zap.Logger
	offer    offer.Offer
	manifest *signed.Manifest                 // of the cell that is offered
	talks    map[cellproto.PeerID]*offer.Talk // of those who have said yes
	known    []cellproto.PeerID               // providers that answered before there was a copy
}

// pursue makes a copy, wherever mirror.Decide says, until there is one or nothing more can be done.
func (p *placer) pursue(cell cid.Cid, c *placement) {
	ctx, cancel := context.WithTimeout(p.ctx, placeTimeout)
	defer cancel()
	t := &pursuit{
		p: p, cell: cell, c: c, log: p.n.log.With(zap.Stringer("cell", cell)),
		talks: map[cellproto.PeerID]*offer.Talk{},
	}
	defer t.hangUp()
	p.mu.Lock()
	t.known = c.answered
	why := "its best provider misses the objective"
	if c.situation.Follows {
		why = "the version before it has a copy here"
	}
	p.mu.Unlock()
	t.log.Info(why + ": looking for a place for a copy")
	err := t.run(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.making, c.step, c.since = false, "", time.Now()
	s := &c.situation
	if slices.ContainsFunc(s.Donors, func(d mirror.Donor) bool { return d.Yes }) {
		s.AskedDonors, s.Donors = time.Time{}, nil // what they have said holds for a moment only
	}
	if err == nil {
		s.Failures, s.Races, s.Follows = 0, nil, false
		return
	}
	if errors.Is(err, errNotNeeded) {
		return
	}
	if cellproto.KindOf(err) != cellproto.Canceled {
		t.log.Warn("no copy was made", zap.Error(err), zap.String("hint", cellproto.HintOf(err)))
		c.why = err.Error()
	}
	s.Failures++
	s.Failed = c.since
}

func (t *pursuit) hangUp() {
	for _, talk := range t.talks {
		talk.Close()
	}
	clear(t.talks)
}

// run does what is decided, step by step.
func (t *pursuit) run(ctx context.Context) error {
	may := canConfine(ctx)
	for range 2*maxAsked + 3 { // each donor can fail once, so late that the others are asked anew
		t.p.mu.Lock()
		s := t.c.situation
		s.Copy, s.HereAllowed = mirror.NoCopy, may == nil
		d := mirror.Decide(time.Now(), s)
		t.p.note(t.cell, t.c, d)
		t.p.mu.Unlock()
		var err error
		switch d.Action {
		case mirror.AskDonors:
			err = t.ask(ctx)
		case mirror.PlaceAt:
			if err = t.placeAt(ctx, d.Donor); err == nil {
				return nil
			}
			if ctx.Err() == nil {
				t.log.Info("a donor does not take it after all", zap.String("donor", string(d.Donor)), zap.Error(err))
				t.strike(d.Donor, err)
				err = nil
			}
		case mirror.MirrorHere:
			return t.here(ctx)
		default:
			if !s.Follows && !s.Missed() {
				return errNotNeeded
			}
			e := cellproto.Errorf("place a copy", cellproto.Unavailable, "%s", d.Why)
			if may != nil {
				e = e.WithHint("%s", cellproto.HintOf(may))
			}
			return e
		}
		if err != nil {
			return err
		}
	}
	return cellproto.Errorf("place a copy", cellproto.Unavailable, "all donors have failed")
}

// say notes what is going on, for status and the log.
func (t *pursuit) say(text string) {
	t.p.mu.Lock()
	t.c.step = text
	t.p.mu.Unlock()
	t.log.Debug("placing", zap.String("step", text))
}

// strike has a donor count as one that has said no, and not be asked for a while.
func (t *pursuit) strike(donor cellproto.PeerID, why error) {
	pause := brokenFor
	if after := cellproto.RetryAfterOf(why); after > 0 {
		pause = min(pause, after) // it says so itself
	}
	t.p.n.caller.AvoidDonor(donor, pause)
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	donors := slices.Clone(t.c.situation.Donors)
	for i := range donors {
		if donors[i].Peer == donor {
			donors[i].Yes = false
		}
	}
	t.c.situation.Donors = donors
}

// here makes the copy on this machine.
func (t *pursuit) here(ctx context.Context) error {
	t.say("copying it here")
	t.p.mu.Lock()
	public := t.c.public
	t.p.mu.Unlock()
	row, err := t.p.n.mirrors.add(ctx, t.cell.String(), public, t.say)
	if err == nil {
		t.log.Info("the copy serves", zap.String("dir", row.Dir), zap.String("tier", row.SandboxTier))
	}
	return err
}

// ask asks the donors in the neighbourhood, and notes what they say.
func (t *pursuit) ask(ctx context.Context) error {
	t.say("asking donors near by")
	src, err := t.p.n.caller.Sources(ctx, t.cell.String())
	if err != nil {
		return err
	}
	if t.manifest, err = signed.OpenManifest(t.cell, src.Block); err != nil {
		return err
	}
	t.offer = offer.Offer{Cell: t.cell, Block: src.Block, Providers: src.From}
	t.hangUp() // a yes of before counts no more
	answers := t.askAll(ctx)
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	s := &t.c.situation
	s.AskedDonors, s.Donors, s.Awaited = time.Now(), answers, 0
	return ctx.Err()
}

// askAll asks those who are connected and take offers, and those whom the network names, many at once.
func (t *pursuit) askAll(ctx context.Context) (answers []mirror.Donor) {
	n := t.p.n
	ctx, cancel := context.WithTimeout(ctx, donorsTime)
	defer cancel()
	list, results := newAskList(n.host.ID()), make(chan *offer.Talk)
	var asking sync.WaitGroup
	ask := func(info peer.AddrInfo) {
		asking.Go(func() {
			limited, done := context.WithTimeout(ctx, mirror.DonorPatience)
			defer done()
			talk, err := offer.Ask(limited, n.host, info, t.offer)
			if err != nil && cellproto.KindOf(err) != cellproto.Unsupported {
				t.log.Debug("a donor does not answer", zap.Error(err))
			}
			results <- talk // nil: nothing was said
		})
	}
	add := func(p dht.Provider) {
		if !n.caller.AvoidsDonor(cellproto.PeerID(p.Info.ID.String())) {
			list.addFound(p)
		}
	}
	for _, p := range n.host.Network().Peers() {
		if ok, err := n.host.Peerstore().SupportsProtocols(p, protocol.ID(cellproto.ProtocolHost)); err == nil && len(ok) > 0 {
			add(dht.Provider{Info: peer.AddrInfo{ID: p, Addrs: addrsOf(n.host.Network().ConnsToPeer(p))}})
		}
	}
	found, enough := n.dht.FindDonors(ctx), (<-chan time.Time)(nil)
	for {
		for info, ok := list.next(); ok; info, ok = list.next() {
			ask(info)
		}
		if found == nil && list.open == 0 {
			break
		}
		select {
		case p, ok := <-found:
			if !ok {
				found = nil
				continue
			}
			add(p)
		case talk := <-results:
			list.heard(talk != nil)
			if talk == nil {
				continue
			}
			answers = append(answers, t.heard(talk))
			if talk.Refusal == nil && enough == nil {
				enough = time.After(donorsSettle)
			}
		case <-enough:
			cancel()
			found, enough, list.waiting = nil, nil, nil
		}
	}
	asking.Wait()
	return answers
}

// addrsOf gives where a peer is connected, which is where it is: what it says of itself may be anything.
func addrsOf(conns []network.Conn) (addrs []ma.Multiaddr) {
	for _, c := range conns {
		addrs = append(addrs, c.RemoteMultiaddr())
	}
	return addrs
}

// askList is who is asked about one cell, in which order. Whoever does not answer, or is no donor, gives its place
// to the next; and since identities cost nothing, those of one public network have only a part of the places.
type askList struct {
	known   map[peer.ID]bool // and this one itself
	groups  map[string]int
	waiting []peer.AddrInfo
	open    int // are being asked
	said    int // have answered
}

func newAskList(self peer.ID) *askList {
	return &askList{known: map[peer.ID]bool{self: true}, groups: map[string]int{}}
}

// addFound has a provider asked, unless there are enough from where it is. One that has announced itself is at its first public
// address, if it has any, since it can claim private ones too.
func (l *askList) addFound(p dht.Provider) {
	if p.Source == dht.SourceDHT {
		if i := slices.IndexFunc(p.Info.Addrs, manet.IsPublicAddr); i >= 0 {
			l.addAt(p.Info, p.Info.Addrs[i])
			return
		}
	}
	l.add(p.Info)
}

// add has a peer asked that is at its first address, unless there are enough from there.
func (l *askList) add(info peer.AddrInfo) {
	if len(info.Addrs) > 0 {
		l.addAt(info, info.Addrs[0])
	}
}

func (l *askList) addAt(info peer.AddrInfo, at ma.Multiaddr) {
	if l.known[info.ID] {
		return
	}
	if addrgroup.IsRelayed(at) || manet.IsPublicAddr(at) {
		group := offer.GroupOf(at)
		if l.groups[group] >= maxAskedNear {
			return
		}
		l.groups[group]++
	}
	l.known[info.ID] = true
	l.waiting = append(l.waiting, info)
}

// next gives who is to be asked now.
func (l *askList) next() (info peer.AddrInfo, ok bool) {
	if len(l.waiting) == 0 || l.open+l.said >= maxAsked {
		return info, false
	}
	info, l.waiting = l.waiting[0], l.waiting[1:]
	l.open++
	return info, true
}

// heard notes that one of those who are asked has answered, or that nothing comes of it.
func (l *askList) heard(answer bool) {
	l.open--
	if answer {
		l.said++
	}
}

// heard notes the answer of a donor. Who has said yes waits for more.
func (t *pursuit) heard(talk *offer.Talk) mirror.Donor {
	d := mirror.Donor{Peer: cellproto.PeerID(talk.Donor.String()), RTT: talk.RTT, Yes: talk.Refusal == nil}
	if d.Yes {
		t.talks[d.Peer] = talk
		t.log.Info("a donor would take it", zap.String("donor", string(d.Peer)), zap.Duration("rtt", d.RTT))
		return d
	}
	talk.Close()
	if after := talk.Refusal.RetryAfter; after > 0 {
		d.When = time.Now().Add(after)
	}
	t.log.Info("a donor does not take it", zap.String("donor", string(d.Peer)), zap.Duration("rtt", d.RTT), zap.Error(talk.Refusal),
		zap.Time("when", d.When))
	return d
}

// placeAt has a donor take the cell up, and calls go there.
func (t *pursuit) placeAt(ctx context.Context, donor cellproto.PeerID) error {
	n := t.p.n
	talk := t.talks[donor]
	if talk == nil {
		return cellproto.Errorf("place a copy", cellproto.Unavailable, "the donor has said yes some time ago")
	}
	delete(t.talks, donor)
	defer talk.Close()
	t.say("a donor " + talk.RTT.Round(10*time.Microsecond).String() + " away takes it")
	ctx, cancel := context.WithTimeout(ctx, timeToTake(t.manifest))
	defer cancel()
	info, err := talk.Take(ctx, func(text string) { t.say("the donor: " + text) })
	if err != nil {
		return err
	}
	if info.ID == n.host.ID() {
		return cellproto.Errorf("place a copy", cellproto.Corrupt, "the donor says that the copy is this very nucleus")
	}
	if slices.Contains(t.known, cellproto.PeerID(info.ID.String())) {
		return cellproto.Errorf("place a copy", cellproto.Corrupt, "the donor says that %s is a copy, which was there before", info.ID)
	}
	t.p.mu.Lock()
	t.c.there = &there{donor: donor, mirror: cellproto.PeerID(info.ID.String()), seen: time.Now()}
	t.p.mu.Unlock()
	t.log.Info("a donor has a copy", zap.String("donor", string(donor)), zap.Stringer("mirror", info.ID))
	n.vouch(talk.Donor, info)
	n.caller.Suggest(t.cell, info, "mirror")
	return nil
}

// timeToTake is how long a donor may take for a cell: what its largest program takes, or, if that is to be built, donorTime.
func timeToTake(m *signed.Manifest) time.Duration {
	if len(m.Artefacts) == 0 {
		return donorTime
	}
	var most int64
	for _, a := range m.Artefacts {
		most = max(most, a.Size)
	}
	return min(donorStart+time.Duration(float64(most)/donorRate*float64(time.Second)), donorTime)
}

// vouch lets a peer be dialed at the private address of one that is connected there, since it is on the same machine.
func (n *nucleus) vouch(by peer.ID, info peer.AddrInfo) {
	for _, c := range n.host.Network().ConnsToPeer(by) {
		ip, ok := addrIP(c.RemoteMultiaddr())
		at := func(a ma.Multiaddr) bool { there, ok := addrIP(a); return ok && there == ip }
		if ok && !c.Stat().Limited && !isPublic(ip) && slices.ContainsFunc(info.Addrs, at) {
			n.gater.vouch(info.ID, ip)
			return
		}
	}
}
