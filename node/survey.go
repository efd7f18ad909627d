package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
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
	// surveyCells is how many versions providers are looked for of, the newest; each costs a few lookups.
	surveyCells = 4
	// surveyPeers is how many are asked in all; of those who say something, maxAsked.
	surveyPeers = 64
)

// said is one peer's word.
type said struct {
	by    peer.ID
	claim call.Claim
}

// survey is one round of questions.
type survey struct {
	n     *nucleus
	cells []cid.Cid // whose callers would be broken, the newest first
	list  *askList
	begun int // peers that were asked, whatever they are

	asked, silent int // peers; silent: they know the protocol, or provide the cell, and have not answered
}

// surveyed is what a peer has answered.
type surveyed struct {
	by     peer.ID
	claims []call.Claim
	err    error
}

// survey asks who calls these versions of the cell elsewhere. note says what could not be found out, "" if nothing.
func (n *nucleus) survey(ctx context.Context, cells []cid.Cid, say func(string)) (all []said, note string) {
	ctx, cancel := context.WithTimeout(ctx, surveyTime)
	defer cancel()
	say("asking those who serve version " + cells[0].String() + " who calls it")
	s := &survey{n: n, cells: cells[:min(len(cells), signed.MaxQuestionCells)], list: newAskList(n.host.ID())}
	all = s.run(ctx)
	switch st := n.dht.Status(); {
	case s.asked > 0 && s.silent == 0:
		say(fmt.Sprintf("%s asked", plural(s.asked, "peer was", "peers were")))
	case s.asked > 0:
		note = fmt.Sprintf("of %s who may serve its callers elsewhere %d did not say who calls", plural(s.asked, "peer", "peers"), s.silent)
	case st.WANPeers+st.LANPeers+st.MDNSPeers == 0:
		note = "nobody could be asked who calls elsewhere: no peer of the network " + st.Network + " can be reached"
	}
	return all, note
}

// run asks everybody who is found until nobody is left or ctx ends.
func (s *survey) run(ctx context.Context) (all []said) {
	found, answers := s.find(ctx), make(chan surveyed)
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		for info, ok := s.list.next(); ok; info, ok = s.list.next() {
			s.begun++
			asking.Go(func() {
				claims, err := s.ask(ctx, info)
				select {
				case answers <- surveyed{info.ID, claims, err}:
				case <-ctx.Done():
				}
			})
		}
		if found == nil && s.list.open == 0 {
			return all
		}
		select {
		case p, ok := <-found:
			if !ok {
				found = nil
				continue
			}
			if s.begun < surveyPeers {
				s.list.add(p.Info)
			}
		case a := <-answers:
			all = append(all, s.heard(a)...)
		case <-ctx.Done():
			s.asked, s.silent = s.asked+s.list.open, s.silent+s.list.open
			return all
		}
	}
}

// find gives the providers of the newest versions, and the connected peers that know the question.
func (s *survey) find(ctx context.Context) <-chan dht.Provider {
	h := s.n.host
	for _, p := range h.Network().Peers() {
		if ok, err := h.Peerstore().SupportsProtocols(p, protocol.ID(cellproto.ProtocolCallers)); err == nil && len(ok) > 0 {
			s.list.add(peer.AddrInfo{ID: p, Addrs: addrsOf(h.Network().ConnsToPeer(p))})
		}
	}
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

// heard takes an answer. One who has nothing to do with the cell, or knows no such question, is none of those asked.
func (s *survey) heard(a surveyed) (all []said) {
	s.list.heard(a.err == nil)
	switch kind := cellproto.KindOf(a.err); {
	case kind == cellproto.NotFound || kind == cellproto.Unsupported:
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
// and calls since then.
func join(seen []call.Used, all []said, self peer.ID, had func(cellproto.SchemaHash) bool, since time.Time) []call.Used {
	used := slices.Clone(seen)
	for _, s := range all {
		if !had(s.claim.Schema) || !s.claim.Last.IsZero() && s.claim.Last.Before(since) {
			continue
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
