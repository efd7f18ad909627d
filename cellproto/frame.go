package cellproto

import (
	"encoding/binary"
	"fmt"
)

// FrameType says what a frame is. The numbers are part of the protocol.
type FrameType uint8

// The types of frame.
const (
	TypeRequest FrameType = 1  // begins a call; payload: the arguments
	TypeReply   FrameType = 2  // answers it; payload: the result, or an error's message
	TypeEvent   FrameType = 3  // fire and forget; id 0
	TypeChunk   FrameType = 4  // a piece of a body
	TypeEnd     FrameType = 5  // no more pieces; with an error kind in its header, the body is cut short
	TypeCancel  FrameType = 6  // the caller gave up; the callee still ends the call with a reply
	TypePing    FrameType = 7  // answered by a pong with the same id and payload (<= 64 bytes)
	TypePong    FrameType = 8  //
	TypeHello   FrameType = 9  // the first frame each way; see Hello
	TypeGoaway  FrameType = 10 // finish what is in flight, begin nothing new here
	TypeCredit  FrameType = 11 // payload: u32, bytes that the sender of a body may send on top
)

// Flags of a frame.
const (
	FlagHeader uint8 = 1 // a u16 length and a header map stand before the payload
	FlagMore   uint8 = 2 // on request and reply: a body follows in chunks, up to an end
)

// FrameHeaderSize is the fixed part of a frame, in bytes: length u32, type u8, flags u8, stream
// u16, id u32, big-endian. The length counts what follows these 12 bytes.
const FrameHeaderSize = 12

// Frame is one frame. One that was read aliases the connection's buffer: Payload and the byte
// fields of Header hold only until the handler returns.
type Frame struct {
	Type    FrameType
	More    bool   // a body follows
	ID      uint32 // of the call; odd when the opener of the connection began it. 0: of none
	Header  Header
	Payload []byte
}

// AppendFrame appends f in its wire form. It fails with TooLarge past MaxFrame or MaxHeader, and
// then returns dst as it was.
func AppendFrame(dst []byte, f *Frame) ([]byte, error) {
	start := len(dst)
	var flags uint8
	if f.More {
		flags |= FlagMore
	}
	dst = append(dst, 0, 0, 0, 0, byte(f.Type), 0, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(dst[start+8:], f.ID)
	if n := f.Header.fields(); n > 0 {
		flags |= FlagHeader
		dst = append(dst, 0, 0)
		body := len(dst)
		dst = f.Header.appendTo(dst, n)
		if len(dst)-body > MaxHeader {
			return dst[:start], Errorf("send frame", TooLarge, "header of %d bytes, the limit is %d", len(dst)-body, MaxHeader)
		}
		binary.BigEndian.PutUint16(dst[body-2:], uint16(len(dst)-body))
	}
	dst = append(dst, f.Payload...)
	size := len(dst) - start - FrameHeaderSize
	if size > MaxFrame {
		return dst[:start], Errorf("send frame", TooLarge, "frame of %d bytes, the limit is %d", size, MaxFrame)
	}
	dst[start+5] = flags
	binary.BigEndian.PutUint32(dst[start:], uint32(size))
	return dst, nil
}

// FrameSize gives the whole size of the frame that data begins with, or 0 when its first 12 bytes
// are not all there. It fails as ParseFrame does, before the rest has been read.
func FrameSize(data []byte) (int, error) {
	if len(data) < FrameHeaderSize {
		return 0, nil
	}
	size := binary.BigEndian.Uint32(data)
	if size > MaxFrame {
		return 0, Errorf("read frame", TooLarge, "frame of %d bytes, the limit is %d", size, MaxFrame)
	}
	typ := FrameType(data[4])
	if typ < TypeRequest || typ > TypeCredit {
		return 0, Errorf("read frame", BadInput, "unknown frame type %d", typ)
	}
	if data[5]&^(FlagHeader|FlagMore) != 0 {
		return 0, Errorf("read frame", BadInput, "unknown flags %#x", data[5])
	}
	if stream := binary.BigEndian.Uint16(data[6:]); stream != 0 {
		return 0, Errorf("read frame", Unsupported, "stream %d: this version has one body a direction", stream)
	}
	return FrameHeaderSize + int(size), nil
}

// ParseFrame reads the frame that data begins with and returns how many bytes it took, 0 when it
// is not all there. Errors are of kind TooLarge, BadInput or Unsupported; after one the connection
// cannot be read further.
func ParseFrame(data []byte) (f Frame, n int, err error) {
	n, err = FrameSize(data)
	if err != nil || n == 0 || len(data) < n {
		return Frame{}, 0, err
	}
	f.Type = FrameType(data[4])
	f.More = data[5]&FlagMore != 0
	f.ID = binary.BigEndian.Uint32(data[8:])
	rest := data[FrameHeaderSize:n]
	if data[5]&FlagHeader != 0 {
		if len(rest) < 2 {
			return Frame{}, 0, Errorf("read frame", BadInput, "no room for the header's length")
		}
		size := int(binary.BigEndian.Uint16(rest))
		if size > MaxHeader {
			return Frame{}, 0, Errorf("read frame", TooLarge, "header of %d bytes, the limit is %d", size, MaxHeader)
		}
		if len(rest) < 2+size {
			return Frame{}, 0, Errorf("read frame", BadInput, "header of %d bytes in a frame of %d", size, len(rest))
		}
		if f.Header, err = parseHeader(rest[2 : 2+size]); err != nil {
			return Frame{}, 0, err
		}
		rest = rest[2+size:]
	}
	f.Payload = rest
	if err := f.check(); err != nil {
		return Frame{}, 0, err
	}
	return f, n, nil
}

// check enforces what each type of frame must look like.
func (f *Frame) check() error {
	bad := func(format string, args ...any) error {
		return Errorf("read frame", BadInput, format, args...)
	}
	if f.More && f.Type != TypeRequest && f.Type != TypeReply {
		return bad("frame type %d cannot announce a body", f.Type)
	}
	switch f.Type {
	case TypeRequest, TypeReply, TypeChunk, TypeEnd, TypeCancel:
		if f.ID == 0 {
			return bad("frame type %d without a call", f.Type)
		}
	case TypePing, TypePong:
		if len(f.Payload) > maxPing {
			return bad("ping of %d bytes, the limit is %d", len(f.Payload), maxPing)
		}
	case TypeCredit:
		if f.ID == 0 || len(f.Payload) != 4 {
			return bad("malformed credit")
		}
	}
	switch {
	case f.Type == TypeRequest && f.Header.Func == "" && f.Header.FuncNum == 0:
		return bad("request without a function")
	case f.Type == TypeRequest && f.Header.Kind != 0:
		return bad("request with an error kind")
	case f.Type == TypeChunk && len(f.Payload) > ChunkSize:
		return bad("chunk of %d bytes, the limit is %d", len(f.Payload), ChunkSize)
	case f.Type == TypeRequest && len(f.Payload) > MaxArgs:
		return Errorf("read frame", TooLarge, "arguments of %d bytes, the limit is %d", len(f.Payload), MaxArgs)
	}
	return nil
}

const maxPing = 64 // bytes; enough for a time stamp and a nonce

// String is for logs and test transcripts.
func (f *Frame) String() string {
	return fmt.Sprintf("type=%d id=%d more=%t fn=%q kind=%d payload=%d", f.Type, f.ID, f.More, f.Header.Func, f.Header.Kind, len(f.Payload))
}
