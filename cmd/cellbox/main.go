// Command cellbox runs a program that nobody trusts: cellbox --dir DIR -- PROGRAM ARGS. It confines it
// as well as this machine can, holds its limits and says what it used; if it cannot confine it, it does
// not run it. It is small, so that it starts fast, and speaks neither frames nor libp2p.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "dev"

// Exit statuses besides the program's own, and 128 and the number of a signal that ended it; those of
// env(1) and timeout(1).
const (
	exitUsage    = 2
	exitNoOutput = 124 // a build ended well and left no proper output
	exitNoTier   = 125 // the program was not started
	exitDenied   = 126 // it cannot be executed
	exitNotFound = 127
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		complain(err)
		os.Exit(exitUsage)
	case o.version:
		fmt.Println("cellbox", buildVersion())
		return
	case o.probe:
		os.Exit(probe(o))
	}
	os.Exit(run(o))
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

// complain says what failed and what to try.
func complain(err error) {
	fmt.Fprintf(os.Stderr, "cellbox: %v\n", err)
	if hint := cellproto.HintOf(err); hint != "" {
		fmt.Fprintf(os.Stderr, "  %s\n", hint)
	}
}

// exitFor gives the status for a program that was not started.
func exitFor(err error) int {
	switch cellproto.KindOf(err) {
	case cellproto.BadInput:
		return exitUsage
	case cellproto.Denied:
		return exitDenied
	case cellproto.NotFound:
		return exitNotFound
	}
	return exitNoTier
}

// probe prints what works here. The status says whether anything does.
func probe(o options) int {
	s := sandbox.Probe()
	var err error
	if o.json {
		err = writeJSON(os.Stdout, s)
	} else {
		err = s.WriteText(os.Stdout)
	}
	if err != nil {
		complain(err)
		return exitNoTier
	}
	if _, ok := s.Best(); !ok {
		return exitNoTier
	}
	return 0
}
