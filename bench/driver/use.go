package main

import (
	"os/exec"
	"path/filepath"
	"time"
)

// usesPerRound is how often each side's process is run in a round; its median counts.
const usesPerRound = 20

// use compares the whole process of cellctl, using a local cell that runs, with a Go program that
// prints one line.
func use(b *bench) error {
	n, err := b.network("use")
	if err != nil {
		return err
	}
	c, err := n.cell("calculator", "echo")
	if err != nil {
		return err
	}
	if _, err := n.cellctl(c.dir, "schema", c.dir); err != nil { // starts the program
		return err
	}
	hello := filepath.Join(b.o.bin, "hello")
	cellctl := filepath.Join(b.o.bin, "cellctl")
	processes := func(make func() *exec.Cmd) side {
		return func() (float64, error) {
			var s samples
			for range usesPerRound {
				cmd := make()
				begin := time.Now()
				if err := cmd.Run(); err != nil {
					return 0, err
				}
				s = append(s, float64(time.Since(begin)))
			}
			return s.median(), nil
		}
	}
	use := processes(func() *exec.Cmd { return n.command(filepath.Dir(c.dir), "use", "./calculator", "add", "3", "4") })
	line := processes(func() *exec.Cmd { return exec.Command(hello) })
	version := processes(func() *exec.Cmd { return exec.Command(cellctl, "version") })
	if err := b.compare(comparison{
		what: "use: cellctl use of a running local cell, whole process / a Go program that prints a line",
		ours: use, peer: line, format: duration, atMost: 3,
	}); err != nil {
		return err
	}
	return b.compare(comparison{
		what: "use: of that, cellctl version / a Go program that prints a line", ours: version, peer: line, format: duration,
	})
}
