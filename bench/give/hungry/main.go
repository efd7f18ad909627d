// Command hungry is the program of a cell that wants everything: the stranger that bench/give has hosted.
package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

func main() {
	cell.Main(
		cell.Func("eat", eat).Pure().Slow().Doc("Takes all processors, memory and disk that it gets for ms milliseconds."),
		cell.Func("nap", nap).Pure().Slow().Doc("Waits for ms milliseconds."),
	)
}

// Time is what both take.
type Time struct {
	MS int64 `json:"ms" doc:"milliseconds, at most 60000"`
}

const walked = 64 << 20 // bytes of memory

var (
	memory = sync.OnceValue(func() []byte { return make([]byte, walked) })
	sum    atomic.Int64 // so that the loops have something to do
)

func eat(ctx context.Context, in Time) (int64, error) {
	until := time.Now().Add(time.Duration(min(in.MS, 60_000)) * time.Millisecond)
	var work sync.WaitGroup
	for range runtime.NumCPU() {
		work.Go(func() {
			for n := int64(0); time.Now().Before(until); n++ {
				sum.Store(n)
			}
		})
	}
	work.Go(func() { // through the caches
		all := memory()
		for i := 0; time.Now().Before(until); i = (i + 4096 + 64) % len(all) {
			all[i]++
		}
	})
	work.Go(func() {
		value := make([]byte, cellproto.MaxStateValue)
		for time.Now().Before(until) {
			if cell.StoreFrom(ctx).Put(ctx, "x", value) != nil { // more than its share
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	work.Wait()
	return in.MS, nil
}

func nap(ctx context.Context, in Time) (int64, error) {
	select {
	case <-time.After(time.Duration(min(in.MS, 60_000)) * time.Millisecond):
		return in.MS, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
