package main

import (
	"fmt"
	"io"
	"os"

	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/cellproto/patch/delta"
)

// makeDelta compares two programs for cellctl patch make, which links no compressor. It writes what it
// has compared, as two BLAKE3-256, and the delta. It gives the exit code.
func makeDelta(base, result string, out io.Writer) int {
	err := writeDelta(base, result, out)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "celld: %v\n", err)
	return 1
}

func writeDelta(base, result string, out io.Writer) error {
	var programs [2][]byte
	for i, path := range []string{base, result} {
		var err error
		if programs[i], err = patch.ReadProgram(path); err != nil {
			return err
		}
		sum := blake3.Sum256(programs[i])
		if _, err := out.Write(sum[:]); err != nil {
			return cellproto.Errorf("write the delta", cellproto.Failed, "%w", err)
		}
	}
	made, err := delta.Make(programs[0], programs[1])
	if err != nil {
		return err
	}
	if _, err := out.Write(made); err != nil {
		return cellproto.Errorf("write the delta", cellproto.Failed, "%w", err)
	}
	return nil
}
