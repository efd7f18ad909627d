package signed

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/record"
)

// envelope seals any payload.
func envelope(t testing.TB, domain, kind string, payload []byte, key crypto.PrivKey) []byte {
	t.Helper()
	env, err := record.Seal(rawObject{domain, kind, payload}, key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := env.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// envelopeVectors makes the must-fail vectors that adverts, tokens and proofs have in common. good is
// a canonical body; another is the domain and payload type of another object.
func envelopeVectors(t testing.TB, o object, good []byte, another [2]string, limit int) []vector {
	key := testKey(1)
	seal := func(body []byte) []byte { return envelope(t, o.domain, o.kind, body, key) }
	whole := seal(good)
	set := func(key string, value any) []byte {
		f := fields(t, cbor.RawMessage(good))
		f[key] = value
		return seal(encode(t, f))
	}
	falseSig := bytes.Clone(whole)
	falseSig[len(falseSig)-1] ^= 1
	list := []struct {
		name, kind string
		data       []byte
	}{
		{"nothing", "bad input", nil},
		{"cut", "bad input", whole[:len(whole)-1]},
		{"past the limit", "too large", append(bytes.Clone(whole), make([]byte, limit)...)},
		{"unknown field of the envelope", "bad input", append(bytes.Clone(whole), 0x78, 0x01)},
		{"signature twice", "bad input", append(bytes.Clone(whole), whole[len(whole)-66:]...)},
		{"false signature", "corrupt", falseSig},
		{"domain of another object", "corrupt", envelope(t, another[0], o.kind, good, key)},
		{"payload type of another object", "bad input", envelope(t, o.domain, another[1], good, key)},
		{"another object", "bad input", envelope(t, another[0], another[1], good, key)},
		{"key of type secp256k1", "unsupported", envelope(t, o.domain, o.kind, good, otherKey(t))},
		{"body of version 2", "unsupported", set("v", 2)},
		{"body of version 0", "bad input", set("v", 0)},
		{"body empty", "bad input", seal(nil)},
		{"body a list", "bad input", seal(encode(t, []int{1}))},
		{"unknown field", "bad input", set("novelty", true)},
		{"key twice", "bad input", seal(append(append([]byte{good[0] + 1}, good[1:]...), 0x61, 'v', 0x01))},
		{"indefinite length", "bad input", seal(append(append([]byte{0xbf}, good[1:]...), 0xff))},
		{"length in more bytes than needed", "bad input", seal(append([]byte{0xb8, good[0] & 31}, good[1:]...))},
		{"something behind the body", "bad input", seal(append(bytes.Clone(good), 0))},
	}
	var vectors []vector
	for _, l := range list {
		vectors = append(vectors, vector{Name: l.name, Hex: hex.EncodeToString(l.data), Kind: l.kind})
	}
	for _, name := range sorted(fields(t, cbor.RawMessage(good))) {
		f := fields(t, cbor.RawMessage(good))
		delete(f, name)
		vectors = append(vectors, vector{Name: "without " + name, Hex: hex.EncodeToString(seal(encode(t, f))), Kind: "bad input"})
	}
	return vectors
}

// everyFlip reports the bytes that may change without open noticing.
func everyFlip(t *testing.T, data []byte, open func([]byte) error) {
	t.Helper()
	if err := open(data); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if open(bad) == nil {
			t.Errorf("byte %d with bit %d flipped passes", i, i%8)
		}
		if open(data[:i]) == nil {
			t.Errorf("cut to %d bytes it passes", i)
		}
	}
}

// No object opens as another: all seals of all bodies against all openers.
func TestDomainsDoNotMix(t *testing.T) {
	cell := testAdvert().Cell
	sealedBy := map[string][]byte{}
	var err error
	if sealedBy["advert"], err = SealAdvert(testAdvert(), testKey(1)); err != nil {
		t.Fatal(err)
	}
	if sealedBy["token"], err = SealToken(testToken(), testKey(1)); err != nil {
		t.Fatal(err)
	}
	if sealedBy["proof"], err = SealProof(testProof(), testKey(1)); err != nil {
		t.Fatal(err)
	}
	if sealedBy["question"], err = SealQuestion(testQuestion(), testKey(1)); err != nil {
		t.Fatal(err)
	}
	sealedBy["manifest"], _ = sealed(t, testManifest())
	openers := map[string]func([]byte) error{
		"advert": func(b []byte) error { _, err := OpenAdvert(b, testPeer(1), cell, testNow); return err },
		"token": func(b []byte) error {
			_, err := OpenToken(b, testPeer(1), "calculator", "uid:1000", testNow)
			return err
		},
		"proof": func(b []byte) error {
			_, err := OpenProof(b, testPeer(2), hash32(7), "calculator", "uid:1000")
			return err
		},
		"question": func(b []byte) error { _, err := openQuestion(b); return err },
		"manifest": func(b []byte) error { _, err := OpenManifest(idOf(t, b), b); return err },
	}
	for made, data := range sealedBy {
		for as, open := range openers {
			if err := open(data); (err == nil) != (made == as) {
				t.Errorf("%s opened as %s: %v", made, as, err)
			} else if k := cellproto.KindOf(err); err != nil && k != cellproto.BadInput && k != cellproto.TooLarge {
				t.Errorf("%s opened as %s: %v", made, as, k)
			}
		}
	}
}

// fuzzOpen is the body of the fuzz targets of envelopes: arbitrary bytes, or an arbitrary body behind a
// good signature. What opens has to be the one spelling of itself.
func fuzzOpen(f *testing.F, o object, seeds []vector, open func([]byte) ([]byte, error)) {
	for _, v := range seeds {
		f.Add(v.bytes(f), false)
		if env, err := record.UnmarshalEnvelope(v.bytes(f)); err == nil {
			f.Add(env.RawPayload, true)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign {
			data = envelope(t, o.domain, o.kind, data, testKey(1))
		}
		again, err := open(data)
		if err != nil {
			switch cellproto.KindOf(err) {
			case cellproto.BadInput, cellproto.TooLarge, cellproto.Corrupt, cellproto.Unsupported, cellproto.Denied:
			default:
				t.Fatalf("kind of %v", err)
			}
			return
		}
		if again != nil && !bytes.Equal(again, data) {
			t.Fatalf("it opens, but seals to other bytes:\n%x\n%x", data, again)
		}
	})
}
