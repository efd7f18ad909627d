package state

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/time/rate"

	"github.com/celldnet/celld/cellproto"
)

// written is how many bytes this process has given to the system.
func written(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	for line := range bytes.Lines(text) {
		if _, err := fmt.Sscanf(string(line), "wchar: %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("%s", text)
	return 0
}

// What is paid for is what the host's disk takes, but for a few pages: also where many keys were deleted, and each small
// value has the list of all free pages written.
func TestWritesArePaidFor(t *testing.T) {
	s, _ := newStore(t, Config{Dir: t.TempDir(), Size: 64 << 20})
	c := connect(t, s)
	s.rate.SetLimit(rate.Inf) // nothing is taken off meanwhile
	value := bytes.Repeat([]byte("v"), 60_000)
	const keys, puts = 500, 50
	for i := range keys {
		c.must(cellproto.FuncKVPut, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", i), Value: value})
	}
	for i := range keys {
		c.must(cellproto.FuncKVDelete, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", i)})
	}
	s.rate.SetLimit(1) // nothing comes back meanwhile
	before, tokens := written(t), s.rate.Tokens()
	for range puts {
		c.put("key", "v")
	}
	wrote := (written(t) - before) / puts
	paid := int64(tokens-s.rate.Tokens()) / puts
	const pages = 20 << 10
	if wrote > paid+pages {
		t.Errorf("each put of a byte has written %d bytes, and paid for %d", wrote, paid)
	}
}
