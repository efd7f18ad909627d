package call

import (
	"context"
	"slices"
	"time"
)

// Where those who were measured do not decide who lies, races find further voters.

const (
	// maxRecruits is how many races are held for more voters where those of the last one do not decide clearly.
	// Each measures some of the providers, at random: with twenty of them three come to most.
	maxRecruits = 3
	// maxUndecided is how many, where those who lie alike are as many as the others so far: nothing would be known, and who lies
	// goes on to be called.
	maxUndecided = 8
	// maxIdleRecruits is how many of them in a row may bring nobody new: then there is nobody else.
	maxIdleRecruits = 2
)

// recruits is how many races may be held for more voters; after half, only as many as for any vote, so that what they say can be told.
func (p *poll) recruits(half time.Time) int {
	if t := count(p.votes); t.dissent && !t.decided(p.want.Agree) && time.Now().Before(half) {
		return maxUndecided
	}
	return maxRecruits
}

// recruit has a race find those who were not asked yet, if there are any. False: it cannot be held.
func (p *poll) recruit(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	if _, err := p.c.raceNow(ctx, p.r, p.op, true); err != nil {
		return false
	}
	fresh := slices.DeleteFunc(p.c.knownVoters(p.r), p.heard) // another group than before, by another address, is no further voice
	p.waiting = draw(fresh, newRand(), p.asked...)
	return true
}

// heard says that somebody has voted, or failed to.
func (p *poll) heard(v voter) bool {
	return slices.Contains(p.failed, v.Peer) || slices.ContainsFunc(p.votes, func(x vote) bool { return x.Peer == v.Peer })
}
