package call

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// What a call leaves behind serves the next run, and each file of it may be damaged in any way at
// any time: the call goes on and the file is whole again.
func TestCacheHeals(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	peers := &book{}
	peers.add(p.host)
	dir := t.TempDir()
	h, key := newHost(t)
	setup := func(cfg *CallerConfig, deps *CallerDeps) {
		cfg.Dir = dir
		deps.Host, deps.Identity = h, Identity{Peer: h.ID(), Host: key}
	}
	once := func(b *book, blocks Blocks) {
		t.Helper()
		c := use(t, blocks, b, setup)
		call(t, c, cell, "echo")
		c.Close()
	}
	once(peers, cell)
	sub := filepath.Join(dir, cacheDir, cell.id.String())
	files := []string{
		filepath.Join(dir, cacheDir, "reputation.json"), filepath.Join(sub, "manifest.cbor"), filepath.Join(sub, "schema.json"),
		filepath.Join(sub, "winner.json"), filepath.Join(sub, "token"), filepath.Join(sub, "race.log"),
	}
	whole := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || len(data) == 0 {
			t.Fatalf("%s was not written: %v", f, err)
		}
		if info, _ := os.Stat(f); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
		whole[f] = data
	}
	// The memory alone is enough: nobody has the blocks any more, nobody finds the provider.
	once(&book{}, &published{})

	for _, f := range files {
		damages := map[string][]byte{"zeros": make([]byte, len(whole[f])), "other": []byte(`{"peer":1}`)}
		for _, n := range []int{0, 1, len(whole[f]) / 4, len(whole[f]) / 2, len(whole[f]) * 3 / 4, len(whole[f]) - 2} {
			damages[fmt.Sprintf("cut at %d", n)] = whole[f][:n]
		}
		for name, damaged := range damages {
			if err := os.WriteFile(f, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			once(peers, cell)
			now, err := os.ReadFile(f)
			if err != nil || bytes.Equal(now, damaged) {
				t.Errorf("%s (%s) was not mended: %v", filepath.Base(f), name, err)
			}
		}
		// Nor does a directory in its place do harm, nor a file that cannot be read.
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(f, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		once(peers, cell)
		if info, err := os.Stat(f); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s was not mended: %v", filepath.Base(f), err)
		}
	}
	// Nor does a file in the place of the cell's directory, nor what a write has left that was cut off.
	if err := os.RemoveAll(sub); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sub, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	once(peers, cell)
	left := []string{filepath.Join(sub, ".token123"), filepath.Join(dir, cacheDir, ".reputation.json456")}
	for _, f := range left {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	once(peers, cell)
	for _, f := range left {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s was left", filepath.Base(f))
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, cacheDir)); err != nil {
		t.Fatal(err)
	}
	once(peers, cell)
}

// However many cells are called, so many are remembered, and those that were used last.
func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := openCache(dir, zap.NewNop())
	name := func(i int) string { return fmt.Sprintf("cell-%03d", i) }
	long := time.Now().Add(-time.Hour)
	for i := range maxCells {
		c.write([]byte("x"), 0o600, name(i), "token")
		at := long.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(filepath.Join(dir, cacheDir, name(i)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	c.load(&remote{name: cellproto.CellID(name(0))})
	c.write([]byte("y"), 0o600, name(1), "token")
	for i := range 3 {
		c.write([]byte("x"), 0o600, name(maxCells+i), "token")
	}
	c.write([]byte("x"), 0o600, "reputation.json")
	entries, err := os.ReadDir(filepath.Join(dir, cacheDir))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(entries) - 1; n != maxCells {
		t.Errorf("%d cells are remembered, want %d", n, maxCells)
	}
	for i, want := range map[int]bool{0: true, 1: true, 2: false, 3: false, 4: false, 5: true, maxCells: true, maxCells + 2: true} {
		if got := c.read(name(i), "token") != nil; got != want {
			t.Errorf("cell %d is remembered: %v, want %v", i, got, want)
		}
	}
	if c.read("reputation.json") == nil {
		t.Error("the reputations are gone")
	}
}

// What must not be taken for tokens, and what may.
func TestTokenFile(t *testing.T) {
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	file := func(server, token, until string) string {
		return fmt.Sprintf(`{%q:{"token":%q,"until":%q}}`, server, token, until)
	}
	for _, c := range []struct {
		name, text string
		good       bool
	}{
		{"good", file("s", "YQ==", soon), true},
		{"empty", "", false},
		{"null", "null", false},
		{"a list", "[]", false},
		{"no object", `{"s":1}`, false},
		{"no time", `{"s":{"token":"YQ=="}}`, false},
		{"a bad time", file("s", "YQ==", "soon"), false},
		{"passed", file("s", "YQ==", "2020-01-01T00:00:00Z"), false},
		{"for longer than tokens hold", file("s", "YQ==", "2999-01-01T00:00:00Z"), false},
		{"no base64", file("s", "?", soon), false},
		{"no token", file("s", "", soon), false},
		{"too long a token", file("s", base64.StdEncoding.EncodeToString(make([]byte, cellproto.MaxToken+1)), soon), false},
		{"another server's", file("other", "YQ==", soon), false},
		{"cut off", file("s", "YQ==", soon)[:20], false},
		{"too large", file("s", "YQ==", soon) + strings.Repeat(" ", maxTokenStore), false},
	} {
		cache := openCache(t.TempDir(), zap.NewNop())
		cache.write([]byte(c.text), 0o600, "cell", "token")
		if token, _ := cache.tokens("cell").token("s"); (token != nil) != c.good {
			t.Errorf("%s: %q", c.name, token)
		}
	}
}

// What must not be taken for the providers of an earlier race.
func TestWinnerFile(t *testing.T) {
	const peer = "12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC"
	entry := func(peer, addrs string) string { return fmt.Sprintf(`{"peer":%q,"addrs":%s}`, peer, addrs) }
	file := func(entries ...string) string {
		return fmt.Sprintf(`{"peer":%q,"providers":[%s]}`, peer, strings.Join(entries, ","))
	}
	for _, c := range []struct {
		name, text string
		want       int
	}{
		{"good", file(entry(peer, `["/ip4/127.0.0.1/tcp/1"]`)), 1},
		{"empty", "", 0},
		{"null", "null", 0},
		{"no object", `{"providers":7}`, 0},
		{"no peer", file(entry("nobody", `[]`)), 0},
		{"an address that is none", file(entry(peer, `["nowhere"]`)), 1},
		{"more than are probed", file(slices.Repeat([]string{entry(peer, `[]`)}, 100)...), cellproto.MaxProbed},
		{"cut off", file(entry(peer, `["/ip4/127.0.0.1/tcp/1"]`))[:70], 0},
		{"too large", file(entry(peer, `[]`)) + strings.Repeat(" ", cellproto.MaxManifest), 0},
	} {
		cache := openCache(t.TempDir(), zap.NewNop())
		r := &remote{name: "cell"}
		cache.write([]byte(c.text), 0o600, "cell", "winner.json")
		found := cache.candidates(r)
		if len(found) != c.want {
			t.Errorf("%s: %d candidates, want %d", c.name, len(found), c.want)
		}
	}
}

// The name of a cell's directory in the cache never leads out of the cache.
func TestCacheNames(t *testing.T) {
	root := t.TempDir()
	c := openCache(root, zap.NewNop())
	for _, cell := range []string{
		"bafyabc", "/a/b", "../../etc/passwd", "..", ".", "", "/", "a/../../b", "\x00", "a\x00b", strings.Repeat("x", 500),
		strings.Repeat("../", 100), "/" + strings.Repeat("ü", 100),
	} {
		c.write([]byte("x"), 0o600, cellDirName(cell), "token")
	}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(path, filepath.Join(root, cacheDir)+"/") {
			t.Errorf("%s was written", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(root), "token")); err == nil {
		t.Error("a file was written outside")
	}
}

// Nothing that is in a cache file makes the caller panic, or trust what is not signed.
func FuzzCache(f *testing.F) {
	cell := publish(f, testSchema())
	winner := []byte(`{"peer":"12D3KooWA","providers":[{"peer":"12D3KooWA","addrs":["/ip4/1.2.3.4/tcp/1"]}]}`)
	f.Add(cell.block, cell.schema.Canonical(), winner, []byte(`{"s":{"token":"YQ==","until":"2030-01-01T00:00:00Z"}}`), []byte("{}\n"))
	f.Add([]byte{}, []byte{}, []byte(`{"providers":[{}]}`), []byte(`{"s":null}`), []byte("x"))
	f.Fuzz(func(t *testing.T, manifest, schema, winner, token, log []byte) {
		dir := t.TempDir()
		c := openCache(dir, zap.NewNop())
		name := cellDirName(cell.id.String())
		c.write(manifest, 0o600, name, "manifest.cbor")
		c.write(schema, 0o600, name, "schema.json")
		c.write(winner, 0o600, name, "winner.json")
		c.write(token, 0o600, name, "token")
		c.write(log, 0o600, name, "race.log")
		c.write(winner, 0o600, "reputation.json")
		r := &remote{id: cell.id, name: cellproto.CellID(cell.id.String())}
		c.load(r)
		m, s := r.description()
		if m != nil && !bytes.Equal(manifest, cell.block) {
			t.Error("a manifest was taken that is not the CID's")
		}
		if s != nil && s.Hash() != cell.schema.Hash() {
			t.Error("a schema was taken that is not the manifest's")
		}
		for _, found := range c.candidates(r) {
			if found.Info.ID == "" || len(found.Info.Addrs) > cellproto.MaxAdvertAddrs {
				t.Errorf("candidate %v", found)
			}
		}
		store := c.tokens(cell.id.String())
		if tok, until := store.token("s"); tok != nil && time.Until(until) < 0 {
			t.Error("an expired token was taken")
		}
		store.setToken("s", []byte("new"), time.Now().Add(time.Minute))
		if tok, _ := store.token("s"); string(tok) != "new" {
			t.Errorf("the token file was not mended: %q", tok)
		}
		if _, err := race.AppendLog(c.read(name, "race.log"), race.Log{}); err != nil {
			t.Error(err)
		}
		c.reputation()
	})
}

func FuzzAdvertRequest(f *testing.F) {
	cell := publish(f, testSchema())
	raw := cell.id.Bytes()
	f.Add(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{129, 1})
	f.Add([]byte{2, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := readAdvertRequest(bufio.NewReader(bytes.NewReader(data)))
		if (err == nil) != id.Defined() {
			t.Errorf("%v, %v", id, err)
		}
		if err == nil && id.ByteLen() > maxCID {
			t.Errorf("a CID of %d bytes", id.ByteLen())
		}
		switch kind := cellproto.KindOf(err); kind {
		case 0, cellproto.BadInput, cellproto.TooLarge, cellproto.Unavailable:
		default:
			t.Errorf("kind %v", kind)
		}
	})
}

// Requests that must fail, each with its kind: only what arrived and is wrong costs the asker something.
func TestAdvertRequestMustFail(t *testing.T) {
	for in, kind := range map[string]cellproto.Kind{
		"":                         cellproto.Unavailable,
		"\x80":                     cellproto.Unavailable,
		"\x24\x01\x71":             cellproto.Unavailable,
		"\x00":                     cellproto.BadInput,
		"\x04\xff\xff\xff\xff":     cellproto.BadInput,
		"\x03GET":                  cellproto.BadInput,
		"\x81\x01":                 cellproto.TooLarge,
		"\xff\x7f":                 cellproto.TooLarge,
		"\xff\xff\xff\xff\xff\xff": cellproto.TooLarge,
	} {
		_, err := readAdvertRequest(bufio.NewReader(strings.NewReader(in)))
		if got := cellproto.KindOf(err); got != kind {
			t.Errorf("%q is %q, want %q: %v", in, got, kind, err)
		}
	}
}

func FuzzAdvertReply(f *testing.F) {
	f.Add([]byte{0, 0, 3, 1, 2, 3})
	f.Add([]byte{byte(cellproto.NotFound), 0, 2, 'n', 'o'})
	f.Add([]byte{0, 0xff, 0xff})
	f.Add([]byte{200, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := readAnswer(bytes.NewReader(data), cellproto.MaxAdvert)
		if len(body) > cellproto.MaxAdvert || err == nil && len(data) < 3+len(body) {
			t.Errorf("%d bytes out of %d, %v", len(body), len(data), err)
		}
		if err == nil && data[0] != 0 {
			t.Error("a refusal was taken for an advert")
		}
	})
}

func TestMergeKeepsNewAddresses(t *testing.T) {
	h, _ := newHost(t)
	old := infoOf(h)
	got := merge(old, peer.AddrInfo{ID: h.ID()}, nil)
	if len(got.Addrs) != len(old.Addrs) {
		t.Errorf("addresses were lost: %v", got)
	}
	if again := merge(got, old, nil); len(again.Addrs) != len(old.Addrs) {
		t.Errorf("addresses were doubled: %v", again)
	}
}
