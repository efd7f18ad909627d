package patch

import (
	"crypto/ed25519"
	"math/bits"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/celldnet/celld/cellproto"
)

// Make gives the patch that turns the program base into result, signed with key. It takes some seconds
// for large programs, and memory of about ten times their size. Kinds: TooLarge past a limit of
// cellproto, BadInput for programs that are empty or the same.
func Make(base, result []byte, created time.Time, key ed25519.PrivateKey) ([]byte, error) {
	const op = "make patch"
	h := Header{
		Base: cellproto.BLAKE3(base), BaseSize: int64(len(base)), Result: cellproto.BLAKE3(result), ResultSize: int64(len(result)),
		DeltaSize: 1, Created: created,
	}
	if err := h.body().check(op); err != nil { // before the long work
		return nil, err
	}
	delta, err := compress(base, result)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	h.Delta, h.DeltaSize = cellproto.BLAKE3(delta), int64(len(delta))
	out, err := h.Seal(key)
	if err != nil {
		return nil, err
	}
	if _, err := h.Rebuild(base, delta, cellproto.BLAKE3); err != nil { // what is signed is what comes out
		return nil, err
	}
	return append(out, delta...), nil
}

// compress makes the delta. The window reaches from the end of result to the beginning of base.
func compress(base, result []byte) ([]byte, error) {
	window := max(1<<bits.Len(uint(len(base)+len(result))), zstd.MinWindowSize)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(0, base), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(min(window, zstd.MaxWindowSize)), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	return enc.EncodeAll(result, nil), nil
}

// Rebuild gives the program that a patch makes of base, which it checks by size and hash with sum, as
// it does delta, the bytes after the header, and the result. It allocates ResultSize bytes and little
// else, and not before all that goes in is what was signed. Kinds: Corrupt for what has another hash
// than the header says, BadInput for a delta that does not fit.
func (h *Header) Rebuild(base, delta []byte, sum Sum) ([]byte, error) {
	const op = "apply patch"
	if int64(len(base)) != h.BaseSize || sum(base) != h.Base {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the program is not the one that the patch is for")
	}
	if err := h.CheckDelta(delta); err != nil {
		return nil, err
	}
	var frame zstd.Header
	if err := frame.Decode(delta); err != nil || frame.Skippable || !frame.HasFCS || frame.FrameContentSize != uint64(h.ResultSize) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the delta is not a frame of %d bytes", h.ResultSize)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(0, base), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer dec.Close()
	result, err := dec.DecodeAll(delta, make([]byte, 0, h.ResultSize))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the delta does not fit the program: %w", err)
	}
	if int64(len(result)) != h.ResultSize || sum(result) != h.Result {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "what comes out is not the program that was signed")
	}
	return result, nil
}

// maxWindow bounds the window that a delta may name. DecodeAll allocates none: it looks back into what
// it has given out.
const maxWindow = 2 * cellproto.MaxPatchProgram

// CheckDelta says whether delta, the bytes after the header, are those that were signed; Corrupt if not.
func (h *Header) CheckDelta(delta []byte) error {
	if int64(len(delta)) != h.DeltaSize || cellproto.BLAKE3(delta) != h.Delta {
		return cellproto.Errorf("read patch", cellproto.Corrupt, "its delta is not the one that was signed")
	}
	return nil
}
