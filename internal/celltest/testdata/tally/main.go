// Command tally is the program of a cell that notes every call that it carries out, by the key that the
// caller has given: a test counts both sides.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/celldnet/celld/cellproto/cell"
)

// Call is what both functions take.
type Call struct {
	Key string `json:"key"`
	Ms  int    `json:"ms"` // to take for it
}

func main() {
	err := os.MkdirAll("data", 0o700)
	var log *os.File
	if err == nil { // one file for each process: nobody else's line is torn by a kill
		log, err = os.OpenFile(filepath.Join("data", fmt.Sprintf("%d.calls", os.Getpid())), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	note := func(_ context.Context, c Call) (int, error) {
		if c.Ms > 0 {
			time.Sleep(time.Duration(c.Ms) * time.Millisecond)
		}
		_, err := log.WriteString(c.Key + "\n") // one write a line
		return os.Getpid(), err
	}
	cell.Main(
		cell.Func("once", note).Doc("Notes a call that must not be repeated."),
		cell.Func("slow", note).Slow().Doc("Notes one that takes its time."),
		cell.Func("repeat", note).Idempotent().Doc("Notes one that may be repeated under its key."),
		cell.Func("burn", burn).Slow().Doc("Keeps a processor busy for that long."),
		cell.Func("work", work).Slow().Doc("Does a fixed piece of work."),
		cell.Func("lag", lag).Pure(),
		cell.Func("pid", func(context.Context, cell.None) (int, error) { return os.Getpid(), nil }).Pure(),
		cell.Func("die", func(context.Context, cell.None) (int, error) { os.Exit(7); return 0, nil }),
	)
}

// burn works for a while; Ms are of this processor's time if it has one to itself.
func burn(_ context.Context, c Call) (int, error) {
	sum := [32]byte{}
	for end := time.Now().Add(time.Duration(c.Ms) * time.Millisecond); time.Now().Before(end); {
		for range 100 {
			sum = sha256.Sum256(sum[:])
		}
	}
	return int(sum[0]), nil
}

// lag takes as many milliseconds as a file data/lag says, none without it.
func lag(context.Context, cell.None) (int, error) {
	text, err := os.ReadFile(filepath.Join("data", "lag"))
	if err != nil {
		return 0, nil
	}
	ms, err := strconv.Atoi(string(text))
	time.Sleep(time.Duration(ms) * time.Millisecond)
	return ms, err
}

// work costs the same processor time however busy the machine is; three times as much where there is a file data/dear.
func work(_ context.Context, c Call) (int, error) {
	n := c.Ms * 5000
	if _, err := os.Stat(filepath.Join("data", "dear")); err == nil {
		n *= 3
	}
	sum := [32]byte{}
	for range n {
		sum = sha256.Sum256(sum[:])
	}
	return int(sum[0]), nil
}
