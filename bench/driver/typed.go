package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/celldnet/celld/bench/load"
)

// typed compares what generated clients cost, beside protobuf and clients that are written by hand. Both sides are
// functions of one process. Then what the commands take that developers wait for.
func typed(b *bench) error {
	cmd := exec.CommandContext(b.ctx, filepath.Join(b.o.bin, "typed"), strconv.Itoa(b.o.rounds))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for d := json.NewDecoder(out); err == nil; {
		var t load.Turns
		if err = d.Decode(&t); err == nil {
			b.addRatio(comparison{what: "typed: " + t.What, format: nanoseconds, atMost: t.AtMost}, t.Ours, t.Peer)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	return checked(b)
}

func nanoseconds(v float64) string { return fmt.Sprintf("%.0f ns", v) }
