package content

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// protocolBitswap is the one version spoken: it has DONT_HAVE, and every kubo since 0.5 has it
// (https://specs.ipfs.tech/bitswap-protocol/#bitswap-1-2-0).
const protocolBitswap protocol.ID = "/ipfs/bitswap/1.2.0"

// Limits of bitswap.
const (
	maxMessage   = network.MessageSizeMax // bytes of a message, 4 MiB: what boxo reads too
	maxWants     = 1024                   // wants of one message that are looked at, and wants of one peer that wait
	messageBytes = 512 << 10              // a message of blocks is sent when it has as many bytes
	haveAsBlock  = 1024                   // bytes up to which a peer that asks "have you?" gets the block itself, as boxo does
	maxSenders   = 32                     // peers that are being sent blocks at once, see shares
	maxStreamBuf = 8 << 10                // bytes charged for reading a stream at rest
)

// bitswapQuota: kubo keeps one stream open to us while it wants something, and opens one more for
// each message with blocks.
var bitswapQuota = quota{service: "cell.bitswap", perPeer: cellproto.MaxStreamsPeer, total: cellproto.MaxStreams, memory: maxStreamBuf}

// exchange speaks bitswap. This file is the half that reads messages and answers wants; want.go is
// the half that asks.
type exchange struct {
	host   host.Host
	blocks *blockStore
	timing *timing
	log    *zap.Logger

	ctx      context.Context // ends at stop
	cancel   context.CancelFunc
	in       *inbound
	out      streams            // what we opened, and goroutines
	slots    *shares            // one for each peer that is being sent blocks
	withhold bool               // peers are told that nothing is here
	friend   func(peer.ID) bool // blocks of artefacts are for these only; nil: for everybody
	again    func(cid.Cid)      // fetches a block that turned out corrupt when a peer wanted it

	mu    sync.Mutex
	waits map[cid.Cid]map[*wait]struct{}
	queue map[peer.ID]*outbox
}

// outbox is what one peer is to be sent. While it exists, a goroutine is sending it.
type outbox struct{ tasks []task }

// task is one answer.
type task struct {
	cid  cid.Cid
	what answer
	size int // bytes of the block, when it is one
}

type answer uint8

const (
	sendBlock answer = iota
	sendHave
	sendDontHave
)

func newExchange(h host.Host, b *blockStore, t *timing, charge func(peer.ID, error), log *zap.Logger) *exchange {
	x := &exchange{
		host: h, blocks: b, timing: t, log: log, slots: newShares(maxSenders, 1),
		waits: make(map[cid.Cid]map[*wait]struct{}), queue: make(map[peer.ID]*outbox),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.in = newInbound(bitswapQuota, x.serve, nil, charge, log)
	return x
}

func (x *exchange) stop() {
	x.cancel()
	x.in.stop()
	x.out.stop()
}

// serve reads the messages of one stream until the peer closes it or is idle.
func (x *exchange) serve(_ context.Context, st network.Stream) error {
	p := st.Conn().RemotePeer()
	r := bufio.NewReader(st)
	for {
		_ = st.SetReadDeadline(time.Now().Add(x.timing.idle))
		if _, err := r.Peek(1); err != nil {
			if errors.Is(err, io.EOF) || timedOut(err) {
				return nil // the end, or idle: the peer opens another one when it needs it
			}
			return cellproto.Errorf("read bitswap stream", cellproto.Unavailable, "%w", err)
		}
		_ = st.SetReadDeadline(time.Now().Add(x.timing.stall))
		n, err := messageLen(r)
		if err != nil {
			return err
		}
		if err := st.Scope().ReserveMemory(n, network.ReservationPriorityMedium); err != nil {
			return cellproto.Errorf("read bitswap message", cellproto.Overloaded, "%w", err)
		}
		src := &noting{Reader: r}
		msg, _, err := message.FromNet(src)
		st.Scope().ReleaseMemory(n)
		if src.err != nil {
			return cellproto.Errorf("read bitswap message", netKind(src.err), "%w", src.err)
		}
		if err != nil {
			return cellproto.Errorf("read bitswap message", cellproto.BadInput, "%w", err)
		}
		x.received(p, msg)
	}
}

// noting remembers the error with which reading ended: a message that did not arrive is nobody's
// fault, one that is malformed is its sender's.
type noting struct {
	io.Reader
	err error
}

func (r *noting) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.err = err
	}
	return n, err
}

// messageLen gives the length of the message that r is about to read, without reading it: boxo
// allocates what the length says.
func messageLen(r *bufio.Reader) (int, error) {
	const op = "read bitswap message"
	for i := 1; i <= binary.MaxVarintLen32; i++ {
		head, err := r.Peek(i)
		if err != nil {
			return 0, cellproto.Errorf(op, netKind(err), "cut off in its length: %w", err)
		}
		if head[i-1] >= 0x80 {
			continue // the varint goes on
		}
		n, _ := binary.Uvarint(head)
		if n > maxMessage {
			return 0, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", n, maxMessage)
		}
		return int(n), nil
	}
	return 0, cellproto.Errorf(op, cellproto.BadInput, "its length is no number of 32 bits")
}

// received hands on what a message brings and queues the answers to what it asks.
func (x *exchange) received(p peer.ID, msg message.BitSwapMessage) {
	x.mu.Lock()
	for _, b := range msg.Blocks() {
		for w := range x.waits[b.Cid()] {
			w.answer(reply{from: p, has: true, data: b.RawData()})
		}
	}
	for _, c := range msg.DontHaves() {
		for w := range x.waits[c] {
			w.answer(reply{from: p})
		}
	}
	x.mu.Unlock()

	wants := msg.Wantlist()
	slices.SortFunc(wants, func(a, b message.Entry) int { return int(b.Priority) - int(a.Priority) })
	var cancels []cid.Cid
	var tasks []task
	for _, e := range wants[:min(len(wants), maxWants)] {
		switch {
		case e.Cancel:
			cancels = append(cancels, e.Cid)
		case e.Cid.ByteLen() > maxCID || e.Cid.Prefix().MhType == mh.IDENTITY:
		default:
			if t, ok := x.answer(p, e); ok {
				tasks = append(tasks, t)
			}
		}
	}
	if len(cancels)+len(tasks) > 0 || msg.Full() {
		x.enqueue(p, tasks, cancels, msg.Full())
	}
}

// answer decides what a peer gets for one want.
func (x *exchange) answer(p peer.ID, e message.Entry) (task, bool) {
	size, ok := x.blocks.size(x.ctx, e.Cid)
	switch {
	case !ok || x.withhold || x.friend != nil && x.blocks.files.has(e.Cid) && !x.friend(p):
		return task{cid: e.Cid, what: sendDontHave}, e.SendDontHave
	case e.WantType == pb.Message_Wantlist_Block || size <= haveAsBlock:
		return task{cid: e.Cid, what: sendBlock, size: size}, true
	}
	return task{cid: e.Cid, what: sendHave}, true
}

// enqueue changes what a peer is to be sent, and starts to send it. Past maxWants the rest is not
// answered: the peer asks again.
func (x *exchange) enqueue(p peer.ID, tasks []task, cancels []cid.Cid, full bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	box := x.queue[p]
	if box == nil {
		if len(tasks) == 0 {
			return
		}
		box = &outbox{}
		x.queue[p] = box
		x.out.run(func() { x.drain(p, box) })
	}
	if full {
		box.tasks = nil
	}
	box.tasks = slices.DeleteFunc(box.tasks, func(t task) bool { return slices.Contains(cancels, t.cid) })
	for _, t := range tasks {
		if len(box.tasks) < maxWants && !slices.Contains(box.tasks, t) {
			box.tasks = append(box.tasks, t)
		}
	}
}

// drain sends a peer what its outbox holds, on one stream, until it is empty or sending fails.
func (x *exchange) drain(p peer.ID, box *outbox) {
	var st network.Stream
	var w *paced // writes to it
	defer func() {
		if st != nil {
			x.finish(st)
		}
	}()
	to := x.taker(p)
	if !x.slots.wait(x.ctx, to) {
		return
	}
	defer x.slots.free(to)
	for {
		batch := x.batch(p, box)
		if len(batch) == 0 {
			return
		}
		msg := x.compose(batch)
		if msg.Empty() {
			continue
		}
		var err error
		if st == nil {
			if st, err = x.openStream(x.ctx, p); err == nil {
				w = newPaced(st, x.timing.stall)
			}
		}
		if err == nil {
			err = msg.ToNetV1(w)
		}
		if err != nil {
			x.log.Debug("cannot send blocks", zap.Stringer("peer", p), zap.Error(err))
			x.mu.Lock()
			delete(x.queue, p)
			x.mu.Unlock()
			return
		}
	}
}

// taker says whose place it is to be sent something.
func (x *exchange) taker(p peer.ID) taker {
	for _, c := range x.host.Network().ConnsToPeer(p) {
		return takerOf(c)
	}
	return taker{peer: p}
}

// batch takes the next message's worth of tasks; when there are none it ends the outbox.
func (x *exchange) batch(p peer.ID, box *outbox) []task {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, bytes := 0, 0
	for n < len(box.tasks) && (n == 0 || bytes+box.tasks[n].size <= messageBytes) {
		bytes += box.tasks[n].size
		n++
	}
	if n == 0 {
		delete(x.queue, p)
		return nil
	}
	batch := box.tasks[:n:n]
	box.tasks = box.tasks[n:]
	return batch
}

// compose reads the blocks; one that turns out corrupt has just been removed, so "don't have" is true.
func (x *exchange) compose(batch []task) message.BitSwapMessage {
	msg := message.New(false)
	for _, t := range batch {
		switch t.what {
		case sendHave:
			msg.AddHave(t.cid)
		case sendDontHave:
			msg.AddDontHave(t.cid)
		case sendBlock:
			data, err := x.blocks.get(x.ctx, t.cid)
			if err == nil {
				var blk blocks.Block
				if blk, err = blocks.NewBlockWithCid(data, t.cid); err == nil {
					msg.AddBlock(blk)
				}
			}
			if err != nil {
				msg.AddDontHave(t.cid)
			}
			if errors.Is(err, errWasCorrupt) && x.again != nil {
				x.again(t.cid)
			}
		}
	}
	return msg
}

// openStream opens a bitswap stream. Relayed connections will do: a manifest fits the 128 KiB that a
// relay grants, and is the first thing that a caller behind two NATs needs.
func (x *exchange) openStream(ctx context.Context, p peer.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "bitswap"), x.timing.dial)
	defer cancel()
	st, err := x.host.NewStream(ctx, p, protocolBitswap)
	if err != nil {
		return nil, err
	}
	if !x.out.add(st) {
		_ = st.ResetWithError(network.StreamShutdown)
		return nil, context.Canceled
	}
	if err := st.Scope().SetService(bitswapQuota.service); err != nil {
		_ = st.ResetWithError(network.StreamResourceLimitExceeded)
		x.out.done(st)
		return nil, err
	}
	return st, nil
}

// finish closes a stream without waiting: Close blocks until the peer has confirmed the protocol.
func (x *exchange) finish(st network.Stream) {
	closing := x.out.run(func() {
		defer x.out.done(st)
		_ = st.Close()
	})
	if !closing {
		_ = st.Reset()
		x.out.done(st)
	}
}
