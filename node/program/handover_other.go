//go:build !linux

package program

import (
	"context"
	"os"

	"github.com/celldnet/celld/cellproto"
)

// Suspend is for Linux.
func (p *Program) Suspend(context.Context) (*Handover, []*os.File, error) {
	return nil, nil, errNoHandover()
}

// Adopt is for Linux.
func Adopt(Config, Deps, *Handover, []*os.File) (*Program, error) { return nil, errNoHandover() }

func errNoHandover() error {
	return cellproto.Errorf("hand the program over", cellproto.Unsupported, "only Linux can")
}
