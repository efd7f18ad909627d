package patch_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/cellproto/patch/delta"
)

var update = flag.Bool("update", false, "write the vectors anew")

// vector is one patch. Without a kind it makes the result of the base.
type vector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	Kind string `json:"kind,omitempty"`
}

type vectorFile struct {
	About   string   `json:"about"`
	Base    string   `json:"base"` // hexadecimal
	Result  string   `json:"result"`
	Signer  string   `json:"signer"`
	Vectors []vector `json:"vectors"`
}

var vectorPath = filepath.Join("..", "testdata", "patch", "patch.json")

func loadVectors(t testing.TB) (file vectorFile, base, result []byte) {
	t.Helper()
	data, err := os.ReadFile(vectorPath)
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err == nil {
		base, err = hex.DecodeString(file.Base)
	}
	if err == nil {
		result, err = hex.DecodeString(file.Result)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file, base, result
}

func (v vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	file, base, result := loadVectors(t)
	good := 0
	for _, v := range file.Vectors {
		want := cellproto.Kind(0)
		if v.Kind != "" {
			want = cellproto.ParseKind(v.Kind)
		}
		got, err := apply(v.bytes(t), base)
		if cellproto.KindOf(err) != want {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Kind)
		}
		if err != nil {
			continue
		}
		good++
		if !bytes.Equal(got, result) {
			t.Errorf("%s: makes something else", v.Name)
		}
		h, tail, err := read(v.bytes(t))
		if err != nil || h.Signer.String() != file.Signer {
			t.Errorf("%s: signed by %v, %v", v.Name, h, err)
		}
		// The header has one form only.
		sealed, err := h.Seal(testKey(1))
		if err != nil || !bytes.Equal(append(sealed, tail...), v.bytes(t)) {
			t.Errorf("%s: sealed again it differs: %v", v.Name, err)
		}
	}
	if good < 1 || len(file.Vectors) < 30 {
		t.Errorf("%d vectors, %d of them good", len(file.Vectors), good)
	}
}

// forge seals whatever is given, as nobody does who keeps to the rules.
func forge(t testing.TB, key ed25519.PrivateKey, body any, tail []byte) []byte {
	t.Helper()
	raw, err := patch.EncMode.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(key).Marshal(), Sig: ed25519.Sign(key, patch.Preimage(raw))}, tail)
}

func frame(t testing.TB, block any, tail []byte) []byte {
	t.Helper()
	raw, ok := block.([]byte)
	if !ok {
		var err error
		if raw, err = patch.EncMode.Marshal(block); err != nil {
			t.Fatal(err)
		}
	}
	out := binary.LittleEndian.AppendUint32(nil, patch.Skippable)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(raw)))
	return append(append(out, raw...), tail...)
}

// fields gives a body as a map, to be tampered with.
func fields(t testing.TB, b patch.Body) map[string]any {
	t.Helper()
	raw, err := patch.EncMode.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := cbor.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func writeVectors(t *testing.T) {
	base := []byte("#!/bin/sh\necho one\nexit 0\n")
	result := []byte("#!/bin/sh\necho two\nexit 0\n")
	key := testKey(1)
	good, err := makePatch(base, result, testTime, key)
	if err != nil {
		t.Fatal(err)
	}
	h, tail, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	file := vectorFile{
		About: "Patches of base to result, signed with the Ed25519 key whose seed is 32 times 01; those with a kind have to fail with it.",
		Base:  hex.EncodeToString(base), Result: hex.EncodeToString(result), Signer: patch.PublicKey(key).String(),
		Vectors: []vector{{Name: "good", Hex: hex.EncodeToString(good)}},
	}
	add := func(name string, kind cellproto.Kind, data []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, Hex: hex.EncodeToString(data), Kind: kind.String()})
	}
	badFrames(add, t, good, *h, tail)
	badBodies(add, t, *h, tail)
	badDeltas(add, t, *h, base, tail)
	if err := os.MkdirAll(filepath.Dir(vectorPath), 0o755); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	if err := enc.Encode(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorPath, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

type adder func(name string, kind cellproto.Kind, data []byte)

func badFrames(add adder, t *testing.T, good []byte, h patch.Header, tail []byte) {
	flip := func(at int) []byte {
		out := bytes.Clone(good)
		out[at] ^= 1
		return out
	}
	headerEnd := len(good) - len(tail)
	add("empty", cellproto.BadInput, nil)
	add("cut in the number", cellproto.BadInput, good[:3])
	add("cut in the length", cellproto.BadInput, good[:6])
	add("cut in the header", cellproto.BadInput, good[:40])
	add("cut behind the header", cellproto.BadInput, good[:headerEnd])
	add("cut in the delta", cellproto.BadInput, good[:len(good)-1])
	add("a byte more", cellproto.BadInput, append(bytes.Clone(good), 0))
	add("another number", cellproto.BadInput, flip(0))
	add("no header, only a delta", cellproto.BadInput, tail)
	add("an elf", cellproto.BadInput, []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00"))
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[4:], cellproto.MaxPatchHeader+1)
	add("a header past the limit", cellproto.TooLarge, long)
	most := bytes.Clone(good)
	binary.LittleEndian.PutUint32(most[4:], 1<<32-1)
	add("a header of 4 GiB", cellproto.TooLarge, most)
	add("a header of no bytes", cellproto.BadInput, frame(t, []byte{}, tail))
	add("a header that is no CBOR", cellproto.BadInput, frame(t, []byte{0xff, 0xff}, tail))
	add("a header that is a list", cellproto.BadInput, frame(t, []byte{0x80}, tail))
	add("a flipped bit in the body", cellproto.Corrupt, flip(headerEnd-3))
	raw, err := patch.EncMode.Marshal(h.Body())
	if err != nil {
		t.Fatal(err)
	}
	one, two := testKey(1), testKey(2)
	sig := ed25519.Sign(one, patch.Preimage(raw))
	add("signed by another key than it says", cellproto.Corrupt, frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(two).Marshal(), Sig: sig}, tail))
	add("no signature", cellproto.Corrupt, frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(one).Marshal(), Sig: []byte{}}, tail))
	add("a longer signature", cellproto.Corrupt, frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(one).Marshal(), Sig: append(sig, 0)}, tail))
	add("a signature of another domain", cellproto.Corrupt, frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(one).Marshal(), Sig: ed25519.Sign(one, raw)}, tail))
	add("a key that is cut", cellproto.BadInput, frame(t, patch.Envelope{Body: raw, Key: patch.PublicKey(one).Marshal()[:35], Sig: sig}, tail))
	add("a key of another type", cellproto.BadInput, frame(t, patch.Envelope{Body: raw, Key: append([]byte{8, 2}, patch.PublicKey(one).Marshal()[2:]...), Sig: sig}, tail))
	add("a field more in the header", cellproto.BadInput, frame(t, map[string]any{"body": cbor.RawMessage(raw), "key": patch.PublicKey(one).Marshal(), "sig": sig, "x": 1}, tail))
	add("a field less in the header", cellproto.BadInput, frame(t, map[string]any{"body": cbor.RawMessage(raw), "sig": sig}, tail))
}

func badBodies(add adder, t *testing.T, h patch.Header, tail []byte) {
	change := func(name string, kind cellproto.Kind, tamper func(m map[string]any)) {
		m := fields(t, h.Body())
		tamper(m)
		add(name, kind, forge(t, testKey(1), m, tail))
	}
	set := func(field string, value any) func(m map[string]any) {
		return func(m map[string]any) { m[field] = value }
	}
	change("a later version", cellproto.Unsupported, set("v", 2))
	change("version 0", cellproto.BadInput, set("v", 0))
	change("a field that nobody knows", cellproto.BadInput, set("x", 1))
	for _, field := range []string{"v", "base", "delta", "result", "created", "base_size", "delta_size", "result_size"} {
		change("no "+field, cellproto.BadInput, func(m map[string]any) { delete(m, field) })
	}
	change("a base of 31 bytes", cellproto.BadInput, set("base", make([]byte, 31)))
	change("a result that is text", cellproto.BadInput, set("result", "abc"))
	change("base and result the same", cellproto.BadInput, set("result", h.Base[:]))
	change("created never", cellproto.BadInput, set("created", 0))
	change("created past the largest integer", cellproto.TooLarge, set("created", uint64(1)<<53))
	change("a size that is negative", cellproto.BadInput, set("result_size", -1))
	change("a size of none", cellproto.BadInput, set("base_size", 0))
	change("a base past the limit", cellproto.TooLarge, set("base_size", cellproto.MaxPatchProgram+1))
	change("a result past the limit", cellproto.TooLarge, set("result_size", cellproto.MaxPatchProgram+1))
	change("a result of nearly 2^63", cellproto.TooLarge, set("result_size", int64(1<<63-1)))
	change("a result past 2^63", cellproto.BadInput, set("result_size", uint64(1<<63)))
	change("a delta past the limit", cellproto.TooLarge, set("delta_size", cellproto.MaxPatchDelta+1))
	change("a longer delta than there is", cellproto.BadInput, set("delta_size", len(tail)+1))
	change("another base", cellproto.Corrupt, set("base", make([]byte, 32)))
	change("another size of the base", cellproto.Corrupt, set("base_size", h.BaseSize+1))
	change("another delta", cellproto.Corrupt, set("delta", make([]byte, 32)))
	change("another result", cellproto.Corrupt, set("result", make([]byte, 32)))
	change("a larger result", cellproto.BadInput, set("result_size", h.ResultSize+1))
	change("a result of 256 MiB", cellproto.BadInput, set("result_size", cellproto.MaxPatchProgram))
}

// badDeltas are signed by the right key: what they do when they are decompressed has to be harmless, too.
func badDeltas(add adder, t *testing.T, h patch.Header, base, tail []byte) {
	signed := func(name string, kind cellproto.Kind, tail []byte) {
		h := h
		h.Delta, h.DeltaSize = blake3.Sum256(tail), int64(len(tail))
		add(name, kind, forge(t, testKey(1), h.Body(), tail))
	}
	enc, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	signed("a delta that is no frame", cellproto.BadInput, []byte("no frame"))
	signed("a delta that is a skippable frame", cellproto.BadInput, []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0})
	signed("a delta without its last byte", cellproto.BadInput, tail[:len(tail)-1])
	signed("a delta that swells", cellproto.BadInput, enc.EncodeAll(make([]byte, 10<<20), nil))
	twice := append(bytes.Clone(tail), tail...)
	signed("two deltas", cellproto.BadInput, twice)
	signed("a delta to another program", cellproto.Corrupt, enc.EncodeAll(bytes.ToUpper(base), nil))
}

func FuzzPatch(f *testing.F) {
	file, base, _ := loadVectors(f)
	for _, v := range file.Vectors {
		f.Add(v.bytes(f))
	}
	key := testKey(1)
	f.Fuzz(func(t *testing.T, data []byte) {
		h, tail, err := read(data)
		if err == nil {
			again, err := patch.Header{
				Base: h.Base, BaseSize: h.BaseSize, Result: h.Result, ResultSize: h.ResultSize, Delta: h.Delta, DeltaSize: h.DeltaSize, Created: h.Created,
			}.Seal(key)
			if h.Signer == patch.PublicKey(key) && (err != nil || !bytes.HasPrefix(data, again)) {
				t.Fatalf("sealed again it differs: %v", err)
			}
			if out, err := delta.Apply(h, base, tail, cellproto.BLAKE3); err == nil && patch.Hash(cellproto.BLAKE3(out)) != h.Result {
				t.Fatal("not the result")
			}
		} else if kind := cellproto.KindOf(err); kind != cellproto.BadInput && kind != cellproto.TooLarge && kind != cellproto.Unsupported && kind != cellproto.Corrupt {
			t.Fatalf("%v: %v", kind, err)
		}
		// The same bytes as a tail that the right key has signed.
		if len(data) == 0 {
			return
		}
		signed := patch.Header{
			Base: cellproto.BLAKE3(base), BaseSize: int64(len(base)), Result: patch.Hash{1}, ResultSize: 64,
			Delta: cellproto.BLAKE3(data), DeltaSize: int64(len(data)),
		}
		if out, err := delta.Apply(&signed, base, data, cellproto.BLAKE3); err == nil {
			t.Fatalf("%x makes %x", data, out)
		}
	})
}
