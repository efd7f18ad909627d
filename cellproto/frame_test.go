package cellproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the vectors in testdata/frames")

// goodVector is one line of testdata/frames/good.json. The hello is the payload's, decoded.
type goodVector struct {
	Name    string        `json:"name"`
	Hex     string        `json:"hex"`
	Type    FrameType     `json:"type"`
	ID      uint32        `json:"id"`
	More    bool          `json:"more,omitempty"`
	Header  *vectorHeader `json:"header,omitempty"`
	Payload string        `json:"payload,omitempty"` // hex
	Hello   *vectorHello  `json:"hello,omitempty"`
}

type vectorHeader struct {
	Func         string            `json:"function,omitempty"`
	FuncNum      uint32            `json:"function_number,omitempty"`
	To           string            `json:"to,omitempty"`
	BudgetUs     int64             `json:"budget_us,omitempty"`
	Token        string            `json:"token,omitempty"` // hex, and so the next two
	Trace        string            `json:"trace,omitempty"`
	Key          string            `json:"idempotency_key,omitempty"`
	Meta         map[string]string `json:"meta,omitempty"`
	Kind         Kind              `json:"error_kind,omitempty"`
	RetryAfterMs int64             `json:"retry_after_ms,omitempty"`
	Codec        Codec             `json:"codec,omitempty"`
	Hint         string            `json:"hint,omitempty"`
}

type vectorHello struct {
	Versions     []uint   `json:"versions"`
	Schema       string   `json:"schema,omitempty"` // hex
	Codecs       []uint   `json:"codecs,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	Functions    []string `json:"functions,omitempty"`
	Auth         string   `json:"auth,omitempty"`
	Nonce        string   `json:"nonce,omitempty"` // hex
	Agent        string   `json:"agent,omitempty"`
	Cell         string   `json:"cell,omitempty"`
	Peer         string   `json:"peer,omitempty"`
	Slow         []uint   `json:"slow,omitempty"`
}

func describe(name string, data []byte, f *Frame) (goodVector, error) {
	v := goodVector{Name: name, Hex: hex.EncodeToString(data), Type: f.Type, ID: f.ID, More: f.More, Payload: hex.EncodeToString(f.Payload)}
	if h := &f.Header; h.fields() > 0 {
		v.Header = &vectorHeader{
			Func: h.Func, FuncNum: h.FuncNum, To: h.To, BudgetUs: h.Budget.Microseconds(),
			Token: hex.EncodeToString(h.Token), Trace: hex.EncodeToString(h.Trace), Key: hex.EncodeToString(h.Key),
			Meta: h.Meta, Kind: h.Kind, RetryAfterMs: h.RetryAfter.Milliseconds(), Codec: h.Codec, Hint: h.Hint,
		}
	}
	if f.Type == TypeHello {
		h, err := ParseHello(f.Payload)
		if err != nil {
			return v, err
		}
		v.Hello = &vectorHello{
			Versions: h.Versions, Schema: hex.EncodeToString(h.Schema), Codecs: h.Codecs, Capabilities: h.Capabilities,
			Functions: h.Functions, Auth: h.Auth, Nonce: hex.EncodeToString(h.Nonce), Agent: h.Agent, Cell: h.Cell, Peer: h.Peer, Slow: h.Slow,
		}
	}
	return v, nil
}

func mustHello(t testing.TB, h Hello) []byte {
	t.Helper()
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustFrame(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := AppendFrame(nil, &f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goodFrames are those of docs/protocol.md, and the extremes of each field.
func goodFrames(t testing.TB) (names []string, frames []Frame) {
	add := func(name string, f Frame) { names, frames = append(names, name), append(frames, f) }
	server := Hello{
		Schema: bytes.Repeat([]byte{0x5c}, 32), Codecs: []uint{1, 2}, Functions: []string{"add", "div"}, Auth: AuthSimple,
		Nonce: bytes.Repeat([]byte{0x4e}, NonceSize), Agent: "celld/0.1.0", Cell: "calculator", Peer: "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq",
	}
	add("hello of a caller", Frame{Type: TypeHello, Payload: mustHello(t, Hello{Codecs: []uint{1, 2}, Agent: "celld/0.1.0"})})
	add("hello of a nucleus", Frame{Type: TypeHello, Payload: mustHello(t, server)})
	add("hello with all keys", Frame{Type: TypeHello, Payload: mustHello(t, Hello{
		Versions: []uint{1, 2}, Schema: bytes.Repeat([]byte{1}, 32), Codecs: []uint{1}, Capabilities: []string{"handoff"},
		Functions: []string{"a", "b"}, Auth: AuthSig, Nonce: bytes.Repeat([]byte{2}, 32), Agent: "x", Cell: "c", Peer: "p", Slow: []uint{2},
	})})
	add("request by name", Frame{Type: TypeRequest, ID: 1, Header: Header{Func: "add", Budget: 10 * time.Second, Codec: JSON}, Payload: []byte(`{"a":3,"b":4}`)})
	add("request by number", Frame{Type: TypeRequest, ID: 3, Header: Header{FuncNum: 1, Budget: 9999 * time.Microsecond, Codec: JSON}, Payload: []byte(`{"a":3,"b":4}`)})
	add("request with a body", Frame{Type: TypeRequest, ID: 5, More: true, Header: Header{Func: "digest"}})
	add("request with all keys", Frame{Type: TypeRequest, ID: 0xfffffffd, Header: Header{
		Func: "f", To: "mathlib", Budget: time.Microsecond, Token: []byte{1, 2, 3}, Trace: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
		Key: []byte{0xff}, Meta: map[string]string{"bb": "", "a": "1", "c": "3"}, Codec: CBOR,
	}, Payload: []byte{0xa0}})
	add("request of the largest header fields", Frame{Type: TypeRequest, ID: 1, Header: Header{
		FuncNum: MaxFunctions, To: strings.Repeat("t", maxTo), Token: make([]byte, MaxToken), Trace: make([]byte, maxTrace), Key: make([]byte, maxKey),
		Budget: time.Duration(1<<63-1) / time.Microsecond * time.Microsecond,
	}})
	add("reply", Frame{Type: TypeReply, ID: 1, Header: Header{Codec: JSON}, Payload: []byte("7")})
	add("reply with a body", Frame{Type: TypeReply, ID: 5, More: true})
	add("empty reply", Frame{Type: TypeReply, ID: 2})
	add("error reply", Frame{Type: TypeReply, ID: 3, Header: Header{Kind: FuncError, Hint: "Divide by something else."}, Payload: []byte("division by zero")})
	add("overloaded", Frame{Type: TypeReply, ID: 3, Header: Header{Kind: Overloaded, RetryAfter: 50 * time.Millisecond}, Payload: []byte("call: 64 calls of this peer are in flight, the limit")})
	add("event", Frame{Type: TypeEvent, Header: Header{Func: "tick"}, Payload: []byte("1")})
	add("chunk", Frame{Type: TypeChunk, ID: 5, Payload: []byte("hello, world")})
	add("end", Frame{Type: TypeEnd, ID: 5})
	add("end of a body cut short", Frame{Type: TypeEnd, ID: 5, Header: Header{Kind: Failed}, Payload: []byte("read data/x: input/output error")})
	add("cancel", Frame{Type: TypeCancel, ID: 5})
	add("ping", Frame{Type: TypePing, ID: 7, Payload: []byte{1, 2, 3, 4}})
	add("pong", Frame{Type: TypePong, ID: 7, Payload: []byte{1, 2, 3, 4}})
	add("goaway", Frame{Type: TypeGoaway, Payload: []byte("the nucleus is stopping")})
	add("goaway of a refused peer", Frame{Type: TypeGoaway, Header: Header{Kind: TooLarge}, Payload: []byte("read frame: frame of 2097152 bytes, the limit is 1048576")})
	add("credit", Frame{Type: TypeCredit, ID: 5, Payload: []byte{0, 2, 0, 0}})
	return names, frames
}

func TestFrameVectors(t *testing.T) {
	names, frames := goodFrames(t)
	var vectors []goodVector
	for i := range frames {
		data := mustFrame(t, frames[i])
		v, err := describe(names[i], data, &frames[i])
		if err != nil {
			t.Fatalf("%s: %v", names[i], err)
		}
		vectors = append(vectors, v)
	}
	golden(t, "good.json", vectors)
	var saved []goodVector
	load(t, "good.json", &saved)
	for _, want := range saved {
		data, _ := hex.DecodeString(want.Hex)
		f, n, err := ParseFrame(append(data, 0xff)) // what follows is not looked at
		if err != nil || n != len(data) {
			t.Errorf("%s: %d of %d bytes: %v", want.Name, n, len(data), err)
			continue
		}
		got, err := describe(want.Name, data, &f)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", want.Name, err, got, want)
		}
		if again := mustFrame(t, f); !bytes.Equal(again, data) {
			t.Errorf("%s: encoded again it is %x", want.Name, again)
		}
		for cut := range len(data) {
			if f, n, err := ParseFrame(data[:cut]); n != 0 || err != nil {
				t.Errorf("%s: cut to %d bytes: %v %d %v", want.Name, cut, &f, n, err)
			}
		}
	}
}

// badVector is one line of testdata/frames/must-fail.json: bytes that end a connection, the kind of
// error, and why.
type badVector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	Kind string `json:"kind"`
}

// raw makes a frame of any form.
func raw(typ, flags byte, stream uint16, id uint32, rest ...byte) []byte {
	b := []byte{0, 0, byte(len(rest) >> 8), byte(len(rest)), typ, flags, byte(stream >> 8), byte(stream)}
	return append(append(b, byte(id>>24), byte(id>>16), byte(id>>8), byte(id)), rest...)
}

// withHeader makes a request with any header map.
func withHeader(cbor string) []byte {
	h, err := hex.DecodeString(strings.ReplaceAll(cbor, " ", ""))
	if err != nil {
		panic(err)
	}
	return raw(1, 1, 0, 1, append([]byte{byte(len(h) >> 8), byte(len(h))}, h...)...)
}

func badFrames(t testing.TB) (vectors []badVector) {
	add := func(name string, kind Kind, data []byte) {
		vectors = append(vectors, badVector{name, hex.EncodeToString(data), kind.String()})
	}
	length := func(n uint32, typ, flags byte) []byte {
		return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), typ, flags, 0, 0, 0, 0, 0, 1}
	}
	add("length past the largest frame", TooLarge, length(MaxFrame+1, 1, 0))
	add("length of 4 GiB", TooLarge, length(1<<32-1, 4, 0))
	add("request past its limit, not even begun", TooLarge, length(MaxArgs+1, 1, 0))
	add("request past its limit with a header", TooLarge, length(MaxArgs+2+MaxHeader+1, 1, 1))
	add("reply past its limit", TooLarge, length(MaxArgs+1, 2, 0))
	add("chunk past its limit", TooLarge, length(ChunkSize+1, 4, 0))
	add("end past its limit", TooLarge, length(MaxErrorText+1, 5, 0))
	add("cancel with a payload", TooLarge, raw(6, 0, 0, 1, 0))
	add("ping of 65 bytes", TooLarge, raw(7, 0, 0, 1, make([]byte, 65)...))
	add("hello past its limit", TooLarge, length(MaxArgs+1, 9, 0))
	add("goaway past its limit", TooLarge, length(MaxErrorText+1, 10, 0))
	add("credit of five bytes", TooLarge, raw(11, 0, 0, 1, 0, 0, 0, 0, 1))
	add("type 0", BadInput, raw(0, 0, 0, 1))
	add("type 12", BadInput, raw(12, 0, 0, 1))
	add("unknown flag", BadInput, raw(1, 4, 0, 1))
	add("stream 1", Unsupported, raw(1, 0, 1, 1))
	add("call without an id", BadInput, raw(2, 0, 0, 0))
	add("ping without an id", BadInput, raw(7, 0, 0, 0))
	add("event with an id", BadInput, raw(3, 0, 0, 1))
	add("goaway with an id", BadInput, raw(10, 0, 0, 1))
	add("chunk that announces a body", BadInput, raw(4, 2, 0, 1, 'x'))
	add("chunk without a byte", BadInput, raw(4, 0, 0, 1))
	add("chunk with a header", BadInput, raw(4, 1, 0, 1, 0, 3, 0xa1, 10, 1, 'x'))
	add("cancel with a header", BadInput, raw(6, 1, 0, 1, 0, 3, 0xa1, 8, 1))
	add("credit with a header", BadInput, raw(11, 1, 0, 1, 0, 3, 0xa1, 8, 1, 0, 0, 0, 1))
	add("credit of nothing", BadInput, raw(11, 0, 0, 1, 0, 0, 0, 0))
	add("credit of three bytes", BadInput, raw(11, 0, 0, 1, 0, 0, 1))
	add("error that announces a body", BadInput, raw(2, 3, 0, 1, 0, 3, 0xa1, 8, 1))
	add("request with an error kind", BadInput, withHeader("a2 01 61 66 08 01"))
	add("request without a function", BadInput, raw(1, 0, 0, 1))
	add("request without a function in its header", BadInput, withHeader("a1 0a 01"))
	add("no room for the header's length", BadInput, raw(1, 1, 0, 1, 0))
	add("header longer than the frame", BadInput, raw(1, 1, 0, 1, 0, 9, 0xa1))
	add("header past its limit", TooLarge, raw(1, 1, 0, 1, append([]byte{0x20, 1}, make([]byte, MaxHeader+1)...)...))
	add("empty header", BadInput, raw(1, 1, 0, 1, 0, 0))
	add("header is no map", BadInput, withHeader("81 01"))
	add("header of no entries", BadInput, withHeader("a0"))
	add("header of twelve entries", BadInput, withHeader("ac"))
	add("header of 2^64-1 entries", BadInput, withHeader("bb ffffffffffffffff"))
	add("indefinite map", BadInput, withHeader("bf 01 61 66 ff"))
	add("bytes after the header's map", BadInput, withHeader("a1 01 61 66 00"))
	add("cut within the map", BadInput, withHeader("a2 01 61 66"))
	add("key 0", BadInput, withHeader("a1 00 61 66"))
	add("key 12", BadInput, withHeader("a2 01 61 66 0c 01"))
	add("key as text", BadInput, withHeader("a1 61 31 61 66"))
	add("negative key", BadInput, withHeader("a1 20 61 66"))
	add("keys twice", BadInput, withHeader("a2 01 61 66 01 61 66"))
	add("keys not in order", BadInput, withHeader("a2 0a 01 01 61 66"))
	add("key not in its shortest form", BadInput, withHeader("a1 18 01 61 66"))
	add("length not in its shortest form", BadInput, withHeader("a1 01 78 01 66"))
	add("indefinite text", BadInput, withHeader("a1 01 7f 61 66 ff"))
	add("text longer than the header", BadInput, withHeader("a1 01 62 66"))
	add("text of 2^63 bytes", BadInput, withHeader("a1 01 7b 8000000000000000"))
	add("function is empty", BadInput, withHeader("a1 01 60"))
	add("function of 129 bytes", BadInput, withHeader("a1 01 78 81"+strings.Repeat("66", 129)))
	add("function is not UTF-8", BadInput, withHeader("a1 01 61 ff"))
	add("function as bytes", BadInput, withHeader("a1 01 41 66"))
	add("function number 0", BadInput, withHeader("a1 01 00"))
	add("function number 1025", BadInput, withHeader("a1 01 19 0401"))
	add("budget of nothing", BadInput, withHeader("a2 01 61 66 03 00"))
	add("budget past 2^63 ns", BadInput, withHeader("a2 01 61 66 03 1b 0020c49ba5e353f8"))
	add("budget as a float", BadInput, withHeader("a2 01 61 66 03 f9 3c00"))
	add("token as text", BadInput, withHeader("a2 01 61 66 04 61 66"))
	add("token of 1025 bytes", BadInput, withHeader("a2 01 61 66 04 59 0401"+strings.Repeat("00", 1025)))
	add("trace of 65 bytes", BadInput, withHeader("a2 01 61 66 05 58 41"+strings.Repeat("00", 65)))
	add("idempotency key of 65 bytes", BadInput, withHeader("a2 01 61 66 06 58 41"+strings.Repeat("00", 65)))
	add("meta of no entries", BadInput, withHeader("a2 01 61 66 07 a0"))
	add("meta of seventeen entries", BadInput, withHeader("a2 01 61 66 07 b1"))
	add("meta with an empty key", BadInput, withHeader("a2 01 61 66 07 a1 60 61 31"))
	add("meta with a number", BadInput, withHeader("a2 01 61 66 07 a1 61 61 01"))
	add("meta with a key twice", BadInput, withHeader("a2 01 61 66 07 a2 61 61 61 31 61 61 61 31"))
	add("meta not in order", BadInput, withHeader("a2 01 61 66 07 a2 62 6161 61 31 61 62 61 31"))
	add("codec 3", BadInput, withHeader("a2 01 61 66 0a 03"))
	add("hint of 513 bytes", BadInput, withHeader("a2 01 61 66 0b 79 0201"+strings.Repeat("66", 513)))
	add("tag", BadInput, withHeader("a1 01 c0 61 66"))
	return vectors
}

func TestFrameMustFail(t *testing.T) {
	golden(t, "must-fail.json", badFrames(t))
	var vectors []badVector
	load(t, "must-fail.json", &vectors)
	for _, v := range vectors {
		data, _ := hex.DecodeString(v.Hex)
		_, n, err := ParseFrame(data)
		if n != 0 || KindOf(err).String() != v.Kind {
			t.Errorf("%s: %d %v (%v), want %s", v.Name, n, err, KindOf(err), v.Kind)
		}
	}
}

// TestFrameLimits: what the peer would not take is not sent, and what was queued before it stays.
func TestFrameLimits(t *testing.T) {
	meta := map[string]string{}
	for i := range maxMeta + 1 {
		meta[strings.Repeat("k", i+1)] = "v"
	}
	request := func(h Header) Frame {
		if h.Func == "" {
			h.Func = "f"
		}
		return Frame{Type: TypeRequest, ID: 1, Header: h}
	}
	for name, c := range map[string]struct {
		f    Frame
		kind Kind
	}{
		"no type":          {Frame{ID: 1}, BadInput},
		"type 12":          {Frame{Type: 12, ID: 1}, BadInput},
		"reply too large":  {Frame{Type: TypeReply, ID: 1, Payload: make([]byte, MaxArgs+1)}, TooLarge},
		"no function":      {Frame{Type: TypeRequest, ID: 1}, BadInput},
		"no id":            {Frame{Type: TypeReply}, BadInput},
		"empty chunk":      {Frame{Type: TypeChunk, ID: 1}, BadInput},
		"body of an event": {Frame{Type: TypeEvent, More: true}, BadInput},
		"long function":    {request(Header{Func: strings.Repeat("f", MaxFuncName+1)}), BadInput},
		"bad function":     {request(Header{Func: "\xff"}), BadInput},
		"long target":      {request(Header{To: strings.Repeat("f", maxTo+1)}), BadInput},
		"long hint":        {request(Header{Hint: strings.Repeat("f", maxHint+1)}), BadInput},
		"long token":       {request(Header{Token: make([]byte, MaxToken+1)}), BadInput},
		"function number":  {request(Header{FuncNum: MaxFunctions + 1}), BadInput},
		"codec":            {request(Header{Codec: 3}), BadInput},
		"much meta":        {request(Header{Meta: meta}), BadInput},
		"bad meta":         {request(Header{Meta: map[string]string{"a": "\xff"}}), BadInput},
		"empty meta key":   {request(Header{Meta: map[string]string{"": "x"}}), BadInput},
		"large header": {request(Header{Token: make([]byte, MaxToken), To: strings.Repeat("t", maxTo), Meta: func() map[string]string {
			m := map[string]string{}
			for i := range maxMeta {
				m[strings.Repeat("k", maxMetaKey-i)] = strings.Repeat("v", maxMetaValue)
			}
			return m
		}()}), TooLarge},
	} {
		before := []byte("before")
		after, err := AppendFrame(before, &c.f)
		if KindOf(err) != c.kind || string(after) != "before" {
			t.Errorf("%s: %v (%v), left %q", name, err, KindOf(err), after)
		}
	}
}

func TestHelloMustFail(t *testing.T) {
	long := strings.Repeat("x", maxHelloText+1)
	many := make([]string, maxHelloList+1)
	for name, c := range map[string]struct {
		payload []byte
		kind    Kind
	}{
		"nothing":             {nil, BadInput},
		"no map":              {[]byte{0x80}, BadInput},
		"no version":          {[]byte{0xa0}, Unsupported},
		"another version":     {mustHello(t, Hello{Versions: []uint{2, 3}}), Unsupported},
		"short hash":          {mustHello(t, Hello{Schema: make([]byte, 31)}), BadInput},
		"short nonce":         {mustHello(t, Hello{Nonce: make([]byte, 31)}), BadInput},
		"function, no name":   {mustHello(t, Hello{Functions: []string{""}}), BadInput},
		"function, long":      {mustHello(t, Hello{Functions: []string{strings.Repeat("f", MaxFuncName+1)}}), BadInput},
		"too many functions":  {mustHello(t, Hello{Functions: slices.Repeat([]string{"f"}, MaxFunctions+1)}), BadInput},
		"slow, out of bounds": {mustHello(t, Hello{Functions: []string{"f"}, Slow: []uint{2}}), BadInput},
		"slow, zero":          {mustHello(t, Hello{Functions: []string{"f"}, Slow: []uint{0}}), BadInput},
		"long agent":          {mustHello(t, Hello{Agent: long}), TooLarge},
		"long capability":     {mustHello(t, Hello{Capabilities: []string{long}}), TooLarge},
		"many capabilities":   {mustHello(t, Hello{Capabilities: many}), TooLarge},
		"a key twice":         {[]byte{0xa2, 1, 0x81, 1, 1, 0x81, 1}, BadInput},
		"indefinite":          {[]byte{0xbf, 1, 0x81, 1, 0xff}, BadInput},
		"a tag":               {[]byte{0xa1, 1, 0xc1, 0x81, 1}, BadInput},
		"bytes after it":      {[]byte{0xa1, 1, 0x81, 1, 0}, BadInput},
		"deep":                {append([]byte{0xa2, 1, 0x81, 1, 0x18, 99}, bytes.Repeat([]byte{0x81}, 9)...), BadInput},
		"too large":           {make([]byte, MaxArgs+1), TooLarge},
	} {
		if _, err := ParseHello(c.payload); KindOf(err) != c.kind {
			t.Errorf("%s: %v (%v), want %v", name, err, KindOf(err), c.kind)
		}
	}
	h, err := ParseHello([]byte{0xa3, 1, 0x81, 1, 0x18, 99, 0x61, 'x', 0x61, 'k', 2}) // of a later version
	if err != nil || h.Versions[0] != 1 {
		t.Errorf("unknown keys are not ignored: %v", err)
	}
}

func golden(t *testing.T, name string, vectors any) {
	t.Helper()
	path := filepath.Join("testdata", "frames", name)
	data, err := json.MarshalIndent(vectors, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, '\n')
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	saved, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Fatal("no vectors: run go test ./cellproto -update")
	}
	if err != nil || !bytes.Equal(saved, data) {
		t.Errorf("%s is not what is encoded now (%v): if that is meant, run go test ./cellproto -update", path, err)
	}
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "frames", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
