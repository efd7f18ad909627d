package call

import (
	"context"
	"sync"

	"github.com/celldnet/celld/cellproto"
)

// restText is what the callers of a cell at rest are told.
const restText = "the machine is needed by its owner: call another provider"

// Rest has all peers on the network leave, and refuses them until Welcome. Their calls in flight may go
// on until ctx ends; the connections of those that have not ended then are cut, and of callers on Unix
// sockets as well: their program is about to stand still. It gives how many calls were cut.
func (s *Server) Rest(ctx context.Context) (cut int) {
	s.mu.Lock()
	s.away = true
	peers, local := []*cellproto.Conn{}, []*cellproto.Conn{}
	for c, sess := range s.conns {
		if sess.who.Peer != "" {
			peers = append(peers, c)
		} else {
			local = append(local, c)
		}
	}
	s.mu.Unlock()
	var leaving sync.WaitGroup
	var busy sync.Map
	for _, c := range peers {
		leaving.Go(func() {
			if n := farewell(ctx, c, restText); n > 0 {
				busy.Store(c, n)
			}
		})
	}
	for _, c := range local {
		leaving.Go(func() {
			if n := quiet(ctx, c); n > 0 {
				busy.Store(c, n)
			}
		})
	}
	leaving.Wait()
	for c, n := range busy.Range {
		cut += n.(int)
		c.(*cellproto.Conn).Close()
	}
	return cut
}
