package cellproto

import (
	"bytes"
	"encoding/hex"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"
)

// oracleHeader is the header map as fxamacker/cbor sees it.
type oracleHeader struct {
	Func       any               `cbor:"1,keyasint,omitempty"`
	To         string            `cbor:"2,keyasint,omitempty"`
	Budget     uint64            `cbor:"3,keyasint,omitempty"`
	Token      []byte            `cbor:"4,keyasint,omitempty"`
	Trace      []byte            `cbor:"5,keyasint,omitempty"`
	Key        []byte            `cbor:"6,keyasint,omitempty"`
	Meta       map[string]string `cbor:"7,keyasint,omitempty"`
	Kind       uint8             `cbor:"8,keyasint,omitempty"`
	RetryAfter uint64            `cbor:"9,keyasint,omitempty"`
	Codec      uint8             `cbor:"10,keyasint,omitempty"`
	Hint       string            `cbor:"11,keyasint,omitempty"`
}

var (
	oracleEncoder, _ = cbor.CoreDetEncOptions().EncMode()
	oracleDecoder, _ = cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
)

func oracleEncode(t interface{ Fatal(...any) }, h *Header) []byte {
	o := oracleHeader{
		To: h.To, Budget: uint64(h.Budget / time.Microsecond), Token: h.Token, Trace: h.Trace, Key: h.Key, Meta: h.Meta,
		Kind: uint8(h.Kind), RetryAfter: uint64(h.RetryAfter / time.Millisecond), Codec: uint8(h.Codec), Hint: h.Hint,
	}
	switch {
	case h.FuncNum != 0:
		o.Func = h.FuncNum
	case h.Func != "":
		o.Func = h.Func
	}
	b, err := oracleEncoder.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oracleParse says what data is, and whether it is canonical and within the limits.
func oracleParse(t interface{ Fatal(...any) }, data []byte) (h Header, ok bool) {
	var o oracleHeader
	if oracleDecoder.Unmarshal(data, &o) != nil || o.Budget > math.MaxInt64/1000 || o.RetryAfter > math.MaxInt64/1000000 {
		return h, false
	}
	h = Header{
		To: o.To, Budget: time.Duration(o.Budget) * time.Microsecond, Token: o.Token, Trace: o.Trace, Key: o.Key, Meta: o.Meta,
		Kind: Kind(o.Kind), RetryAfter: time.Duration(o.RetryAfter) * time.Millisecond, Codec: Codec(o.Codec), Hint: o.Hint,
	}
	switch f := o.Func.(type) {
	case nil:
	case string:
		h.Func = f
	case uint64:
		if f > MaxFunctions {
			return h, false
		}
		h.FuncNum = uint32(f)
	default:
		return h, false
	}
	return h, h.fields() > 0 && h.check() == nil && bytes.Equal(oracleEncode(t, &h), data)
}

func drawHeader(t *rapid.T) Header {
	text := func(name string, most int) string {
		return rapid.OneOf(rapid.Just(""), rapid.StringN(0, -1, most)).Draw(t, name)
	}
	data := func(name string, most int) []byte {
		return rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 1, most)).Draw(t, name)
	}
	h := Header{
		To: text("to", maxTo), Token: data("token", MaxToken), Trace: data("trace", maxTrace), Key: data("key", maxKey),
		Kind: Kind(rapid.Uint8().Draw(t, "kind")), Codec: Codec(rapid.IntRange(0, 2).Draw(t, "codec")), Hint: text("hint", maxHint),
		Budget:     time.Duration(rapid.Int64Range(0, math.MaxInt64/1000).Draw(t, "budget")) * time.Microsecond,
		RetryAfter: time.Duration(rapid.Int64Range(0, math.MaxInt64/1000000).Draw(t, "retry")) * time.Millisecond,
	}
	if rapid.Bool().Draw(t, "numbered") {
		h.FuncNum = rapid.Uint32Range(0, MaxFunctions).Draw(t, "number")
	} else {
		h.Func = text("function", MaxFuncName)
	}
	if meta := rapid.MapOfN(rapid.StringN(1, -1, maxMetaKey), rapid.StringN(0, -1, maxMetaValue), 0, maxMeta).Draw(t, "meta"); len(meta) > 0 {
		h.Meta = meta
	}
	return h
}

// TestHeaderIsCanonicalCBOR compares the codec with another one that is not ours.
func TestHeaderIsCanonicalCBOR(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHeader(t)
		if h.check() != nil {
			t.Fatal("a header within the limits is refused")
		}
		if h.fields() == 0 {
			return
		}
		got := h.appendTo(nil, h.fields())
		if want := oracleEncode(t, &h); !bytes.Equal(got, want) {
			t.Fatalf("got  %x\nwant %x", got, want)
		}
		var back Header
		if err := back.parse(got, nil); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, h) {
			t.Fatalf("got  %+v\nwant %+v", back, h)
		}
	})
}

// compareWithOracle is a property of any bytes at all.
func compareWithOracle(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, data []byte) {
	var got Header
	err := got.parse(data, nil)
	want, ok := oracleParse(t, data)
	if (err == nil) != ok {
		t.Fatalf("%x: %v, but the other codec says %t: %+v", data, err, ok, want)
	}
	if err == nil && !reflect.DeepEqual(got, want) {
		t.Fatalf("%x:\n got %+v\nwant %+v", data, got, want)
	}
	if err != nil && KindOf(err) != BadInput {
		t.Fatalf("%x: kind %v", data, KindOf(err))
	}
}

func TestHeaderAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHeader(t)
		if h.fields() == 0 {
			return
		}
		data := h.appendTo(nil, h.fields())
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			data[at] = rapid.Byte().Draw(t, "byte")
		}
		compareWithOracle(t, data[:rapid.IntRange(1, len(data)).Draw(t, "size")])
	})
}

// What was read last on a connection changes nothing but that the same meta is one map.
func TestHeaderAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var last lastMeta
		var before Header
		for range rapid.IntRange(1, 8).Draw(t, "headers") {
			h := before
			if !rapid.Bool().Draw(t, "the same") {
				h = drawHeader(t)
			}
			data := h.appendTo(nil, h.fields())
			if cut := rapid.IntRange(0, len(data)*4).Draw(t, "size"); cut < len(data) {
				data = data[:cut]
			}
			var alone, after Header
			want, got := alone.parse(data, nil), after.parse(data, &last)
			if (want == nil) != (got == nil) || want == nil && !reflect.DeepEqual(after, alone) {
				t.Fatalf("%x:\n got %+v, %v\nwant %+v, %v", data, after, got, alone, want)
			}
			before = h
		}
	})
	h := Header{Func: "f", Meta: map[string]string{"peer": "p"}}
	data := h.appendTo(nil, h.fields())
	var last lastMeta
	if n := testing.AllocsPerRun(100, func() {
		var got Header
		if got.parse(data, &last) != nil || got.Meta["peer"] != "p" {
			t.Fatal("it is read wrong")
		}
	}); n > 1 { // the function's name
		t.Errorf("%v allocations for a meta that was read before", n)
	}
}

func FuzzParseHeader(f *testing.F) {
	_, frames := goodFrames(f)
	for i := range frames {
		if n := frames[i].Header.fields(); n > 0 {
			f.Add(frames[i].Header.appendTo(nil, n))
		}
	}
	for _, v := range badFrames(f) {
		if data, _ := hex.DecodeString(v.Hex); len(data) > FrameHeaderSize+2 && data[5]&FlagHeader != 0 {
			f.Add(data[FrameHeaderSize+2:])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) <= MaxHeader {
			compareWithOracle(t, data)
		}
	})
}
