package content

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"
	"lukechampine.com/blake3/bao"

	"github.com/celldnet/celld/cellproto"
)

// The protocol /cell/fetch/1: one stream, one artefact. The requester sends
//
//	u16  length of what follows, at most 1022
//	u8   1: the artefact is named by its BLAKE3; 2: by its CID
//	u64  offset: how many bytes the requester has, a multiple of 65536 below the size (or 0)
//	...  the 32 bytes of the BLAKE3, or the binary CID
//
// and closes its half. The responder answers
//
//	u8   0
//	u64  size of the artefact in bytes
//	32   its BLAKE3
//	...  unless size is 0, the Bao slice of [offset, size) with chunk groups of 2^6 chunks (64 KiB)
//
// or, when it cannot,
//
//	u8   kind of error (the number of a cellproto.Kind)
//	u32  with kind Overloaded: milliseconds to wait before the next attempt; else 0
//	u16  length of what follows, at most 512
//	...  the error's message, UTF-8
//
// and closes the stream; after the head of a good answer a failure is a reset. Integers are
// big-endian, but the slice is as Bao defines it: the size as u64 little-endian, then in pre-order
// for each parent node that the slice needs the 64 bytes of its children's hashes, and for each
// group its bytes (https://github.com/oconnor663/bao/blob/master/docs/spec.md).
const (
	nameHash = 1
	nameCID  = 2

	groupLog   = 6                // chunks of 1 KiB in a group, as a power of two
	groupBytes = 1024 << groupLog // what is verified at once

	maxFetchRequest = 1 << 10 // bytes of a request with its length
	maxRefusal      = 512     // bytes of an error's message; cut, not refused
	fetchBuf        = 256 << 10
)

// Fetches that are served at once, see shares; past that the answer is Overloaded.
const (
	maxFetchesPeer = 4
	maxFetches     = 32
	fetchRetry     = time.Second // what an overloaded server asks for
)

// fetchQuota allows more streams than fetches, so that one too many is answered, not reset.
var fetchQuota = quota{service: "cell.fetch", perPeer: 4 * maxFetchesPeer, total: 4 * maxFetches, memory: 2 * maxFetchRequest}

// fetchRequest is what a requester sends.
type fetchRequest struct {
	cid    cid.Cid // or else:
	sum    [32]byte
	offset int64
}

func (r fetchRequest) encode() []byte {
	kind, name := byte(nameHash), r.sum[:]
	if r.cid.Defined() {
		kind, name = nameCID, r.cid.Bytes()
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(9+len(name)))
	out = append(out, kind)
	out = binary.BigEndian.AppendUint64(out, uint64(r.offset))
	return append(out, name...)
}

func readFetchRequest(r io.Reader) (req fetchRequest, err error) {
	const op = "read fetch request"
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return req, cellproto.Errorf(op, netKind(err), "%w", err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxFetchRequest-2 {
		return req, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", n, maxFetchRequest-2)
	}
	if n < 9 {
		return req, cellproto.Errorf(op, cellproto.BadInput, "%d bytes are too few", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return req, cellproto.Errorf(op, netKind(err), "%w", err)
	}
	offset, name := binary.BigEndian.Uint64(body[1:]), body[9:]
	if offset > DefaultMaxFile || offset%groupBytes != 0 {
		return req, cellproto.Errorf(op, cellproto.BadInput, "offset %d is no multiple of %d below %d", offset, groupBytes, DefaultMaxFile)
	}
	req.offset = int64(offset)
	switch body[0] {
	case nameHash:
		if len(name) != len(req.sum) {
			return req, cellproto.Errorf(op, cellproto.BadInput, "a BLAKE3 of %d bytes", len(name))
		}
		copy(req.sum[:], name)
	case nameCID:
		if req.cid, err = cid.Cast(name); err != nil {
			return req, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
		}
	default:
		return req, cellproto.Errorf(op, cellproto.Unsupported, "a name of kind %d", body[0])
	}
	return req, nil
}

// fetchHead is the head of a good answer.
type fetchHead struct {
	size int64
	sum  [32]byte
}

func (h fetchHead) encode() []byte {
	out := binary.BigEndian.AppendUint64([]byte{0}, uint64(h.size))
	return append(out, h.sum[:]...)
}

func encodeRefusal(err error) []byte {
	text := err.Error()
	text = text[:min(len(text), maxRefusal)]
	out := []byte{byte(cellproto.KindOf(err))}
	out = binary.BigEndian.AppendUint32(out, uint32(cellproto.RetryAfterOf(err).Milliseconds()))
	out = binary.BigEndian.AppendUint16(out, uint16(len(text)))
	return append(out, text...)
}

// readFetchHead reads the head of an answer; a refusal is an error of the kind that it names.
func readFetchHead(r io.Reader) (h fetchHead, err error) {
	const op = "read fetch answer"
	var buf [40]byte
	read := func(p []byte) bool {
		_, err = io.ReadFull(r, p)
		return err == nil
	}
	if !read(buf[:1]) {
		return h, cellproto.Errorf(op, netKind(err), "%w", err)
	}
	if kind := cellproto.Kind(buf[0]); kind != 0 {
		if !read(buf[:6]) {
			return h, cellproto.Errorf(op, netKind(err), "%w", err)
		}
		wait := time.Duration(binary.BigEndian.Uint32(buf[:])) * time.Millisecond
		n := binary.BigEndian.Uint16(buf[4:])
		if n > maxRefusal {
			return h, cellproto.Errorf(op, cellproto.TooLarge, "a message of %d bytes, at most %d", n, maxRefusal)
		}
		text := make([]byte, n)
		if !read(text) {
			return h, cellproto.Errorf(op, netKind(err), "%w", err)
		}
		switch kind {
		case cellproto.Timeout, cellproto.Canceled, cellproto.Corrupt:
			kind = cellproto.Unavailable // those are this side's to say
		}
		refusal := cellproto.Errorf("fetch", kind, "the peer says: %q", text)
		refusal.RetryAfter = wait
		return h, refusal
	}
	if !read(buf[:40]) {
		return h, cellproto.Errorf(op, netKind(err), "%w", err)
	}
	size := binary.BigEndian.Uint64(buf[:])
	if size > DefaultMaxFile {
		return h, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", size, DefaultMaxFile)
	}
	h.size = int64(size)
	copy(h.sum[:], buf[8:])
	return h, nil
}

// netKind is the kind of an error of reading from or writing to a peer.
func netKind(err error) cellproto.Kind {
	switch kind := cellproto.KindOf(err); {
	case kind == cellproto.Canceled:
		return kind
	case timedOut(err):
		return cellproto.Timeout
	default:
		return cellproto.Unavailable
	}
}

// timedOut reports a deadline that passed; yamux has an error of its own for it.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return cellproto.KindOf(err) == cellproto.Timeout || errors.As(err, &timeout) && timeout.Timeout()
}

// outboardSize is the length of a Bao tree without the bytes: 8 for the size, 64 for each parent.
func outboardSize(size int64) int { return bao.EncodedSize(int(size), groupLog, true) }

// encodeSlice writes the slice [offset, size) of data, whose tree is outboard. size is not 0.
func encodeSlice(dst io.Writer, data io.ReaderAt, outboard []byte, size, offset int64) error {
	w := bufio.NewWriterSize(dst, fetchBuf)
	src := io.NewSectionReader(data, offset, size-offset)
	err := bao.ExtractSlice(w, src, bytes.NewReader(outboard), groupLog, uint64(offset), uint64(size-offset))
	if err != nil {
		return err
	}
	return w.Flush()
}

// sinkError is a failure of this side's own disk: no other peer can help.
type sinkError struct{ error }

func (e sinkError) Unwrap() error { return e.error }

type sink struct{ w io.Writer }

func (s sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		err = sinkError{err}
	}
	return n, err
}

// decodeSlice reads the slice [offset, size) of the artefact whose BLAKE3 is sum and writes its
// bytes to dst, each group once it is verified. Bytes that are not the artefact's are Corrupt, an
// end that comes early is Unavailable. size is not 0.
func decodeSlice(dst io.Writer, src io.Reader, sum [32]byte, size, offset int64) error {
	const op = "read artefact"
	r := bufio.NewReaderSize(src, groupBytes)
	head, err := r.Peek(8)
	if err != nil {
		return cellproto.Errorf(op, netKind(err), "%w", err)
	}
	if n := binary.LittleEndian.Uint64(head); n != uint64(size) {
		return cellproto.Errorf(op, cellproto.Corrupt, "a tree of %d bytes, not %d", n, size)
	}
	ok, err := bao.DecodeSlice(sink{dst}, r, groupLog, uint64(offset), uint64(size-offset), sum)
	var local sinkError
	switch {
	case errors.As(err, &local):
		return err
	case err != nil:
		return cellproto.Errorf(op, netKind(err), "%w", err)
	case !ok:
		return cellproto.Errorf(op, cellproto.Corrupt, "the bytes do not match the BLAKE3")
	}
	return nil
}

func overloaded(format string, args ...any) error {
	err := cellproto.Errorf("serve fetch", cellproto.Overloaded, format, args...)
	err.RetryAfter = fetchRetry
	return err
}

// begunError is a failure after the head of a good answer: only a reset can tell the peer.
type begunError struct{ error }

func (e begunError) Unwrap() error { return e.error }

// serveFetch answers one stream.
func (s *Store) serveFetch(_ context.Context, st network.Stream) error {
	_ = st.SetReadDeadline(time.Now().Add(s.timing.header))
	req, err := readFetchRequest(st)
	if err != nil {
		return err
	}
	from := takerOf(st.Conn())
	if !s.slots.take(from) {
		all, own := s.slots.held(from)
		return overloaded("%d fetches are being served, %d of them to you", all, own)
	}
	defer s.slots.free(from)
	if err := st.Scope().ReserveMemory(fetchBuf+groupBytes, network.ReservationPriorityMedium); err != nil {
		return overloaded("no memory: %w", err)
	}
	defer st.Scope().ReleaseMemory(fetchBuf + groupBytes)
	rec := s.files.byHash(req.sum)
	if req.cid.Defined() {
		rec = s.files.byCID(req.cid)
	}
	if rec == nil || s.cfg.Withhold || s.deps.Friend != nil && !s.deps.Friend(st.Conn().RemotePeer()) {
		return cellproto.Errorf("serve fetch", cellproto.NotFound, "no such artefact is here")
	}
	if req.offset > 0 && req.offset >= rec.file.Size {
		return cellproto.Errorf("serve fetch", cellproto.BadInput, "offset %d of %d bytes", req.offset, rec.file.Size)
	}
	f, err := rec.open()
	if err != nil {
		if cellproto.KindOf(err) == cellproto.NotFound {
			s.files.drop(rec.file.CID)
		}
		s.log.Info("cannot serve an artefact", zap.Error(err)) // names a path, which is not the peer's business
		return cellproto.Errorf("serve fetch", cellproto.KindOf(err), "the artefact cannot be read")
	}
	defer f.Close() // only read from
	w := newPaced(st, s.timing.stall)
	if _, err := w.Write(fetchHead{rec.file.Size, rec.file.BLAKE3}.encode()); err != nil {
		return begunError{err}
	}
	if rec.file.Size == 0 {
		return nil
	}
	if err := encodeSlice(w, f, rec.outboard, rec.file.Size, req.offset); err != nil {
		return begunError{err}
	}
	return nil
}

// refuseFetch tells the peer why it gets nothing.
func (s *Store) refuseFetch(st network.Stream, err error) bool {
	var begun begunError
	if errors.As(err, &begun) || netFailure(err) {
		return false
	}
	_ = st.SetWriteDeadline(time.Now().Add(s.timing.header))
	_, werr := st.Write(encodeRefusal(err))
	return werr == nil
}

// netFailure reports that the request did not arrive, so that nobody waits for an answer.
func netFailure(err error) bool {
	k := cellproto.KindOf(err)
	return k == cellproto.Unavailable || k == cellproto.Timeout || k == cellproto.Canceled
}

// fetchFrom copies what dst lacks of want from one peer. dst gets verified bytes only.
func (s *Store) fetchFrom(ctx context.Context, from peer.AddrInfo, want File, dst *part) error {
	op := "fetch from " + from.ID.String()
	dial, cancel := context.WithTimeout(ctx, s.timing.dial)
	defer cancel()
	if err := s.deps.Host.Connect(dial, from); err != nil {
		return cellproto.Errorf(op, dialKind(ctx, err), "%w", err)
	}
	// Not over a relay: it grants 128 KiB. NewStream waits for the hole punched instead.
	st, err := s.deps.Host.NewStream(dial, from.ID, protocol.ID(cellproto.ProtocolFetch))
	if err != nil {
		return cellproto.Errorf(op, dialKind(ctx, err), "%w", err)
	}
	defer st.Reset() // after Close nothing; else it tells the peer to stop
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	if err := st.Scope().SetService(fetchQuota.service); err != nil {
		return cellproto.Errorf(op, cellproto.Overloaded, "%w", err)
	}
	_ = st.SetDeadline(time.Now().Add(s.timing.header))
	offset := dst.done
	err = func() error {
		if _, err := st.Write(fetchRequest{sum: want.BLAKE3, offset: offset}.encode()); err != nil {
			return cellproto.Errorf(op, netKind(err), "%w", err)
		}
		_ = st.CloseWrite()
		head, err := readFetchHead(st)
		if err != nil {
			return err
		}
		if head.size != want.Size || head.sum != want.BLAKE3 {
			return cellproto.Errorf(op, cellproto.Corrupt, "the peer has another file of %d bytes under this name", head.size)
		}
		if want.Size == 0 {
			return nil
		}
		return decodeSlice(dst, newPaced(st, s.timing.stall), want.BLAKE3, want.Size, offset)
	}()
	if ctx.Err() != nil {
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err()) // the reset was ours
	}
	if err == nil {
		_ = st.Close()
	}
	return err
}

// dialKind is the kind of an error of reaching a peer: a timeout of the dial alone is Unavailable.
func dialKind(ctx context.Context, err error) cellproto.Kind {
	if ctx.Err() != nil {
		return cellproto.KindOf(ctx.Err())
	}
	return cellproto.Unavailable
}

// alignDown gives the end of the last whole group before n.
func alignDown(n int64) int64 { return n - n%groupBytes }
