package call

import (
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// onTrial counts a call, and gives whom it goes to: who, unless another provider is to show now whether it is
// still as slow as it was. tried is due then.
func (c *Caller) onTrial(now time.Time, r *remote, who race.Ranked, req *cellproto.Request) race.Ranked {
	_, schema := r.description()
	r.mu.Lock()
	r.hedges.Called()
	if r.decision == nil || r.winner.Peer != who.Peer || req.Body != nil {
		r.mu.Unlock()
		return who
	}
	slow, first, ok := r.trials.Next(now, r.decision, func() bool { return schema != nil && schema.Functions[req.Header.Func].Pure })
	r.mu.Unlock()
	switch {
	case !ok:
		return who
	case c.lied(slow.Peer):
		c.tried(r, slow, 0, cellproto.Corrupt)
		return who
	}
	if first {
		c.deps.Log.Debug("a provider is on trial", zap.String("cell", string(r.name)), zap.String("peer", string(slow.Peer)))
		c.mu.Lock()
		c.reputation.TrialBegan(now, slow.Peer)
		c.mu.Unlock()
	}
	return slow
}

// tried notes how a call went that was given to a provider on trial; of any other it does nothing.
func (c *Caller) tried(r *remote, who race.Ranked, took time.Duration, kind cellproto.Kind) {
	if !who.Trial {
		return
	}
	now := time.Now()
	r.mu.Lock()
	verdict, all := r.trials.Ended(who.Peer, took, kind)
	r.mu.Unlock()
	if verdict == race.Undecided {
		return
	}
	c.deps.Log.Debug("the trial of a provider is over", zap.String("peer", string(who.Peer)), zap.Bool("passed", verdict == race.Passed))
	c.mu.Lock()
	if verdict == race.Lost {
		c.reputation.TrialLost(now, who.Peer)
		c.mu.Unlock()
		return
	}
	c.reputation.TrialPassed(now, who.Peer, all)
	obs := c.reputation.Observed(now, who.Peer)
	c.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.racing != nil { // what was known of the peer was looked up before
		r.racing.passed = append(r.racing.passed, shown{who.Peer, obs})
	}
	if r.decision = r.decision.Tried(who.Peer, obs); r.decision.Winner == who.Peer {
		r.winner.Yield(&r.decision.Ranking[0])
	}
}

// shown is what a peer has shown in its trial.
type shown struct {
	peer cellproto.PeerID
	obs  race.Observed
}
