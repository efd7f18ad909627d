package content

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/addrgroup"
)

// What an interrupted fetch leaves is used by the next one, also in another process; what was
// damaged meanwhile is not.
func TestFetchResumes(t *testing.T) {
	a := newArtefact(t, 30, artefactSize)
	for name, damage := range map[string]func(t *testing.T, part string) (offset int64){
		"whole":   func(*testing.T, string) int64 { return 3 * groupBytes },
		"odd end": func(t *testing.T, part string) int64 { truncate(t, part, 3*groupBytes-5); return 2 * groupBytes },
		"too long": func(t *testing.T, part string) int64 {
			truncate(t, part, artefactSize+1)
			return 0
		},
		"damaged": func(t *testing.T, part string) int64 {
			if err := os.WriteFile(part, make([]byte, 3*groupBytes), 0o600); err != nil {
				t.Fatal(err)
			}
			return 0 // in the second attempt
		},
		"complete": func(t *testing.T, part string) int64 {
			if err := os.WriteFile(part, a.data, 0o600); err != nil {
				t.Fatal(err)
			}
			return -1 // nothing is asked for
		},
	} {
		t.Run(name, func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "out")
			broken := fakeServer(t, func(req fetchRequest) ([]byte, bool) {
				if req.offset > 0 {
					return nil, false
				}
				return a.answer(t, 0)[:41+8+5*64+3*groupBytes+100], false // three groups and 2 of the parents after
			})
			first := newStore(t, Config{}, nil)
			err := first.FetchFile(deadline(t, 20*time.Second), a.File, []peer.AddrInfo{infoOf(broken)}, dst, 0o700, nil)
			wantKind(t, err, cellproto.Unavailable)
			part := partPath(dst, a.File)
			if fi, err := os.Stat(part); err != nil || fi.Size() != 3*groupBytes {
				t.Fatalf("the part: %v, %v", fi, err)
			}
			want := damage(t, part)

			asked := int64(-1)
			server := fakeServer(t, func(req fetchRequest) ([]byte, bool) {
				asked = req.offset
				return a.answer(t, req.offset), false
			})
			second := newStore(t, Config{}, nil)
			if err := second.FetchFile(deadline(t, 20*time.Second), a.File, []peer.AddrInfo{infoOf(server)}, dst, 0o700, nil); err != nil {
				t.Fatal(err)
			}
			if asked != want {
				t.Errorf("asked from %d on, want %d", asked, want)
			}
			if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, a.data) {
				t.Error("other bytes came")
			}
			if _, err := os.Stat(part); !errors.Is(err, os.ErrNotExist) {
				t.Error("the part is left")
			}
		})
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func TestFetchCanceledLeavesNothing(t *testing.T) {
	a := newArtefact(t, 31, artefactSize)
	s := newStore(t, Config{}, nil)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	err := s.FetchFile(ctx, a.File, []peer.AddrInfo{a.self()}, filepath.Join(dir, "out"), 0o700,
		func(done, _ int64) {
			if done >= 4*groupBytes {
				cancel()
			}
		})
	wantKind(t, err, cellproto.Canceled)
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A nucleus that stops in the middle leaves the part for its next run.
func TestFetchStoppedKeepsPart(t *testing.T) {
	a := newArtefact(t, 33, artefactSize)
	h := newHost(t)
	h.SetStreamHandler(cellproto.ProtocolFetch, func(st network.Stream) {
		_, _ = st.Write(a.answer(t, 0)[:5*groupBytes]) // and then nothing, with the stream open
	})
	s := newStore(t, Config{}, nil)
	s.timing.stall = time.Minute
	dst := filepath.Join(t.TempDir(), "out")
	stopped := make(chan struct{})
	err := s.FetchFile(deadline(t, 20*time.Second), a.File, []peer.AddrInfo{infoOf(h)}, dst, 0o700,
		func(done, _ int64) {
			if done == 4*groupBytes {
				go func() {
					s.Stop()
					close(stopped)
				}()
			}
		})
	<-stopped
	wantKind(t, err, cellproto.Unavailable)
	if fi, err := os.Stat(partPath(dst, a.File)); err != nil || fi.Size() < 4*groupBytes {
		t.Errorf("the part: %v, %v", fi, err)
	}
}

// A fifth fetch of one peer waits for its turn instead of failing.
func TestFetchOverloaded(t *testing.T) {
	a := newArtefact(t, 32, artefactSize)
	s := newStore(t, Config{}, nil)
	self := taker{s.self().ID, addrgroup.Of(s.self().Addrs[0])}
	for range maxFetchesPeer {
		if !a.slots.take(self) {
			t.Fatal("there is no place")
		}
	}
	if err := overloaded("busy"); cellproto.KindOf(err) != cellproto.Overloaded || cellproto.RetryAfterOf(err) == 0 {
		t.Errorf("no retry-after: %v", err)
	}
	dst := filepath.Join(t.TempDir(), "out")
	err := s.FetchFile(deadline(t, 300*time.Millisecond), a.File, []peer.AddrInfo{a.self()}, dst, 0o700, nil)
	if err == nil {
		t.Fatal("it was served")
	}
	for range maxFetchesPeer {
		a.slots.free(self)
	}
	if err := s.FetchFile(deadline(t, 5*time.Second), a.File, []peer.AddrInfo{a.self()}, dst, 0o700, nil); err != nil {
		t.Fatal(err)
	}
	if all, _ := a.slots.held(self); all != 0 {
		t.Errorf("%d places were lost", all)
	}
}
