package state

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// Keys that were deleted leave their room to files, and what is left of the keys is what it was.
func TestDeletedKeysLeaveRoom(t *testing.T) {
	const size = 4 << 20
	dir := t.TempDir()
	s, _ := newStore(t, Config{Dir: dir, Size: size})
	c := connect(t, s)
	value := bytes.Repeat([]byte("v"), 50_000)
	fill := func() (n int) {
		t.Helper()
		for ; ; n++ {
			if _, err := c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", n), Value: value}); err != nil {
				wantKind(t, "one key too many", err, cellproto.TooLarge, true)
				return n
			}
		}
	}
	remove := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			c.must(cellproto.FuncKVDelete, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", i)})
		}
	}
	n := fill()
	if n < 40 {
		t.Fatalf("only %d keys", n)
	}
	remove(1, n)
	stale := filepath.Join(dir, filepath.FromSlash(Dir), compactFile)
	if err := os.WriteFile(stale, []byte("what a process that was killed has left"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.write("file", io.LimitReader(zeros{}, 3<<20)); err != nil {
		t.Fatalf("a file where keys were: %v", err)
	}
	if c.get("key-0") != string(value) || c.must(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte("key-1")}).Value != nil {
		t.Error("the keys are not what they were")
	}
	if _, err := os.Lstat(stale); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", compactFile, err)
	}
	sum := int64(0)
	entries, _ := filepath.Glob(filepath.Join(dir, filepath.FromSlash(Dir), "*"))
	files, _ := filepath.Glob(filepath.Join(dir, filepath.FromSlash(Dir), filesDir, "*"))
	for _, path := range append(entries, files...) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
	}
	if sum > size {
		t.Errorf("%d bytes on the disk, the limit is %d", sum, size)
	}
	// The other way round, and again.
	c.must(cellproto.FuncFileRemove, cellproto.StateArgs{Name: "file"})
	if again := fill(); again < n*3/4 {
		t.Errorf("only %d keys where the file was, and %d before", again, n)
	}
	remove(1, n)
	if err := c.write("file", io.LimitReader(zeros{}, 2<<20)); err != nil {
		t.Error(err)
	}
	s.Close()
	s, logs := newStore(t, Config{Dir: dir, Size: size})
	c = connect(t, s)
	if c.get("key-0") != string(value) || logs.Len() > 0 {
		t.Errorf("with another nucleus: %v", logs.All())
	}
}
