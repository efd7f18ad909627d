package content

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	unixfsio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
)

// The CIDs are those that `ipfs add --cid-version=1` prints.
func TestAddFileGolden(t *testing.T) {
	for _, tc := range []struct {
		data []byte
		cid  string
	}{
		{nil, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},
		{[]byte("hello world\n"), "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"},
		{make([]byte, chunkBytes), "bafkreiekhhjkxu4ztk3tyng3er3ijhg56mb44oe3gwbgquhzu4afrg2ksa"},
		{make([]byte, chunkBytes+1), "bafybeigllfqgfpqydppr6cmv56g7ax4wyhruzswvcefv6j5kj77nzttfki"},
		{noise(7, 5<<20+123), "bafybeialphdmkq5rrgvr4nmopjnz3nlvyx6lvd5upein2lk6yhpfjnq4ay"},
		{noise(8, linksNode*chunkBytes+1), "bafybeifxidzsenjsc4xxr4oa7g6lndpzdn23v45yrxjpjxq2om3ogssfym"},
	} {
		t.Run(fmt.Sprint(len(tc.data)), func(t *testing.T) {
			s := newStore(t, Config{}, nil)
			path := filepath.Join(t.TempDir(), "f")
			writeOld(t, path, tc.data)
			f, err := s.AddFile(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			if f.CID.String() != tc.cid {
				t.Errorf("CID is %s, want %s", f.CID, tc.cid)
			}
			if f.Size != int64(len(tc.data)) || f.BLAKE3 != blake3.Sum256(tc.data) {
				t.Errorf("size %d, BLAKE3 %x", f.Size, f.BLAKE3)
			}
			if want := boxoCID(t, tc.data); !f.CID.Equals(want) {
				t.Errorf("CID is %s, boxo's importer makes %s", f.CID, want)
			}
		})
	}
}

// boxoCID imports data with boxo alone.
func boxoCID(t *testing.T, data []byte) cid.Cid {
	bs := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	params := helpers.DagBuilderParams{
		Maxlinks: helpers.DefaultLinksPerBlock, RawLeaves: true,
		CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: mh.SHA2_256},
		Dagserv:    merkledag.NewDAGService(blockservice.New(bs, nil)),
	}
	db, err := params.New(chunk.DefaultSplitter(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := balanced.Layout(db)
	if err != nil {
		t.Fatal(err)
	}
	return root.Cid()
}

func TestAddFileAgain(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "f")
	data := noise(10, 3<<20)
	writeOld(t, path, data)
	s := newStore(t, Config{Dir: dir}, nil)
	ctx := context.Background()
	first, err := s.AddFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	rec := s.files.byCID(first.CID)
	again, err := s.AddFile(ctx, path)
	if err != nil || again != first || s.files.byCID(first.CID) != rec {
		t.Fatalf("adding it again read it again: %v %v", again, err)
	}
	// An inner node is lost: the file is read again, and heals it.
	if err := s.blocks.delete(ctx, first.CID); err != nil {
		t.Fatal(err)
	}
	if again, err = s.AddFile(ctx, path); err != nil || again != first || !s.Has(ctx, first.CID) {
		t.Fatalf("a lost root was not healed: %v", err)
	}
	// A new run knows it still; a damaged record is dropped.
	reopen := newStore(t, Config{Dir: dir}, nil)
	if reopen.files.byHash(first.BLAKE3) == nil {
		t.Fatal("the record did not survive")
	}
	record := filepath.Join(dir, "files", first.CID.String())
	raw, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(record, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if newStore(t, Config{Dir: dir}, nil).files.byHash(first.BLAKE3) != nil {
		t.Fatal("a damaged record was believed")
	}
	if _, err := os.Stat(record); err == nil {
		t.Fatal("a damaged record was left")
	}
	// The file is replaced: the old artefact goes, the new one comes.
	writeOld(t, path+".new", noise(11, 1<<20))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	second, err := s.AddFile(ctx, path)
	if err != nil || second == first {
		t.Fatalf("%v %v", second, err)
	}
	if s.files.byCID(first.CID) != nil {
		t.Fatal("the old artefact is still served")
	}
}

func TestAddFileRefuses(t *testing.T) {
	s := newStore(t, Config{MaxFile: 1000}, nil)
	dir := t.TempDir()
	writeOld(t, filepath.Join(dir, "big"), make([]byte, 1001))
	_, err := s.AddFile(context.Background(), filepath.Join(dir, "big"))
	wantKind(t, err, cellproto.TooLarge)
	_, err = s.AddFile(context.Background(), filepath.Join(dir, "none"))
	wantKind(t, err, cellproto.NotFound)
	if _, err = s.AddFile(context.Background(), dir); err == nil {
		t.Fatal("a directory was added")
	}
	writeOld(t, filepath.Join(dir, "small"), make([]byte, 1000))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = s.AddFile(ctx, filepath.Join(dir, "small"))
	wantKind(t, err, cellproto.Canceled)
}

// A leaf is read from the file, and never when the file is not the one that was added.
func TestLeafOfChangedFile(t *testing.T) {
	s := newStore(t, Config{}, nil)
	path := filepath.Join(t.TempDir(), "f")
	data := noise(12, 1<<20)
	writeOld(t, path, data)
	ctx := context.Background()
	f, err := s.AddFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	leaf := rawCID(t, data[chunkBytes:2*chunkBytes])
	got, err := s.Block(ctx, leaf, chunkBytes, nil)
	if err != nil || !bytes.Equal(got, data[chunkBytes:2*chunkBytes]) {
		t.Fatal(err)
	}
	// The same stamp, other bytes: only the hash can tell.
	data[chunkBytes+5] ^= 1
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	_, err = s.Block(ctx, leaf, chunkBytes, nil)
	wantKind(t, err, cellproto.NotFound)
	if s.files.byCID(f.CID) != nil {
		t.Fatal("the artefact is still served")
	}
}

func TestKeepAndRemove(t *testing.T) {
	s := newStore(t, Config{Dir: t.TempDir()}, nil)
	ctx := context.Background()
	dir := t.TempDir()
	add := func(seed uint64) File {
		path := filepath.Join(dir, fmt.Sprint(seed))
		writeOld(t, path, noise(seed, 600<<10))
		f, err := s.AddFile(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	kept, lost, removed := add(1), add(2), add(3)
	put := func(codec uint64, data []byte) cid.Cid {
		c := cid.NewCidV1(codec, rawCID(t, data).Hash())
		if err := s.PutBlock(ctx, c, data); err != nil {
			t.Fatal(err)
		}
		return c
	}
	schema, stray := put(cid.Raw, []byte(`{"cell":"x"}`)), put(cid.Raw, []byte("stray"))
	// A manifest as dag-cbor: {"artefact": link, "schema": [link]}.
	link := func(c cid.Cid) []byte {
		return append([]byte{0xd8, 42, 0x58, byte(len(c.Bytes()) + 1), 0}, c.Bytes()...)
	}
	manifest := append([]byte{0xa2, 0x66}, "schema"...)
	manifest = append(append(manifest, 0x81), link(schema)...)
	manifest = append(append(append(manifest, 0x68), "artefact"...), link(kept.CID)...)
	root := put(cid.DagCBOR, manifest)

	if err := s.Remove(ctx, removed.CID); err != nil {
		t.Fatal(err)
	}
	if s.Has(ctx, removed.CID) || s.files.byHash(removed.BLAKE3) != nil {
		t.Fatal("the removed artefact is still here")
	}
	n, err := s.Keep(ctx, root)
	if err != nil || n != 3 { // the artefact lost, its root node, the stray block
		t.Fatalf("dropped %d, %v", n, err)
	}
	for _, c := range []cid.Cid{root, schema, kept.CID} {
		if !s.Has(ctx, c) {
			t.Errorf("%s was dropped", c)
		}
	}
	for _, c := range []cid.Cid{stray, lost.CID} {
		if s.Has(ctx, c) {
			t.Errorf("%s was kept", c)
		}
	}
	if err := s.Remove(ctx, stray); err != nil {
		t.Fatalf("removing what is not here: %v", err)
	}
}

// boxoNode is a full boxo bitswap on a host, as kubo runs it.
func boxoNode(t *testing.T) (host.Host, blockstore.Blockstore, *bitswap.Bitswap) {
	h := newHost(t)
	bs := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	x := bitswap.New(context.Background(), bsnet.NewFromIpfsHost(h), nil, bs)
	t.Cleanup(func() { _ = x.Close() })
	return h, bs, x
}

// What kubo runs fetches a whole artefact from a store: what `ipfs get` does.
func TestBoxoFetchesArtefact(t *testing.T) {
	s := newStore(t, Config{Dir: t.TempDir()}, nil)
	s.timing.stall = time.Minute // what boxo does with 20 MB takes the processors away from it now and then
	path := filepath.Join(t.TempDir(), "f")
	data := noise(13, 20<<20)
	writeOld(t, path, data)
	f, err := s.AddFile(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	h, bs, x := boxoNode(t)
	ctx := deadline(t, 30*time.Second)
	if err := h.Connect(ctx, s.self()); err != nil {
		t.Fatal(err)
	}
	dag := merkledag.NewDAGService(blockservice.New(bs, x))
	session := merkledag.NewSession(ctx, dag)
	root, err := session.Get(ctx, f.CID)
	if err != nil {
		t.Fatal(err)
	}
	r, err := unixfsio.NewDagReader(ctx, root, merkledag.NewReadOnlyDagService(session))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Fatal("other bytes came")
	}
}

// A store fetches blocks and a whole artefact from what kubo runs, with dag-pb leaves too.
func TestFetchFromBoxo(t *testing.T) {
	h, bs, x := boxoNode(t)
	data := noise(14, 3<<20+5)
	for _, raw := range []bool{true, false} {
		params := helpers.DagBuilderParams{
			Maxlinks: 5, RawLeaves: raw, CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: mh.SHA2_256},
			Dagserv: merkledag.NewDAGService(blockservice.New(bs, x)),
		}
		db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(data), 100<<10))
		if err != nil {
			t.Fatal(err)
		}
		root, err := balanced.Layout(db)
		if err != nil {
			t.Fatal(err)
		}
		s := newStore(t, Config{}, nil)
		dst := filepath.Join(t.TempDir(), "out")
		want := File{CID: root.Cid(), Size: int64(len(data)), BLAKE3: blake3.Sum256(data)}
		err = s.FetchFile(deadline(t, 30*time.Second), want, []peer.AddrInfo{infoOf(h)}, dst, 0o700, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("other bytes came: %v", err)
		}
		// The CID is right, the BLAKE3 is another file's.
		want.BLAKE3[0] ^= 1
		dst += "2"
		err = s.FetchFile(deadline(t, 30*time.Second), want, []peer.AddrInfo{infoOf(h)}, dst, 0o700, nil)
		wantKind(t, err, cellproto.Corrupt)
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dst), "*out2*")); left != nil {
			t.Fatalf("left behind: %v", left)
		}
	}
}
