package mirror

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// A disk that is full in the middle: a reason that says so, and nothing half done, nor anything that fills it.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	data := make([]byte, 4<<20)
	rand.Read(data)
	there := newFetcher(t)
	s := storeAt(t, filepath.Join(root, "foreign"), newFetcher(t), nil)
	_, _, err := s.Add(t.Context(), want(t, there.serve(t, data), []peer.AddrInfo{there.info()}, nil), silent)
	if err == nil || !strings.Contains(cellproto.HintOf(err), "Free ") {
		t.Errorf("%v, hint %q", err, cellproto.HintOf(err))
	}
	if rest := left(t, s); len(rest) > 0 {
		t.Errorf("%q were left", rest)
	}
}
