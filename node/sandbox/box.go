package sandbox

import (
	"context"
	"os"
)

// Deps is what a program is given. All may be nil.
type Deps struct {
	// Stdin is a pipe, a Unix socket or a file that is only read; a terminal and nil give the null
	// device.
	Stdin *os.File
	// Stdout and Stderr may be anything that can be written. The program writes to what is not a pipe
	// or a Unix socket through one, and to Stderr always, within Config.LogRate.
	Stdout, Stderr *os.File
	// Keep are descriptors that it inherits, by their numbers there, which are above 2: connected
	// stream sockets of the Unix family, pipes, and files that are only read.
	Keep map[int]*os.File
	// Report is called, by one goroutine, when the program has started, every Config.Every, and when
	// it has ended. It must not block for long: the limits are watched by the same goroutine.
	Report func(Report)
}

// Run runs a program to its end. When ctx ends the program is asked to end, and after Config.Grace it
// is killed; its last report is given all the same. An error says that its first instruction was never
// run.
func Run(ctx context.Context, c Config, d Deps) (Report, error) {
	box, err := Start(c, d)
	if err != nil {
		return Report{}, err
	}
	stop := context.AfterFunc(ctx, box.Stop)
	defer stop()
	return box.Wait(), nil
}
