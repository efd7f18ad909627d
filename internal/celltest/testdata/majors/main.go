// Command majors is the program of a cell that has broken its callers once. Which version it is the last bytes of its
// file say: v1, v2, or v3, which serves the callers of both.
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

func main() {
	one := cell.Func("mul", func(_ context.Context, in Pair) (int64, error) { return in.A * in.B, nil })
	two := cell.Func("mul", func(_ context.Context, in Factors) (Product, error) { return Product{in.Left * in.Right}, nil })
	switch version, err := tail(); version {
	case "v1":
		cell.Main(one)
	case "v2":
		cell.Main(two)
	case "v3":
		cell.Config{Older: [][]*cell.Function{{one}}}.Main(two)
	default:
		fmt.Fprintf(os.Stderr, "no version: %q, %v\n", version, err)
		os.Exit(1)
	}
}

// tail gives the last two bytes of this program's file.
func tail() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	b := make([]byte, 2)
	_, err = f.ReadAt(b, info.Size()-int64(len(b)))
	return string(b), err
}
