// Command sums is the program of a cell that adds, unless its host has it lie: the file data/lie of its directory says
// how. It also waits, and notes how long it was given and why that ended: a test sees what has reached it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/celldnet/celld/cellproto/cell"
)

// Sum is what is to be added.
type Sum struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

// Wait names the notes of a call.
type Wait struct {
	Key string `json:"key"`
}

func main() {
	lie, _ := os.ReadFile(filepath.Join("data", "lie")) // whoever is honest has none
	add := func(ctx context.Context, in Sum) (int64, error) {
		switch string(lie) {
		case "wrong":
			return in.A + in.B + 1, nil
		case "silent":
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return in.A + in.B, nil
	}
	cell.Main(
		cell.Func("add", add).Pure().Slow(),
		cell.Func("keep", add).Idempotent().Slow(),
		cell.Func("wait", wait).Slow(),
	)
}

// wait notes how many milliseconds it has in data/KEY.begun, and in data/KEY.ended why its time was over.
func wait(ctx context.Context, in Wait) (string, error) {
	left := "no deadline"
	if deadline, ok := ctx.Deadline(); ok {
		left = fmt.Sprint(time.Until(deadline).Milliseconds())
	}
	if err := note(in.Key+".begun", left); err != nil {
		return "", err
	}
	<-ctx.Done()
	if err := note(in.Key+".ended", ctx.Err().Error()); err != nil {
		return "", err
	}
	return "", ctx.Err()
}

// note writes a file that is seen whole or not at all.
func note(name, text string) error {
	path := filepath.Join("data", filepath.Base(name))
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
