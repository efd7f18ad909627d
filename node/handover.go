package node

import (
	"os"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/call"
)

// handover is a nucleus as one celld leaves it to another, in the same process: what it knows, and the
// numbers of the descriptors that the process goes on having. It is one CBOR map in a file in memory,
// whose number is in the environment variable envHandover.
type handover struct {
	Format  uint     `cbor:"1,keyasint"` // handoverFormat
	Dir     string   `cbor:"2,keyasint"`
	From    string   `cbor:"3,keyasint"` // the version of celld that hands over
	Begun   int64    `cbor:"4,keyasint"` // of the nucleus, unix ms
	Lock    int      `cbor:"5,keyasint"` // descriptors: run/lock, taken,
	Cell    int      `cbor:"6,keyasint"` // the listening sockets,
	Control int      `cbor:"7,keyasint"`
	Waiting []int    `cbor:"8,keyasint,omitempty"` // and callers of whom nothing was read
	Callers []caller `cbor:"9,keyasint,omitempty"`

	Program      []byte `cbor:"10,keyasint,omitempty"` // program.Handover; none: headless
	ProgramFiles []int  `cbor:"11,keyasint,omitempty"`

	Server     call.HandedServer `cbor:"12,keyasint"`
	Release    string            `cbor:"13,keyasint"`           // the version of the cell that is served
	Binary     hashed            `cbor:"19,keyasint"`           // the program that is served
	Configured []string          `cbor:"14,keyasint,omitempty"` // [network] listen, as it was read
	Listening  []string          `cbor:"15,keyasint,omitempty"` // the addresses that this came to
	Stderr     bool              `cbor:"16,keyasint,omitempty"` // the log goes to standard error too
	Held       int64             `cbor:"18,keyasint"`           // since when callers are held, unix µs
	Failed     string            `cbor:"17,keyasint,omitempty"` // why the celld that hands over takes over itself
}

// hashed is a file and its BLAKE3.
type hashed struct {
	Device  uint64 `cbor:"1,keyasint"`
	Inode   uint64 `cbor:"2,keyasint"`
	Size    int64  `cbor:"3,keyasint"`
	ModTime int64  `cbor:"4,keyasint"` // unix ns
	BLAKE3  []byte `cbor:"5,keyasint,omitempty"`
}

// caller is one on the cell's socket whose calls pass through here.
type caller struct {
	FD     int         `cbor:"1,keyasint"`
	Handed call.Handed `cbor:"2,keyasint"`
}

// envHandover names the environment variable with the number of the state's descriptor.
const envHandover = "CELL_HANDOVER_FD"

// Limits of the state.
const (
	maxHandover    = 256 << 20 // bytes
	maxHandedFiles = 64 << 10
	maxHandedText  = 64 << 10
)

var handoverEncoder = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

var handoverDecoder = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 8, MaxArrayElements: maxHandedFiles, MaxMapPairs: 32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

func (h *handover) marshal() ([]byte, error) {
	const op = "hand over"
	b, err := handoverEncoder.Marshal(h)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	if len(b) > maxHandover {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(b), maxHandover)
	}
	return b, nil
}

// parseHandover reads the state that another celld has left. An error is Corrupt, TooLarge or
// Unsupported.
func parseHandover(b []byte) (*handover, error) {
	const op = "take over"
	if len(b) > maxHandover {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(b), maxHandover)
	}
	var format struct {
		Format uint `cbor:"1,keyasint"`
	}
	lenient, err := cbor.DecOptions{MaxArrayElements: maxHandedFiles, MaxMapPairs: 32, MaxNestedLevels: 8}.DecMode()
	if err == nil {
		err = lenient.Unmarshal(b, &format)
	}
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	if format.Format != handoverFormat {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "the state has format %d, this celld reads %d", format.Format, handoverFormat)
	}
	h := &handover{}
	if err := handoverDecoder.Unmarshal(b, h); err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	seen := map[int]bool{}
	for _, fd := range h.files() {
		if fd <= 2 || seen[fd] {
			return nil, cellproto.Errorf(op, cellproto.Corrupt, "descriptor %d cannot be what it is said to be", fd)
		}
		seen[fd] = true
	}
	for _, text := range append([]string{h.Dir, h.From, h.Release, h.Failed}, append(h.Configured, h.Listening...)...) {
		if len(text) > maxHandedText {
			return nil, cellproto.Errorf(op, cellproto.Corrupt, "a text of %d bytes", len(text))
		}
	}
	return h, nil
}

// files gives every descriptor that belongs to h.
func (h *handover) files() []int {
	fds := append([]int{h.Lock, h.Cell, h.Control}, h.Waiting...)
	for _, c := range h.Callers {
		fds = append(fds, c.FD)
	}
	return append(fds, h.ProgramFiles...)
}

// identify describes a file that has been hashed; nil gives the zero value.
func identify(info os.FileInfo, sum signed.Digest) hashed {
	if info == nil {
		return hashed{}
	}
	h := hashed{Size: info.Size(), ModTime: info.ModTime().UnixNano(), BLAKE3: sum[:]}
	h.Device, h.Inode = inode(info)
	return h
}

// of gives the hash of a file, if it is that one, and unchanged.
func (h hashed) of(info os.FileInfo) (sum signed.Digest, ok bool) {
	if len(h.BLAKE3) != len(sum) || h.Inode == 0 {
		return sum, false
	}
	copy(sum[:], h.BLAKE3)
	now := identify(info, sum)
	return sum, now.Device == h.Device && now.Inode == h.Inode && now.Size == h.Size && now.ModTime == h.ModTime
}

func (h *handover) begun() time.Time { return time.UnixMilli(h.Begun) }
