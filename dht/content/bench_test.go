package content

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// BenchmarkArtefact moves 20 MB between two stores over loopback TCP, by /cell/fetch/1, by
// bitswap and as a bare stream to nowhere in turn, so that all meet the same machine. The fsync at
// the end counts for the first two.
func BenchmarkArtefact(b *testing.B) {
	const size = 20_000_000
	a := newArtefact(b, 1, size)
	s := newStore(b, Config{}, nil)
	ctx := context.Background()
	if err := s.deps.Host.Connect(ctx, a.self()); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	data := make([]byte, size)
	a.deps.Host.SetStreamHandler("/raw", func(st network.Stream) {
		_, _ = st.Write(data)
		_ = st.Close()
	})
	var fetch, bitswap, raw time.Duration
	n := 0
	for b.Loop() {
		n++
		dst := filepath.Join(dir, fmt.Sprint("fetch", n))
		start := time.Now()
		if err := s.FetchFile(ctx, a.File, []peer.AddrInfo{a.self()}, dst, 0o700, nil); err != nil {
			b.Fatal(err)
		}
		fetch += time.Since(start)
		remove(b, dst) // so that both write to pages of memory that are in use already

		start = time.Now()
		p, err := openPart(filepath.Join(dir, fmt.Sprint("bitswap", n)), size, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.walkFile(ctx, a.File, []peer.ID{a.self().ID}, p); err != nil {
			b.Fatal(err)
		}
		if err := p.commit(p.path+".done", 0o700); err != nil {
			b.Fatal(err)
		}
		bitswap += time.Since(start)
		remove(b, p.path+".done")

		start = time.Now()
		st, err := s.deps.Host.NewStream(ctx, a.self().ID, "/raw")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, st); n != size || err != nil {
			b.Fatal(n, err)
		}
		_ = st.Close()
		raw += time.Since(start)
	}
	b.ReportMetric(size*float64(n)/1e6/fetch.Seconds(), "fetch-MB/s")
	b.ReportMetric(size*float64(n)/1e6/bitswap.Seconds(), "bitswap-MB/s")
	b.ReportMetric(size*float64(n)/1e6/raw.Seconds(), "raw-MB/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkAddFile imports 20 MB.
func BenchmarkAddFile(b *testing.B) {
	s := newStore(b, Config{}, nil)
	path := filepath.Join(b.TempDir(), "f")
	writeOld(b, path, noise(1, 20_000_000))
	b.SetBytes(20_000_000)
	for b.Loop() {
		s.files = &registry{log: s.log, cid: s.files.cid, hash: s.files.hash, leaves: s.files.leaves}
		for c := range s.files.cid {
			s.files.drop(c)
		}
		if _, err := s.AddFile(context.Background(), path); err != nil {
			b.Fatal(err)
		}
	}
}

func remove(b *testing.B, path string) {
	if err := os.Remove(path); err != nil {
		b.Fatal(err)
	}
}
