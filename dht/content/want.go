package content

import (
	"context"
	"errors"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// Bounds of one search for a block.
const (
	maxAsked     = cellproto.MaxProviders // peers asked for one block
	maxConnected = 16                     // connected peers asked when none was named
	maxProviders = 10                     // peers taken from the routing, as boxo does
)

// reply is what came of asking one peer.
type reply struct {
	from peer.ID
	has  bool   // it sent the block
	data []byte // the block; its hash has been checked
	err  error  // why it could not be asked
}

// wait is one search that is waiting for a block.
type wait struct {
	asked   map[peer.ID]bool // false once it has answered; guarded by exchange.mu
	replies chan reply       // room for one from each peer that may be asked
}

// answer is called with exchange.mu held. A block counts whoever sends it, for its hash is right;
// anything else counts once, from a peer that was asked.
func (w *wait) answer(r reply) {
	if !r.has && !w.asked[r.from] {
		return
	}
	w.asked[r.from] = false
	select {
	case w.replies <- r:
	default: // more blocks than peers were asked: one of them is enough
	}
}

func (x *exchange) await(c cid.Cid) *wait {
	w := &wait{asked: make(map[peer.ID]bool), replies: make(chan reply, maxAsked)}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.waits[c] == nil {
		x.waits[c] = make(map[*wait]struct{})
	}
	x.waits[c][w] = struct{}{}
	return w
}

// forget ends a wait and tells those who have not answered that nothing is wanted any more.
func (x *exchange) forget(c cid.Cid, w *wait) {
	x.mu.Lock()
	delete(x.waits[c], w)
	last := len(x.waits[c]) == 0
	if last {
		delete(x.waits, c)
	}
	var silent []peer.ID
	for p, open := range w.asked {
		if open && last {
			silent = append(silent, p)
		}
	}
	x.mu.Unlock()
	for _, p := range silent {
		msg := message.New(false)
		msg.Cancel(c)
		x.out.run(func() {
			if err := x.send(x.ctx, p, msg); err != nil {
				x.log.Debug("cannot cancel a want", zap.Stringer("peer", p), zap.Error(err))
			}
		})
	}
}

// get asks the peers for c, one after the other, until one sends it: the next one at once when the
// last has said no, or after stagger when it is silent. It ends when peers is closed and all have
// answered, or with ctx; the caller ends ctx then, to end what feeds peers.
func (x *exchange) get(ctx context.Context, c cid.Cid, peers <-chan peer.ID, stagger time.Duration) ([]byte, peer.ID, error) {
	op := "get block " + c.String()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the dials
	w := x.await(c)
	defer x.forget(c, w)

	asked, open, unreached := 0, 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	ready := true
	for {
		if peers == nil && open == 0 && !errors.Is(ctx.Err(), context.Canceled) { // that ends peers, too
			if asked > 0 && unreached == asked {
				return nil, "", cellproto.Errorf(op, cellproto.Unavailable, "none of %d peers could be reached", asked)
			}
			return nil, "", notFound(op, asked, unreached)
		}
		var feed <-chan peer.ID
		if ready {
			feed = peers
		}
		select {
		case p, ok := <-feed:
			if !ok || asked == maxAsked {
				peers = nil
			} else if x.ask(ctx, p, c, w) {
				asked, open, ready = asked+1, open+1, false
				timer.Reset(stagger)
			}
		case r := <-w.replies:
			if r.has {
				return r.data, r.from, nil
			}
			if r.err != nil {
				unreached++
				x.log.Debug("cannot ask a peer for a block", zap.Stringer("peer", r.from), zap.Error(r.err))
			}
			open, ready = open-1, true
		case <-timer.C:
			ready = true
		case <-ctx.Done():
			kind := cellproto.KindOf(ctx.Err())
			if kind == cellproto.Timeout && open == 0 {
				return nil, "", notFound(op, asked, unreached)
			}
			return nil, "", cellproto.Errorf(op, kind, "%d of %d peers did not answer: %w", open, asked, ctx.Err())
		case <-x.ctx.Done():
			return nil, "", cellproto.Errorf(op, cellproto.Canceled, "the store is stopping")
		}
	}
}

func notFound(op string, asked, unreached int) error {
	return cellproto.Errorf(op, cellproto.NotFound, "%d peers were asked, %d could not be reached, none has it",
		asked, unreached).WithHint("Check the CID, and that a nucleus that has it is running and reachable.")
}

// ask sends a want to p in the background, once; its failure is a reply too.
func (x *exchange) ask(ctx context.Context, p peer.ID, c cid.Cid, w *wait) bool {
	x.mu.Lock()
	_, known := w.asked[p]
	if known || p == x.host.ID() {
		x.mu.Unlock()
		return false
	}
	w.asked[p] = true
	x.mu.Unlock()
	msg := message.New(false)
	msg.AddEntry(c, 1, pb.Message_Wantlist_Block, true)
	x.out.run(func() {
		if err := x.send(ctx, p, msg); err != nil {
			x.mu.Lock()
			w.answer(reply{from: p, err: err})
			x.mu.Unlock()
		}
	})
	return true
}

// send sends one message on a stream of its own.
func (x *exchange) send(ctx context.Context, p peer.ID, msg message.BitSwapMessage) error {
	st, err := x.openStream(ctx, p)
	if err != nil {
		return err
	}
	_ = st.SetWriteDeadline(time.Now().Add(x.timing.header))
	if err := msg.ToNetV1(st); err != nil {
		_ = st.Reset()
		x.out.done(st)
		return err
	}
	x.finish(st)
	return nil
}

// candidates feeds the peers that may have c until ctx ends: the named ones; connected peers that
// speak bitswap, if none was named; and what the routing finds. It is lazy: the routing is asked
// when the others have been taken.
func (s *Store) candidates(ctx context.Context, c cid.Cid, named []peer.ID) <-chan peer.ID {
	if len(named) == 0 {
		named = s.x.connected()
	}
	out := make(chan peer.ID)
	s.x.out.run(func() {
		defer close(out)
		feed := func(p peer.ID) bool {
			select {
			case out <- p:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for _, p := range named {
			if !feed(p) {
				return
			}
		}
		if s.deps.Routing == nil {
			return
		}
		for info := range s.deps.Routing.FindProvidersAsync(ctx, c, maxProviders) {
			if info.ID == s.x.host.ID() {
				continue
			}
			s.x.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
			if !feed(info.ID) {
				return
			}
		}
	})
	return out
}

// connected lists a few peers that speak bitswap and that we have a connection to.
func (x *exchange) connected() []peer.ID {
	var out []peer.ID
	for _, p := range x.host.Network().Peers() {
		if ok, err := x.host.Peerstore().SupportsProtocols(p, protocolBitswap); err == nil && len(ok) > 0 {
			if out = append(out, p); len(out) == maxConnected {
				break
			}
		}
	}
	return out
}
