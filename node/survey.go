package node

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/node/call"
)

// Before a change that would break callers of a published version, those who serve or call that version elsewhere are
// asked for their callers: mirrors, donors and copies, found as any provider is, and the peers that are connected.

const (
	// surveyTime is how long they are looked for and asked, in all.
	surveyTime = 5 * time.Second
	// askTime is how long one may take: a silent one gives its place to the next.
	askTime = 1500 * time.Millisecond
	// surveyCells is how many versions providers are looked for of, the newest; each costs a few lookups.
	surveyCells = 4
	// surveyPeers is how many providers are asked in all; of those who say something, maxAsked.
	surveyPeers = 64
	// surveyNear is how many are asked who are merely connected, whatever they are; of those who say something, maxAsked.
	surveyNear = 32
)

// said is one peer's word.
type said struct {
	by    peer.ID
	claim call.Claim
}

// survey is one round of questions. Whoever is merely connected takes no place of a provider: everybody can connect.
type survey struct {
	n     *nucleus
	cells []cid.Cid // whose callers would be broken, the newest first

	providers *askList
	near      *askList             // who is connected, in no order
	found     map[peer.ID]bool     // providers, asked or not
	begun     map[*askList]int     // peers that were asked, whatever they are
	of        map[peer.ID]*askList // which an asked one is of

	asked, silent int  // peers; silent: they may know, and have not said it
	cut           bool // the search for providers was not over
}

// surveyed is what a peer has answered.
type surveyed struct {
	by     peer.ID
	claims []call.Claim
	err    error
}

func newSurvey(n *nucleus, self peer.ID, cells []cid.Cid) *survey {
	return &survey{
		n: n, cells: cells, providers: newAskList(self), near: newAskList(self),
		found: map[peer.ID]bool{}, begun: map[*askList]int{}, of: map[peer.ID]*askList{},
	}
}

// survey asks who calls these versions of the cell elsewhere. notes say what could not be found out. The error is that
// of ctx, if that ends before the survey does: what was heard until then is no answer.
func (n *nucleus) survey(ctx context.Context, cells []cid.Cid, say func(string)) (all []said, notes []string, err error) {
	within, cancel := context.WithTimeout(ctx, surveyTime)
	defer cancel()
	say("asking those who serve version " + cells[0].String() + " who calls it")
	s := newSurvey(n, n.host.ID(), cells[:min(len(cells), signed.MaxQuestionCells)])
	near := connectedWith(n.host, cellproto.ProtocolCallers)
	rand.Shuffle(len(near), func(i, j int) { near[i], near[j] = near[j], near[i] })
	for _, info := range near {
		s.near.add(info)
	}
	all = s.run(within, s.find(within), s.ask)
	if err := ctx.Err(); err != nil {
		return nil, nil, cellproto.Errorf("ask who calls elsewhere", cellproto.KindOf(err), "%w before all had been asked", err)
	}
	if s.asked > 0 && s.silent == 0 {
		say(fmt.Sprintf("%s asked", plural(s.asked, "peer was", "peers were")))
	}
	st := n.dht.Status()
	if s.asked == 0 && st.WANPeers+st.LANPeers+st.MDNSPeers == 0 {
		return all, []string{"nobody could be asked who calls elsewhere: no peer of the network " + st.Network + " can be reached"}, nil
	}
	return all, s.notes(len(cells)), nil
}

// notes say what is not known after run. of is how many versions would be broken.
func (s *survey) notes(of int) (list []string) {
	if s.silent > 0 {
		list = append(list, fmt.Sprintf("of %s who may serve its callers elsewhere %d did not say who calls", plural(s.asked, "peer", "peers"), s.silent))
	}
	left := 0
	for id := range s.found {
		if s.of[id] == nil {
			left++
		}
	}
	if left > 0 {
		list = append(list, plural(left, "peer that may serve it was not asked", "peers that may serve it were not asked")+" who calls elsewhere")
	}
	unasked := slices.DeleteFunc(slices.Clone(s.near.waiting), func(p peer.AddrInfo) bool { return s.of[p.ID] != nil || s.found[p.ID] })
	if n := len(unasked); n > 0 {
		list = append(list, plural(n, "connected peer was", "connected peers were")+" not asked who calls elsewhere")
	}
	if s.cut {
		list = append(list, "the search for who serves it was not over after "+surveyTime.String())
	}
	if n := of - surveyCells; n > 0 {
		list = append(list, plural(n, "older version that it breaks was", "older versions that it breaks were")+" not looked for")
	}
	return list
}

// run asks everybody who is found until nobody is left or ctx ends. That the search was cut short is seen by ctx itself, with which it
// ends: a context below that one may end a moment later.
func (s *survey) run(ctx context.Context, found <-chan dht.Provider, ask func(context.Context, peer.AddrInfo) ([]call.Claim, error)) (all []said) {
	answers := make(chan surveyed)
	var asking sync.WaitGroup
	defer asking.Wait()
	open, cancel := context.WithCancel(ctx)
	defer cancel()
	for ctx.Err() == nil {
		for info, ok := s.next(); ok; info, ok = s.next() {
			asking.Go(func() {
				limited, done := context.WithTimeout(open, askTime)
				defer done()
				claims, err := ask(limited, info)
				select {
				case answers <- surveyed{info.ID, claims, err}:
				case <-open.Done():
				}
			})
		}
		if found == nil && s.open() == 0 {
			return all
		}
		select {
		case p, ok := <-found:
			if !ok {
				found, s.cut = nil, ctx.Err() != nil
				continue
			}
			s.found[p.Info.ID] = true
			s.providers.addFound(p)
		case a := <-answers:
			all = append(all, s.heard(a)...)
		case <-ctx.Done():
		}
	}
	s.cut = s.cut || found != nil
	s.asked, s.silent = s.asked+s.open(), s.silent+s.open()
	return all
}

// open is how many are being asked.
func (s *survey) open() int { return s.providers.open + s.near.open }

// next gives who is to be asked now: a provider, and one that is merely connected only if none waits.
func (s *survey) next() (peer.AddrInfo, bool) {
	if info, ok := s.nextOf(s.providers, surveyPeers); ok || len(s.providers.waiting) > 0 {
		return info, ok
	}
	return s.nextOf(s.near, surveyNear)
}

// nextOf takes the next of a list that was not asked as one of the other.
func (s *survey) nextOf(l *askList, limit int) (peer.AddrInfo, bool) {
	for s.begun[l] < limit {
		info, ok := l.next()
		if !ok {
			break
		}
		if s.of[info.ID] != nil {
			l.heard(false)
			continue
		}
		s.begun[l]++
		s.of[info.ID] = l
		return info, true
	}
	return peer.AddrInfo{}, false
}

// connectedWith gives the connected peers that know a protocol, and where they are.
func connectedWith(h host.Host, id protocol.ID) (all []peer.AddrInfo) {
	for _, p := range h.Network().Peers() {
		if ok, err := h.Peerstore().SupportsProtocols(p, id); err == nil && len(ok) > 0 {
			all = append(all, peer.AddrInfo{ID: p, Addrs: addrsOf(h.Network().ConnsToPeer(p))})
		}
	}
	return all
}

// find gives the providers of the newest versions.
func (s *survey) find(ctx context.Context) <-chan dht.Provider {
	out := make(chan dht.Provider)
	var all sync.WaitGroup
	for _, id := range s.cells[:min(len(s.cells), surveyCells)] {
		found := s.n.dht.Find(ctx, id)
		all.Go(func() {
			for p := range found {
				select {
				case out <- p:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() { // ends with the searches, which end with ctx
		all.Wait()
		close(out)
	}()
	return out
}

func (s *survey) ask(ctx context.Context, info peer.AddrInfo) ([]call.Claim, error) {
	n := s.n
	if err := n.host.Connect(network.WithAllowLimitedConn(ctx, "cell callers"), info); err != nil {
		return nil, cellproto.Errorf("connect to "+info.ID.String(), cellproto.Unavailable, "%w", err)
	}
	question, err := signed.SealQuestion(signed.Question{
		Cells: s.cells, Asker: n.identity.Peer, Asked: info.ID, Issued: time.Now(),
	}, n.identity.Account())
	if err != nil {
		return nil, err
	}
	return call.AskCallers(ctx, n.host, info.ID, question)
}

// heard takes an answer. One who has nothing to do with the cell is none of those asked.
func (s *survey) heard(a surveyed) (all []said) {
	s.of[a.by].heard(a.err == nil)
	switch kind := cellproto.KindOf(a.err); {
	case kind == cellproto.NotFound:
		return nil
	case a.err != nil:
		s.n.log.Debug("a peer does not say who calls", zap.Stringer("peer", a.by), zap.Error(a.err))
		s.asked++
		s.silent++
		s.n.charge(a.by, a.err)
		return nil
	}
	s.asked++
	for _, c := range a.claims {
		all = append(all, said{a.by, c})
	}
	return all
}

// join adds what others say of their callers to what this nucleus has seen itself. Only schemas that the cell had count,
// and calls since then; what lies after now counts as now.
func join(seen []call.Used, all []said, self peer.ID, had func(cellproto.SchemaHash) bool, since, now time.Time) []call.Used {
	used := slices.Clone(seen)
	for _, s := range all {
		if !had(s.claim.Schema) || !s.claim.Last.IsZero() && s.claim.Last.Before(since) {
			continue
		}
		if s.claim.Last.After(now) {
			s.claim.Last = now
		}
		i := slices.IndexFunc(used, func(u call.Used) bool { return u.Schema == s.claim.Schema })
		if i < 0 {
			i, used = len(used), append(used, call.Used{Schema: s.claim.Schema})
		}
		users := slices.Clone(used[i].Users)
		for _, id := range s.claim.Callers {
			if id != self && !slices.ContainsFunc(users, func(u call.User) bool { return u.Is(id) }) {
				users = append(users, call.User{Who: id.String(), Says: true, Last: s.claim.Last, By: s.by.String()})
			}
		}
		if s.claim.More > 0 {
			users = append(users, call.User{Last: s.claim.Last, By: s.by.String(), More: s.claim.More})
		}
		if used[i].Users = users; len(users) == 0 {
			used = slices.Delete(used, i, i+1)
		}
	}
	return used
}

// affected gives the published versions whose schema a new one breaks, and the one before does not: the newest first.
func (s *serving) affected(before, next *cellproto.Schema) (cells []cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type version struct {
		id      cid.Cid
		created int64
	}
	var broken []version
	for _, id := range s.versions() {
		m, _, err := s.openVersion(id)
		if err != nil || m.Name != s.n.cfg.Cell.Name {
			continue
		}
		old, err := s.versionSchema(id, m)
		if err != nil || len(breaks(old, next)) == 0 || before != nil && len(breaks(old, before)) > 0 {
			continue
		}
		broken = append(broken, version{id, m.Created})
	}
	slices.SortFunc(broken, func(a, b version) int { return cmp.Compare(b.created, a.created) })
	for _, v := range broken {
		cells = append(cells, v.id)
	}
	return cells
}
