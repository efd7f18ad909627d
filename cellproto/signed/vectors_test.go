package signed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

var update = flag.Bool("update", false, "write the vectors anew")

// vector is one object of testdata/signed/*.json. Without a kind it has to open.
type vector struct {
	Name string `json:"name"`
	CID  string `json:"cid,omitempty"` // manifests: the CID that was asked for
	Hex  string `json:"hex"`
	Kind string `json:"kind,omitempty"`
}

func (v vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorFile is one file: what is expected, then the objects.
type vectorFile struct {
	About   string            `json:"about"`
	Expect  map[string]string `json:"expect,omitempty"`
	NowMS   int64             `json:"now_ms,omitempty"`
	Vectors []vector          `json:"vectors"`
}

// vectors gives a file of vectors; with -update it writes the file first. Without, it fails when the
// file is not what would be written: sealing is deterministic, so any difference is a change of format.
func vectors(t testing.TB, name string, made vectorFile) vectorFile {
	t.Helper()
	path := filepath.Join("..", "testdata", "signed", name)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(made); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, buf.Bytes()) {
		t.Errorf("%s is not what this program makes; if the format is meant to change, run go test -update", path)
	}
	var file vectorFile
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// check compares what opening a vector gave with what it has to give.
func (v vector) check(t testing.TB, err error) {
	t.Helper()
	want := cellproto.Kind(0)
	if v.Kind != "" {
		want = cellproto.ParseKind(v.Kind)
	}
	if got := cellproto.KindOf(err); got != want {
		t.Errorf("got %v (%v), want %q", got, err, v.Kind)
	}
}

// testKey gives the Ed25519 key whose seed is 32 times n.
func testKey(n byte) crypto.PrivKey {
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return key
}

// otherKey gives a key that is not Ed25519.
func otherKey(t testing.TB) crypto.PrivKey {
	key, err := crypto.UnmarshalSecp256k1PrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testPeer(n byte) peer.ID {
	id, err := peer.IDFromPrivateKey(testKey(n))
	if err != nil {
		panic(err)
	}
	return id
}

// testCID gives the CID of a text.
func testCID(codec uint64, text string) cid.Cid {
	c, err := cid.Prefix{Version: 1, Codec: codec, MhType: multihash.SHA2_256, MhLength: 32}.Sum([]byte(text))
	if err != nil {
		panic(err)
	}
	return c
}

func hash32(n byte) (h [32]byte) {
	copy(h[:], bytes.Repeat([]byte{n}, 32))
	return h
}

func addr(text string) ma.Multiaddr {
	a, err := ma.NewMultiaddr(text)
	if err != nil {
		panic(err)
	}
	return a
}

var testNow = time.UnixMilli(1_700_000_000_000)

// fields gives the canonical CBOR of v as a map, to be tampered with.
func fields(t testing.TB, v any) map[string]any {
	t.Helper()
	data, err := encMode.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := decMode.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := encMode.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rawObject seals bytes that are perhaps not a body at all.
type rawObject struct {
	domain, kind string
	payload      []byte
}

func (o rawObject) Domain() string                 { return o.domain }
func (o rawObject) Codec() []byte                  { return []byte(o.kind) }
func (o rawObject) MarshalRecord() ([]byte, error) { return o.payload, nil }
func (o rawObject) UnmarshalRecord([]byte) error   { return nil }
