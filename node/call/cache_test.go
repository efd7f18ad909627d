package call

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
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
		for name, damaged := range map[string][]byte{
			"empty": {}, "half": whole[f][:len(whole[f])/2], "zeros": make([]byte, len(whole[f])), "other": []byte(`{"peer":1}`),
		} {
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
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, cacheDir)); err != nil {
		t.Fatal(err)
	}
	once(peers, cell)
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
		if r.manifest != nil && !bytes.Equal(manifest, cell.block) {
			t.Error("a manifest was taken that is not the CID's")
		}
		if r.schema != nil && r.schema.Hash() != cell.schema.Hash() {
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
		body, err := readAdvertReply(bytes.NewReader(data))
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
	got := merge(old, peer.AddrInfo{ID: h.ID()})
	if len(got.Addrs) != len(old.Addrs) {
		t.Errorf("addresses were lost: %v", got)
	}
	if again := merge(got, old); len(again.Addrs) != len(old.Addrs) {
		t.Errorf("addresses were doubled: %v", again)
	}
}
