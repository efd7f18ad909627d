package call

import (
	"crypto/sha256"
	"math/rand/v2"

	"github.com/fxamacker/cbor/v2"
	"github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/addrgroup"
	"github.com/celldnet/celld/node/race"
)

// voter is a provider that can be asked for its reply.
type voter struct {
	race.Ranked
	group string // of all who may be one and the same person; "": not known, of who was asked before
	local bool   // its address is private: group is the peer alone
}

// groupOf gives the group of a peer at an address. Behind a relay only the relay's address is known, and anybody may be
// behind each of many, so that all behind relays are one group. Private and loopback addresses say nothing of who is who: there each
// peer is a group of its own, and local is true.
func groupOf(addr multiaddr.Multiaddr, p cellproto.PeerID) (group string, local bool) {
	ip, ok := addrgroup.IP(addr)
	if ok && !addrgroup.IsRelayed(addr) && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
		return string(p), true
	}
	return addrgroup.Of(addr), false
}

// draw puts the voters into a random order and keeps one of each group, none of those in but: whoever
// could foresee who is asked could arrange to be all of them.
func draw(voters []voter, rng *rand.Rand, but ...string) []voter {
	taken := map[string]bool{}
	for _, g := range but {
		taken[g] = true
	}
	var out []voter
	for _, i := range rng.Perm(len(voters)) {
		if v := voters[i]; !taken[v.group] {
			taken[v.group] = true
			out = append(out, v)
		}
	}
	return out
}

// vote is what one provider replied.
type vote struct {
	voter
	digest  [32]byte
	placed  bool // it has a place in votesHeld
	dropped bool // a has only the header of the reply
	a       attempt
}

// answers says whether an attempt is a reply that others can be compared with: also that the function
// fails, or that the arguments are bad.
func answers(a *attempt) bool {
	switch cellproto.KindOf(a.err) {
	case 0, cellproto.FuncError:
		return true
	case cellproto.BadInput:
		return a.sent
	}
	return false
}

// digestOf is the same for equal replies: of JSON and CBOR their canonical form counts, of errors the kind.
// The text of an error may name what differs from machine to machine.
func digestOf(a *attempt) [32]byte {
	if a.err != nil {
		return sha256.Sum256(append([]byte("error "), byte(cellproto.KindOf(a.err))))
	}
	payload, codec := a.reply.Payload, a.reply.Header.Codec
	switch codec {
	case cellproto.JSON:
		if b, err := cellproto.CanonicalJSON(payload); err == nil {
			payload = b
		}
	case cellproto.CBOR:
		if b, err := canonicalCBOR(payload); err == nil {
			payload = b
		}
	}
	return sha256.Sum256(append([]byte{'c', byte(codec)}, payload...))
}

var (
	cborStrict, _    = cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: cellproto.MaxArgsDepth}.DecMode()
	cborCanonical, _ = cbor.CoreDetEncOptions().EncMode()
)

// canonicalCBOR gives the core deterministic encoding of RFC 8949, 4.2.1.
func canonicalCBOR(data []byte) ([]byte, error) {
	var v any
	if err := cborStrict.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return cborCanonical.Marshal(v)
}

// clear says that nobody else need be asked. Where replies differ, a race that did not take its time has measured too few to say
// who lies, if there is time for another.
func (p *poll) clear() bool {
	t := count(p.votes)
	if !p.beside || !t.dissent {
		return t.clear(p.want.Agree)
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	return t.clear(p.want.Agree) && p.r.decision != nil && !p.r.decision.Hurried
}

// suspect has calls go to others than those who differ from most of all that are known, while it is not clear yet who lies: to wait
// for who is silent, and to find more voters, takes seconds, and the winner may be one of them. Where those who are still to be heard
// may outvote the others it leaves things as they are: whoever is near votes first, be it a liar.
func (p *poll) suspect() {
	t := count(p.votes)
	decided := t.decided(p.want.Agree)
	if decided && 2*t.agreed <= t.votes+len(p.open)+len(p.waiting) {
		return
	}
	var trusts []func()
	for i := range p.votes {
		if v := &p.votes[i]; decided && v.digest != t.winner {
			trusts = append(trusts, p.c.suspect(v.Peer))
		}
	}
	p.trust() // only now, so that who was suspected, and is, is all the time
	p.trusts = trusts
}

// trust ends suspect.
func (p *poll) trust() {
	for _, trust := range p.trusts {
		trust()
	}
	p.trusts = nil
}

// tally is how the votes stand.
type tally struct {
	winner  [32]byte
	agreed  int  // that have given winner
	votes   int  // all
	dissent bool // there are different ones
}

func count(votes []vote) tally {
	t := tally{votes: len(votes)}
	counts := map[[32]byte]int{}
	for i := range votes {
		counts[votes[i].digest]++
	}
	for i := range votes { // in the order of the votes, so that of equal ones the first counts
		if n := counts[votes[i].digest]; n > t.agreed {
			t.winner, t.agreed = votes[i].digest, n
		}
	}
	t.dissent = len(counts) > 1
	return t
}

// clear says that nobody else need be asked: nothing differs, or those who differ are a third at most. A
// narrow majority of those whom one race has measured may be one of liars.
func (t tally) clear(need int) bool {
	return t.decided(need) && (!t.dissent || 3*t.agreed >= 2*t.votes)
}

// decided says that the leading reply counts: enough have given it, and more than all others together.
func (t tally) decided(need int) bool { return t.agreed >= need && t.agreed > t.votes-t.agreed }
