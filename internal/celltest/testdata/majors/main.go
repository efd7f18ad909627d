// Command majors is the program of a cell that has broken its callers once. Which version it is says a mark in its
// file: v1, v2, or v3, which serves the callers of both.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/celldnet/celld/cellproto/cell"
)

// Pair is what version 1 multiplies.
type Pair struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

// Factors is what the later ones do.
type Factors struct {
	Left  int64 `json:"left"`
	Right int64 `json:"right"`
}

// Product is what they give.
type Product struct {
	Value int64 `json:"value"`
}

// mark is changed in the file: a program in a sandbox cannot read its own.
var mark = "@version=v0"

func main() {
	one := cell.Func("mul", func(_ context.Context, in Pair) (int64, error) { return in.A * in.B, nil })
	two := cell.Func("mul", func(_ context.Context, in Factors) (Product, error) { return Product{in.Left * in.Right}, nil })
	switch mark {
	case "@version=v1":
		cell.Main(one)
	case "@version=v2":
		cell.Main(two)
	case "@version=v3":
		cell.Config{Older: [][]*cell.Function{{one}}}.Main(two)
	default:
		fmt.Fprintf(os.Stderr, "no version: %q\n", mark)
		os.Exit(1)
	}
}
