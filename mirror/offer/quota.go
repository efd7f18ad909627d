package offer

import (
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/addrgroup"
)

// Offers that are looked at in a minute. A signature costs some 100 µs, and identities cost nothing, but
// addresses do.
const (
	quotaPeer   = 8
	quotaGroup  = 32
	quotaAll    = 128
	quotaWindow = time.Minute
)

// quota counts offers. Those of the window before count for what is left of it, so that it lets through
// no more than the limit in any minute, about.
type quota struct {
	mu     sync.Mutex
	begun  time.Time
	now    counts
	before counts
}

type counts struct {
	all    int
	peers  map[peer.ID]int
	groups map[string]int
}

func newCounts() counts { return counts{peers: map[peer.ID]int{}, groups: map[string]int{}} }

// add counts n more of one asker, and forgets whoever has none.
func (c *counts) add(from Asker, n int) {
	c.all += n
	if c.peers[from.Peer] += n; c.peers[from.Peer] == 0 {
		delete(c.peers, from.Peer)
	}
	if c.groups[from.Group] += n; c.groups[from.Group] == 0 {
		delete(c.groups, from.Group)
	}
}

func newQuota() *quota { return &quota{now: newCounts(), before: newCounts()} }

// take counts an offer, or says when there is room for it: Overloaded.
func (q *quota) take(now time.Time, from Asker) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch since := now.Sub(q.begun); {
	case since >= 2*quotaWindow || since < 0:
		q.begun, q.now, q.before = now, newCounts(), newCounts()
	case since >= quotaWindow:
		q.begun, q.now, q.before = q.begun.Add(quotaWindow), newCounts(), q.now
	}
	share := 1 - float64(now.Sub(q.begun))/float64(quotaWindow)
	sum := func(now, before int) float64 { return float64(now) + share*float64(before) }
	group := sum(q.now.groups[from.Group], q.before.groups[from.Group])
	full := ""
	switch free := quotaAll - sum(q.now.all, q.before.all); {
	case free <= 0:
		full = fmt.Sprintf("there were %d offers", quotaAll)
	case sum(q.now.peers[from.Peer], q.before.peers[from.Peer]) >= quotaPeer:
		full = fmt.Sprintf("there were %d offers of this peer", quotaPeer)
	case group >= quotaGroup:
		full = fmt.Sprintf("there were %d offers of this network", quotaGroup)
	case !fairShare(group, free):
		full = fmt.Sprintf("there were %.0f offers of this network, and there is room for %.0f more of all", group, free)
	default:
		q.now.add(from, 1)
		return nil
	}
	err := cellproto.Errorf("take an offer", cellproto.Overloaded, "%s in a minute", full)
	err.RetryAfter = quotaWindow
	return err
}

// fairShare says whether a network that has so much of what all share may have one more: it has less than half of what is
// free (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). So the fuller it is, the less one network may hold,
// and whoever has nothing yet finds room as long as there is any: to fill 32 places takes eight networks.
func fairShare(has, free float64) bool { return free >= 1 && 2*has < free }

// GroupOf names the network that an address is in: addrgroup.Of; of a private or loopback address itself, since
// there is no cheap supply of those from afar.
func GroupOf(a ma.Multiaddr) string {
	if a != nil && !addrgroup.IsRelayed(a) && !manet.IsPublicAddr(a) {
		if ip, ok := addrgroup.IP(a); ok {
			return ip.String()
		}
	}
	return addrgroup.Of(a)
}
