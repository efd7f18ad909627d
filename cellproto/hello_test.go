package cellproto

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestHelloMadeFor(t *testing.T) {
	hash := SchemaHash{5}
	data, err := (&Hello{MadeFor: hash[:]}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if h, err := ParseHello(data); err != nil || string(h.MadeFor) != string(hash[:]) {
		t.Errorf("%x, %v", h.MadeFor, err)
	}
	short, err := (&Hello{MadeFor: hash[:31]}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseHello(short); KindOf(err) != BadInput {
		t.Errorf("a hash of 31 bytes: %v", err)
	}
}

// drawHello draws any hello, of which a peer would not take all.
func drawHello(t *rapid.T) Hello {
	texts := rapid.SliceOfN(rapid.OneOf(rapid.StringN(0, 40, -1), rapid.Just("add")), 0, 40)
	numbers := rapid.SliceOfN(rapid.OneOf(rapid.UintRange(0, 30), rapid.Uint()), 0, 30)
	data := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 40), rapid.SliceOfN(rapid.Byte(), 32, 32), rapid.SliceOfN(rapid.Byte(), 300, 300))
	return Hello{
		Versions: append([]uint{Version}, numbers.Draw(t, "versions")...), Schema: data.Draw(t, "schema"), Codecs: numbers.Draw(t, "codecs"),
		Capabilities: texts.Draw(t, "capabilities"), Functions: texts.Draw(t, "functions"), Auth: rapid.String().Draw(t, "auth"),
		Nonce: data.Draw(t, "nonce"), Agent: rapid.String().Draw(t, "agent"), Cell: rapid.String().Draw(t, "cell"),
		Peer: rapid.String().Draw(t, "peer"), Slow: numbers.Draw(t, "slow"), Token: data.Draw(t, "token"), MadeFor: data.Draw(t, "made for"),
	}
}

// TestHelloIsWrittenCanonically: it has the bytes that fxamacker/cbor gives, and is read without that.
func TestHelloIsWrittenCanonically(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHello(t)
		want, err := canonicalEncoder().Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.Marshal()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x, %v, want %x", got, err, want)
		}
		checkSameHello(t, got)
		at := rapid.IntRange(0, len(got)-1).Draw(t, "at")
		got[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		checkSameHello(t, got)
		checkSameHello(t, got[:at])
	})
	h := Hello{Schema: make([]byte, 32), Agent: agentOfTest, Functions: []string{"add", "echo"}, Capabilities: []string{CapHandoff}, Codecs: []uint{1, 2}}
	data, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !new(Hello).parse(data) {
		t.Error("a usual hello is left to fxamacker/cbor")
	}
}

const agentOfTest = "celld-go-sdk"

// checkSameHello sees that what Hello.parse reads, fxamacker/cbor reads too, and sees the same in it.
func checkSameHello(t interface{ Fatalf(string, ...any) }, data []byte) {
	var fast, slow Hello
	if !fast.parse(data) {
		return
	}
	if err := strictDecoder().Unmarshal(data, &slow); err != nil || !reflect.DeepEqual(fast, slow) {
		t.Fatalf("%x is read as %+v, not as %+v, %v", data, fast, slow, err)
	}
	for i := range data { // nothing of it is kept
		data[i] ^= 0xff
	}
	if !reflect.DeepEqual(fast, slow) {
		t.Fatalf("what was read changes with the buffer: %+v", fast)
	}
	for i := range data {
		data[i] ^= 0xff
	}
}

func BenchmarkHello(b *testing.B) {
	h := Hello{Schema: make([]byte, 32), Agent: agentOfTest, Functions: []string{"add", "echo"}, Capabilities: []string{CapHandoff}, Codecs: []uint{1, 2}}
	b.ReportAllocs()
	for b.Loop() {
		data, err := h.Marshal()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ParseHello(data); err != nil {
			b.Fatal(err)
		}
	}
}
