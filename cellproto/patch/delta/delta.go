// Package delta makes and applies what a patch (cellproto/patch) carries after its header: one
// Zstandard frame with the old program as its dictionary.
//
// It is apart from the header because of what it links: the compressor costs every process half a
// millisecond at its start, and cellctl, which is one process a call, does without. celld -delta makes
// deltas for it.
package delta

import (
	"bytes"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
)

// Make gives the delta that turns the program base into result. It takes some seconds for large
// programs, and memory of about ten times their size. Kinds: TooLarge past a limit of cellproto,
// BadInput for programs that are empty.
func Make(base, result []byte) ([]byte, error) {
	const op = "make delta"
	for _, program := range [][]byte{base, result} {
		switch {
		case len(program) == 0:
			return nil, cellproto.Errorf(op, cellproto.BadInput, "a program is empty")
		case len(program) > cellproto.MaxPatchProgram:
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "a program has %d bytes, the limit is %d", len(program), cellproto.MaxPatchProgram)
		}
	}
	// The window reaches from the end of result to the beginning of base.
	window := max(1<<bits.Len(uint(len(base)+len(result))), zstd.MinWindowSize)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(0, base), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(min(window, zstd.MaxWindowSize)), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer enc.Close()
	delta := enc.EncodeAll(result, nil)
	if len(delta) > cellproto.MaxPatchDelta {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "the programs differ by %d bytes, the limit is %d", len(delta), cellproto.MaxPatchDelta)
	}
	if again, err := decompress(op, base, delta, len(result)); err != nil || !bytes.Equal(again, result) {
		return nil, cellproto.Errorf(op, cellproto.Failed, "what was compressed does not come out again: %w", err)
	}
	return delta, nil
}

// Apply gives the program that a patch makes of base, which it checks by size and hash with sum, as
// it does delta, the bytes after the header, and the result. It allocates ResultSize bytes and little
// else, and not before all that goes in is what was signed. Kinds: Corrupt for what has another hash
// than the header says, BadInput for a delta that does not fit.
func Apply(h *patch.Header, base, delta []byte, sum patch.Sum) ([]byte, error) {
	const op = "apply patch"
	if int64(len(base)) != h.BaseSize || sum(base) != h.Base {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the program is not the one that the patch is for")
	}
	if err := h.CheckDelta(delta); err != nil {
		return nil, err
	}
	result, err := decompress(op, base, delta, int(h.ResultSize))
	if err != nil {
		return nil, err
	}
	if sum(result) != h.Result {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "what comes out is not the program that was signed")
	}
	return result, nil
}

// maxWindow bounds the window that a frame may name. DecodeAll allocates none: it looks back into what
// it has given out.
const maxWindow = 2 * cellproto.MaxPatchProgram

// decompress gives the size bytes that delta says it has.
func decompress(op string, base, delta []byte, size int) ([]byte, error) {
	var frame zstd.Header
	if err := frame.Decode(delta); err != nil || frame.Skippable || !frame.HasFCS || frame.FrameContentSize != uint64(size) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the delta is not a frame of %d bytes", size)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(0, base), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer dec.Close()
	result, err := dec.DecodeAll(delta, make([]byte, 0, size))
	if err == nil && len(result) != size {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the delta has %d bytes, not %d", len(result), size)
	}
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the delta does not fit the program: %w", err)
	}
	return result, nil
}
