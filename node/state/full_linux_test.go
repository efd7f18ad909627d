package state

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// A full disk fails what is written, says so, and spoils nothing.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, _ := newStore(t, Config{Dir: dir})
	c := connect(t, s)
	c.put("a", "1")
	if err := c.write("small", io.LimitReader(zeros{}, 1000)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "a file on a full disk", c.write("large", io.LimitReader(zeros{}, 4<<20)), cellproto.Failed, true)
	fill, err := os.Create(dir + "/fill")
	if err == nil {
		_, _ = io.Copy(fill, zeros{}) // until it is full
		err = fill.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err = c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte("b"), Value: make([]byte, cellproto.MaxStateValue)})
		wantKind(t, "a key on a full disk", err, cellproto.Failed, true)
		if got := c.get("a"); got != "1" {
			t.Errorf("a has %q", got)
		}
	}
	if err := os.Remove(dir + "/fill"); err != nil {
		t.Fatal(err)
	}
	c.put("b", "2")
	s.Close()
	s, logs := newStore(t, Config{Dir: dir})
	c = connect(t, s)
	if c.get("a") != "1" || c.get("b") != "2" || logs.Len() > 0 {
		t.Errorf("%q %q %v", c.get("a"), c.get("b"), logs.All())
	}
	if got, err := c.read(cellproto.StateArgs{Name: "small"}); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
