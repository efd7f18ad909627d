// Command witness is the program of a cell that is counted at both ends: it says in each reply which version
// and which process has answered, and prints a line for each call that it carries out. A version is chosen
// when it is linked.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"github.com/celldnet/celld/cellproto/cell"
)

var version = "1.0.0"

// Call is what all functions take.
type Call struct {
	Key string `json:"key" doc:"of this call, without spaces"`
}

// Answer is what they give.
type Answer struct {
	Key      string `json:"key"`
	Version  string `json:"version"`
	Instance string `json:"instance"` // of the program: another one after each start; "" of what is pure
}

func main() {
	instance := rand.Text()[:12]
	print := func(text string) {
		os.Stdout.WriteString(text) // one write a line; the nucleus keeps it in its log
	}
	// What a nucleus that is killed has not read yet is lost. A program that is not confined has a disk.
	if err := os.MkdirAll("data", 0o700); err == nil {
		log, err := os.OpenFile(filepath.Join("data", instance+".calls"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			print = func(text string) { log.WriteString(text) }
		}
	}
	print(fmt.Sprintf("@began %s %s\n", version, instance))
	carryOut := func(_ context.Context, c Call) (Answer, error) {
		print("@ran " + c.Key + " " + instance + "\n")
		return Answer{Key: c.Key, Version: version, Instance: instance}, nil
	}
	look := func(ctx context.Context, c Call) (Answer, error) {
		a, err := carryOut(ctx, c)
		a.Instance = "" // the same whoever answers
		return a, err
	}
	cell.Main(
		cell.Func("look", look).Pure().Doc("May be asked of several at once."),
		cell.Func("note", carryOut).Idempotent().Doc("May be repeated under its key."),
		cell.Func("once", carryOut).Doc("Must not be repeated."),
	)
}
