//go:build linux && !386 && !amd64 && !arm && !arm64

package sandbox

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// assemble fails: there is no table of this architecture's system calls. No tier works without one.
func assemble([]callRule) ([]unix.SockFilter, []int, error) {
	return nil, nil, cellproto.Errorf("assemble seccomp filter", cellproto.Unsupported,
		"there is no table of the system calls of %s", runtime.GOARCH)
}
