// Command echo is the program that the benchmarks call. Started by a nucleus it is a cell's program;
// with the arguments "listen PATH" it serves the very same functions on a Unix socket of its own,
// which is what the relay of a nucleus is compared with.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto/cell"
)

// build is which of two builds this is: -ldflags "-X main.build=two".
var build = "one"

func main() {
	if len(os.Args) == 3 && os.Args[1] == "listen" {
		if err := listen(os.Args[2]); err != nil {
			load.Fail(err)
		}
		return
	}
	cell.Main(functions()...)
}

func functions() []*cell.Function {
	return []*cell.Function{
		cell.FuncRaw("echo", echo).Pure().Doc("Gives back what it is given."),
		cell.FuncRaw("echo-slow", echo).Pure().Slow().Doc("The same, in a goroutine for each call."),
		cell.Func("message", message).Pure().Doc("Gives back a message."),
		cell.Func("version", version).Pure().Doc("Says which build this is."),
		cell.Func("add", add).Pure().Doc("Adds two integers."),
	}
}

func echo(_ context.Context, in []byte) ([]byte, error) { return in, nil }

func message(_ context.Context, in load.Message) (load.Message, error) { return in, nil }

func version(context.Context, cell.None) (string, error) { return build, nil }

type sum struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

func add(_ context.Context, in sum) (int64, error) { return in.A + in.B, nil }

func listen(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := (cell.Config{Name: "echo"}).Serve(context.Background(), conn, functions()...); err != nil {
					fmt.Fprintln(os.Stderr, "caller left:", err)
				}
			}()
		}
	}()
	load.Ready(path)
	load.UntilEOF()
	return nil
}
