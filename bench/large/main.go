// Command large is a cell's program of the size of a nucleus, which the benchmark of patches changes:
// all that celld links is in it, for its weight only.
package main

import (
	"context"

	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/node"
)

// Two strings that the build sets: -ldflags "-X main.version=2 -X main.name=two".
var (
	version = "0"
	name    = "none"
)

func main() {
	weight = append(weight, node.Run)
	cell.Main(cell.Func("version", current).Pure().Doc("Says which build this is."))
}

// weight keeps the linker from leaving the nucleus out.
var weight []any

type nothing struct{}

func current(context.Context, nothing) (string, error) { return name + " " + version, nil }
