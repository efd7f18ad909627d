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
	TypeCredit  FrameType = 11 // payload: u32 > 0, bytes of chunk frames, their 12 bytes included, that may be sent on top
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

// shape says what a frame of one type may have.
type shape struct {
	payload int  // bytes at most
	call    bool // belongs to a call: its id is not 0
	header  bool // may have a header map
	body    bool // may announce a body
	kind    bool // may carry an error kind
}

// shapes by type. What goes through a relay is bounded tightly: its caller's frames wait in the
// queue of a program that serves others too.
var shapes = [...]shape{
	TypeRequest: {payload: MaxArgs, call: true, header: true, body: true},
	TypeReply:   {payload: MaxArgs, call: true, header: true, body: true, kind: true},
	TypeEvent:   {payload: MaxArgs, header: true},
	TypeChunk:   {payload: ChunkSize, call: true},
	TypeEnd:     {payload: MaxErrorText, call: true, header: true, kind: true},
	TypeCancel:  {call: true},
	TypePing:    {payload: maxPing, call: true},
	TypePong:    {payload: maxPing, call: true},
	TypeHello:   {payload: MaxArgs},
	TypeGoaway:  {payload: MaxErrorText, header: true, kind: true},
	TypeCredit:  {payload: 4, call: true},
}

const maxPing = 64 // bytes; enough for a time stamp and a nonce

// AppendFrame appends f in its wire form. It fails with TooLarge or BadInput when the peer would not
// take the frame, which would cost the whole connection, and then returns dst as it was.
func AppendFrame(dst []byte, f *Frame) ([]byte, error) {
	if err := f.check("send frame"); err != nil {
		return dst, err
	}
	start := len(dst)
	var flags uint8
	if f.More {
		flags |= FlagMore
	}
	dst = append(dst, 0, 0, 0, 0, byte(f.Type), 0, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(dst[start+8:], f.ID)
	if n := f.Header.fields(); n > 0 {
		if err := f.Header.check(); err != nil {
			return dst[:start], err
		}
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
	dst[start+5] = flags
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-FrameHeaderSize))
	return dst, nil
}

// FrameSize gives the whole size of the frame that data begins with, or 0 when its first 12 bytes
// are not all there. It fails as ParseFrame does, before the rest has been read: nothing is read or
// kept of a frame that is larger than its type allows.
func FrameSize(data []byte) (int, error) {
	if len(data) < FrameHeaderSize {
		return 0, nil
	}
	size := binary.BigEndian.Uint32(data)
	if size > MaxFrame {
		return 0, Errorf("read frame", TooLarge, "frame of %d bytes, the limit is %d", size, MaxFrame)
	}
	typ, flags := FrameType(data[4]), data[5]
	if typ < TypeRequest || typ > TypeCredit {
		return 0, Errorf("read frame", BadInput, "unknown frame type %d", typ)
	}
	if flags&^(FlagHeader|FlagMore) != 0 {
		return 0, Errorf("read frame", BadInput, "unknown flags %#x", flags)
	}
	if stream := binary.BigEndian.Uint16(data[6:]); stream != 0 {
		return 0, Errorf("read frame", Unsupported, "stream %d: this version has one body a direction", stream)
	}
	most := shapes[typ].payload
	if flags&FlagHeader != 0 {
		if !shapes[typ].header {
			return 0, Errorf("read frame", BadInput, "frame type %d has no header map", typ)
		}
		most += 2 + MaxHeader
	}
	if int(size) > most {
		return 0, Errorf("read frame", TooLarge, "frame type %d of %d bytes, the limit is %d", typ, size, most)
	}
	return FrameHeaderSize + int(size), nil
}

// ParseFrame reads the frame that data begins with and returns how many bytes it took, 0 when it
// is not all there. Errors are of kind TooLarge, BadInput or Unsupported; after one the connection
// cannot be read further.
func ParseFrame(data []byte) (f Frame, n int, err error) {
	n, err = parseFrame(&f, data, nil)
	if err != nil || n == 0 {
		return Frame{}, 0, err
	}
	return f, n, nil
}

// parseFrame is ParseFrame into f, which holds nothing of use unless n > 0. meta is for Header.parse.
func parseFrame(f *Frame, data []byte, meta *lastMeta) (n int, err error) {
	n, err = FrameSize(data)
	if err != nil || n == 0 || len(data) < n {
		return 0, err
	}
	*f = Frame{Type: FrameType(data[4]), More: data[5]&FlagMore != 0, ID: binary.BigEndian.Uint32(data[8:])}
	rest := data[FrameHeaderSize:n:n]
	if data[5]&FlagHeader != 0 {
		if len(rest) < 2 {
			return 0, Errorf("read frame", BadInput, "no room for the header's length")
		}
		size := int(binary.BigEndian.Uint16(rest))
		if size > MaxHeader {
			return 0, Errorf("read frame", TooLarge, "header of %d bytes, the limit is %d", size, MaxHeader)
		}
		if len(rest) < 2+size {
			return 0, Errorf("read frame", BadInput, "header of %d bytes in a frame of %d", size, len(rest))
		}
		if err := f.Header.parse(rest[2:2+size], meta); err != nil {
			return 0, err
		}
		rest = rest[2+size:]
	}
	f.Payload = rest
	if err := f.check("read frame"); err != nil {
		return 0, err
	}
	return n, nil
}

// check enforces what each type of frame must look like, on either side.
func (f *Frame) check(op string) error {
	if int(f.Type) >= len(shapes) || f.Type == 0 {
		return Errorf(op, BadInput, "unknown frame type %d", f.Type)
	}
	s := &shapes[f.Type]
	switch {
	case s.call != (f.ID != 0):
		return Errorf(op, BadInput, "frame type %d with the id %d", f.Type, f.ID)
	case f.More && !s.body:
		return Errorf(op, BadInput, "frame type %d cannot announce a body", f.Type)
	case len(f.Payload) > s.payload:
		return Errorf(op, TooLarge, "frame type %d with a payload of %d bytes, the limit is %d", f.Type, len(f.Payload), s.payload)
	case f.Header.Kind != 0 && (!s.kind || f.More):
		return Errorf(op, BadInput, "frame type %d with an error kind", f.Type)
	}
	switch f.Type {
	case TypeRequest:
		if f.Header.Func == "" && f.Header.FuncNum == 0 {
			return Errorf(op, BadInput, "request without a function")
		}
	case TypeChunk:
		if len(f.Payload) == 0 {
			return Errorf(op, BadInput, "chunk without a byte")
		}
	case TypeCredit:
		if len(f.Payload) != 4 || binary.BigEndian.Uint32(f.Payload) == 0 {
			return Errorf(op, BadInput, "malformed credit")
		}
	}
	return nil
}

// String is for logs and test transcripts.
func (f *Frame) String() string {
	return fmt.Sprintf("type=%d id=%d more=%t fn=%q kind=%d payload=%d", f.Type, f.ID, f.More, f.Header.Func, f.Header.Kind, len(f.Payload))
}
