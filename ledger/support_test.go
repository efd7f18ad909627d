package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

var update = flag.Bool("update", false, "write vectors and transcripts anew")

var testNet = NetOf("test")

const nowMS = 1_700_000_000_000

var testKeys sync.Map // byte -> ed25519.PrivateKey: what tests ask for most is made once

// testKey gives the Ed25519 key whose seed is 32 times n.
func testKey(n byte) ed25519.PrivateKey {
	k, ok := testKeys.Load(n)
	if !ok {
		k, _ = testKeys.LoadOrStore(n, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)))
	}
	return k.(ed25519.PrivateKey)
}

func pub(n byte) Key { return KeyOf(testKey(n)) }

// vector is one entry of testdata/*.json. Without a kind it has to decode and verify.
type vector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	CID  string `json:"cid,omitempty"`
	Kind string `json:"kind,omitempty"`
}

type vectorFile struct {
	About   string            `json:"about"`
	Keys    map[string]string `json:"keys,omitempty"`
	Vectors []vector          `json:"vectors"`
}

func (v vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectors gives a file of vectors, after having compared it with what this program makes; with -update
// it is written first. Signatures are deterministic, so any difference is a change of format.
func vectors(t *testing.T, name string, made vectorFile) []vector {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(made); err != nil {
		t.Fatal(err)
	}
	golden(t, name, buf.Bytes())
	return made.Vectors
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what this program makes; if that is meant, run go test -update and read the difference", path)
	}
}

// readVectors gives the entries of a file to seed a fuzz target with.
func readVectors(f *testing.F, name string) {
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		f.Fatal(err)
	}
	var file vectorFile
	if err := json.Unmarshal(data, &file); err != nil {
		f.Fatal(err)
	}
	for _, v := range file.Vectors {
		f.Add(v.bytes(f))
	}
}

func wantKind(t *testing.T, name string, err error, kind cellproto.Kind) {
	t.Helper()
	if got := cellproto.KindOf(err); got != kind {
		t.Errorf("%s: got %v (%v), want %v", name, got, err, kind)
	}
}

func must1[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// testReceipt is a receipt of provider to consumer with everything filled in.
func testReceipt(consumer, provider byte, credit uint64) Receipt {
	return Receipt{
		Net: testNet, Consumer: pub(consumer), Provider: pub(provider), N: credit/100 + 1, Credit: credit,
		Meter: Meter{CPU: credit * 1_000_000, Wall: credit * 1_200_000, RAM: credit * 10, In: credit * 50, Out: credit * 70, Energy: credit / 2},
		Est:   EstTDP, MeterV: 1, T: nowMS, Log: HashKey(pub(9)),
	}
}

// dual signs a receipt on both sides.
func dual(t testing.TB, r Receipt, consumer, provider byte) *Signed {
	t.Helper()
	s := must1[*Signed](t)(SealReceipt(r, testKey(consumer), RoleConsumer))
	p := must1[*Signed](t)(SealReceipt(r, testKey(provider), RoleProvider))
	s.ProviderSig = p.ProviderSig
	return s
}

// cheque from consumer only.
func ack(t testing.TB, r Receipt, consumer byte) *Signed {
	t.Helper()
	return must1[*Signed](t)(SealReceipt(r, testKey(consumer), RoleConsumer))
}

func claim(t testing.TB, r Receipt, provider byte) *Signed {
	t.Helper()
	return must1[*Signed](t)(SealReceipt(r, testKey(provider), RoleProvider))
}

func wire(t testing.TB, s interface{ Encode() ([]byte, error) }) []byte {
	t.Helper()
	return must1[[]byte](t)(s.Encode())
}

// long says whether tests may take minutes.
func long() bool { return os.Getenv("CELL_LONG") != "" }
