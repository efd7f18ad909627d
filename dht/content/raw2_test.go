package content

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func BenchmarkParts(b *testing.B) {
	const size = 20_000_000
	a := newArtefact(b, 1, size)
	s := newStore(b, Config{}, nil)
	ctx := context.Background()
	s.deps.Host.Connect(ctx, a.self())
	dir := b.TempDir()
	var fill, commit time.Duration
	n := 0
	for b.Loop() {
		n++
		dst := filepath.Join(dir, fmt.Sprint("fetch", n))
		start := time.Now()
		p, _ := openPart(dst, size, nil)
		if err := s.fill(ctx, a.File, []peer.AddrInfo{a.self()}, p); err != nil {
			b.Fatal(err)
		}
		fill += time.Since(start)
		start = time.Now()
		p.commit(dst+"x", 0o700)
		commit += time.Since(start)
		remove(b, dst+"x")
	}
	b.ReportMetric(fill.Seconds()*1e3/float64(n), "fill-ms")
	b.ReportMetric(commit.Seconds()*1e3/float64(n), "commit-ms")
}
