//go:build !linux

package node

import (
	"context"
	"net"
	"os"
	"syscall"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

const canHandOver = false

type descriptor interface{ syscall.Conn }

func errNoHandover() error {
	return cellproto.Errorf("hand over", cellproto.Unsupported, "only Linux can")
}

func descriptorOf(descriptor) (int, error) { return -1, errNoHandover() }

func inode(os.FileInfo) (device, inode uint64) { return 0, 0 }

func reloading() string { return "RELOADING=1" }

func (*departure) open() error { return errNoHandover() }

func (*departure) depart(*zap.Logger) error { return errNoHandover() }

// Inherited is a nucleus that another celld has handed over: never, here.
type Inherited struct{ h *handover }

// Inherit gives nil: there is none here.
func Inherit() (*Inherited, error) { return nil, nil }

// Stderr is for Linux.
func (*Inherited) Stderr() bool { return false }

func (*Inherited) acquire(ctx context.Context, dir string) (*runLock, error) {
	return acquire(ctx, dir)
}
func (*Inherited) reap(int)                                       {}
func (*Inherited) listener(ctl.Socket) (*net.UnixListener, error) { return nil, nil }
func (*Inherited) conn(int) (*net.UnixConn, error)                { return nil, errNoHandover() }
func (*Inherited) program() ([]byte, []*os.File)                  { return nil, nil }
