//go:build !linux

package give

import (
	"context"

	"github.com/celldnet/celld/cellproto"
)

// AskScope fails: only Linux has control groups.
func AskScope(context.Context) error {
	return cellproto.Errorf("ask systemd for control groups", cellproto.Unsupported, "only Linux has them")
}
