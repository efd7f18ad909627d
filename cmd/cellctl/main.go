// Command cellctl is the human's way to cells: it makes, builds and starts them, and uses those of
// others. Each command parses its words, asks one nucleus over its control socket and prints the
// answer. It decides nothing that a nucleus decides, keeps no state, and links no libp2p, so that
// it starts in milliseconds.
package main

import "os"

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, errOut: os.Stderr, getenv: os.Getenv}
	os.Exit(a.run(os.Args[1:]))
}
