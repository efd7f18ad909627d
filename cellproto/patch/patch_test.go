package patch_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"flag"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"lukechampine.com/blake3"
	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/cellproto/patch/delta"
)

// testKey gives the Ed25519 key whose seed is 32 times n.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

var testTime = time.UnixMilli(1_700_000_000_000)

// program gives bytes that do not compress, as if they were a program's.
func program(n int, seed int64) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// read opens a whole patch.
func read(data []byte) (*patch.Header, []byte, error) {
	r := bytes.NewReader(data)
	h, err := patch.ReadHeader(r, int64(len(data)))
	if err != nil {
		return nil, nil, err
	}
	tail, err := io.ReadAll(r)
	return h, tail, err
}

func apply(data, base []byte) ([]byte, error) {
	h, tail, err := read(data)
	if err != nil {
		return nil, err
	}
	return delta.Apply(h, base, tail, blake3.Sum256)
}

// makePatch compares two programs and signs what comes of it.
func makePatch(base, result []byte, created time.Time, key ed25519.PrivateKey) ([]byte, error) {
	tail, err := delta.Make(base, result)
	if err != nil {
		return nil, err
	}
	return patch.Make(base, result, tail, created, key)
}

// long says whether tests may take minutes.
func long() bool { return os.Getenv("CELL_LONG") != "" }

// TestMake compares programs of 256 KiB, or with CELL_LONG of 1 MiB.
func TestMake(t *testing.T) {
	size := 1 << 18
	if long() {
		size = 1 << 20
	}
	base := program(size, 1)
	for _, c := range []struct {
		name         string
		base, result []byte
		most         int // bytes of the patch
	}{
		{"two strings changed", base, bytes.Replace(bytes.Replace(base, base[1000:1010], []byte("0123456789"), 1), base[size/3*2:size/3*2+4], []byte("abcd"), 1), 2000},
		{"longer at its beginning", base, append([]byte("something"), base...), 2000},
		{"half of it, moved", base, base[size/2:], 2000},
		{"twice", base, append(bytes.Clone(base), base...), 3000},
		{"of another kind", []byte("#!/bin/sh\necho a\n"), program(300_000, 2), 300_500},
		{"smaller than a window", []byte("a"), []byte("b"), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := makePatch(c.base, c.result, testTime, testKey(1))
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > c.most {
				t.Errorf("%d bytes", len(data))
			}
			got, err := apply(data, c.base)
			if err != nil || !bytes.Equal(got, c.result) {
				t.Fatalf("not what was meant: %v", err)
			}
			again, err := makePatch(c.base, c.result, testTime, testKey(1))
			if err != nil || !bytes.Equal(again, data) {
				t.Errorf("made twice it differs: %v", err)
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		base, result []byte
		kind         cellproto.Kind
	}{
		"no program before": {nil, []byte("a"), cellproto.BadInput},
		"no program after":  {[]byte("a"), nil, cellproto.BadInput},
		"nothing changed":   {[]byte("a"), []byte("a"), cellproto.BadInput},
	} {
		if _, err := makePatch(c.base, c.result, testTime, testKey(1)); cellproto.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := patch.Header{BaseSize: cellproto.MaxPatchProgram + 1, ResultSize: 1, DeltaSize: 1, Created: testTime, Result: patch.Hash{1}}
	if _, err := h.Seal(testKey(1)); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Errorf("a program that is too large: %v", err)
	}
}

// TestRoundTrip: whatever two programs are, the patch makes the one of the other; 25 times, or with CELL_LONG 100.
func TestRoundTrip(t *testing.T) {
	if checks := flag.Lookup("rapid.checks").Value; !long() && checks.String() == "100" { // unless somebody asks for another number
		_ = checks.Set("25")
		defer checks.Set("100")
	}
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(t, "base")
		result := rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(t, "result")
		if rapid.Bool().Draw(t, "related") {
			result = append(result, base...)
		}
		if bytes.Equal(base, result) {
			t.Skip("nothing changed")
		}
		data, err := makePatch(base, result, testTime, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := apply(data, base); err != nil || !bytes.Equal(got, result) {
			t.Fatalf("not what was meant: %v", err)
		}
	})
}

// TestZstdReadsIt: a patch is a Zstandard file, which other programs apply, too.
func TestZstdReadsIt(t *testing.T) {
	base := program(100_000, 1)
	result := append([]byte("a few bytes more"), base...)
	data, err := makePatch(base, result, testTime, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderDictRaw(0, base))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	if got, err := io.ReadAll(dec); err != nil || !bytes.Equal(got, result) {
		t.Errorf("a plain decoder: %v", err)
	}
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Log("there is no zstd here: it is not asked")
		return
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"old": base, "a.patch": data} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(tool, "-q", "-d", "--patch-from=old", "a.patch", "-o", "new")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || !bytes.Equal(got, result) {
		t.Errorf("zstd makes something else: %v", err)
	}
}

// TestKeysAreLibp2ps: another program with libp2p makes and checks the same.
func TestKeysAreLibp2ps(t *testing.T) {
	key := testKey(1)
	theirs, err := crypto.UnmarshalPrivateKey(patch.MarshalPrivateKey(key))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if got := patch.PublicKey(key).String(); got != id.String() {
		t.Errorf("%s, libp2p says %s", got, id)
	}
	raw, err := crypto.MarshalPublicKey(theirs.GetPublic())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{id.String(), crypto.ConfigEncodeKey(raw)} {
		if got, err := patch.ParseKey(text); err != nil || got != patch.PublicKey(key) {
			t.Errorf("%s: %v", text, err)
		}
	}
	data, err := makePatch([]byte("old"), []byte("new"), testTime, key)
	if err != nil {
		t.Fatal(err)
	}
	var e patch.Envelope
	if err := patch.DecMode.Unmarshal(data[patch.FrameHead:patch.FrameHead+int(binary.LittleEndian.Uint32(data[4:]))], &e); err != nil {
		t.Fatal(err)
	}
	if ok, err := theirs.GetPublic().Verify(patch.Preimage(e.Body), e.Sig); err != nil || !ok {
		t.Errorf("libp2p does not take the signature: %v", err)
	}
	again, err := patch.ParsePrivateKey(patch.MarshalPrivateKey(key))
	if err != nil || !again.Equal(key) {
		t.Errorf("the private key: %v", err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, text := range []string{"", "owner.pub", "12D3KooW", strings.Repeat("1", 200), "CAESIA==", patch.PublicKey(testKey(1)).String() + "1"} {
		if k, err := patch.ParseKey(text); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%q: %v, %v", text, k, err)
		}
	}
	good := patch.MarshalPrivateKey(testKey(1))
	other := patch.MarshalPrivateKey(testKey(2))
	for name, raw := range map[string][]byte{
		"empty": nil, "cut": good[:67], "longer": append(bytes.Clone(good), 0), "of another type": append([]byte{8, 2, 0x12, 0x40}, good[4:]...),
		"of two keys": append(bytes.Clone(good[:36]), other[36:]...),
	} {
		if _, err := patch.ParsePrivateKey(raw); cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTrustedKeys(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	one, two := patch.PublicKey(testKey(1)), patch.PublicKey(testKey(2))
	for name, text := range map[string]string{"owner.pub": two.String() + "\n", "empty.pub": "", "host.key": string(patch.MarshalPrivateKey(testKey(3)))} {
		if err := os.WriteFile(filepath.Join(dir, "keys", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("owner.pub", filepath.Join(dir, "keys", "link.pub")); err != nil {
		t.Fatal(err)
	}
	got, err := patch.TrustedKeys(dir, []string{one.String(), "owner.pub"})
	if err != nil || len(got) != 2 || got[0] != one || got[1] != two {
		t.Errorf("%v, %v", got, err)
	}
	for _, entry := range []string{"nobody.pub", "empty.pub", "host.key", "link.pub"} {
		if got, err := patch.TrustedKeys(dir, []string{entry}); cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == "" {
			t.Errorf("%s: %v, %v", entry, got, err)
		}
	}
}

// A program of another size or content is not what the patch is for, and a tail is what was signed or
// is not looked at.
func TestRebuildRefuses(t *testing.T) {
	base, result := program(5000, 1), program(5000, 2)
	data, err := makePatch(base, result, testTime, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	h, tail, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(tail)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct{ base, tail []byte }{
		"another base":    {program(5000, 3), tail},
		"a longer base":   {append(bytes.Clone(base), 0), tail},
		"no base":         {nil, tail},
		"a changed delta": {base, flipped},
		"a cut delta":     {base, tail[:len(tail)-1]},
		"no delta":        {base, nil},
	} {
		if _, err := delta.Apply(h, c.base, c.tail, blake3.Sum256); cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}
