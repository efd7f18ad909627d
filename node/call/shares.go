package call

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
)

// What all callers of a nucleus share. Identities cost nothing: eight peers, each within what one peer may have, would else
// leave nothing for others.
const (
	sharedStreams = cellproto.MaxStreams // of the call protocol, from callers
	sharedUnread  = 128 << 20            // bytes that wait for them; with the buffers of as many streams what the host gives the protocol
)

// shares divides what there is of something among networks: each may take more while it has less than what is free (Choudhury
// and Hahne, "Dynamic queue length thresholds", 1998), so that the fuller it is, the less one may hold. The last quarter is for
// those who have nothing yet: by halves, nine networks would fill 512. Its methods may be used concurrently.
type shares struct {
	most int64

	mu  sync.Mutex
	all int64
	of  map[string]int64 // by network, of those that have something
}

func newShares(most int64) *shares { return &shares{most: most, of: map[string]int64{}} }

// take takes n for a network, or says that it is not to have them now. Else give is due.
func (s *shares) take(group string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, has := s.most-s.all, s.of[group]
	if has > 0 {
		free -= s.most / 4
	}
	if n > free || has >= free {
		return false
	}
	s.all += n
	s.of[group] += n
	return true
}

// give gives n back.
func (s *shares) give(group string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all -= n
	if s.of[group] -= n; s.of[group] == 0 {
		delete(s.of, group)
	}
}

// networkOf names those who share with a caller: all of its network, or on a private one, or where its address is not known, itself.
func networkOf(conn network.Conn) string {
	p := cellproto.PeerID(conn.RemotePeer().String())
	if group, _ := groupOf(conn.RemoteMultiaddr(), p); group != "" {
		return group
	}
	return string(p)
}

// fromCaller is a stream that a caller has opened. What waits for it counts against what its network may take, too.
type fromCaller struct {
	counted
	unread *shares
	group  string
}

// Reserve is stream's.
func (f fromCaller) Reserve(n int) error {
	if !f.unread.take(f.group, int64(n)) {
		return cellproto.Errorf("reserve memory", cellproto.Overloaded, "its network has its share of what waits for callers")
	}
	err := f.counted.Reserve(n)
	if err != nil {
		f.unread.give(f.group, int64(n))
	}
	return err
}

// Release is stream's.
func (f fromCaller) Release(n int) {
	f.counted.Release(n)
	f.unread.give(f.group, int64(n))
}
