package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

// run runs the program and gives the status to exit with.
func run(o options) int {
	if o.plan {
		return printPlans(o)
	}
	deps := sandbox.Deps{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Keep: map[int]*os.File{}}
	for _, fd := range o.keep {
		deps.Keep[fd] = os.NewFile(uintptr(fd), "descriptor "+strconv.Itoa(fd))
	}
	o.config.Env = append(inheritedEnv(o.keep, os.LookupEnv), o.config.Env...)
	out, err := openReport(o.report)
	if err != nil {
		complain(err)
		return exitUsage
	}
	if out != nil {
		r := newReporter(out)
		defer r.close()
		deps.Report = r.tell
	}
	// Before the start: who hears that the program runs may send a signal that would end this process.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, listened...)
	box, err := start(o.config, deps)
	if err != nil {
		complain(err)
		if deps.Report != nil {
			deps.Report(sandbox.FailedReport(o.config.Tier, err))
		}
		return exitFor(err)
	}
	orphaned := awaitOwner(o.owner)
	for {
		select {
		case sig := <-signals:
			act(box, sig)
		case <-orphaned:
			box.Kill()
			orphaned = nil
		case <-box.Done():
			return ended(box.Wait())
		}
	}
}

// start starts the program, in a pool if one is named.
func start(c sandbox.Config, deps sandbox.Deps) (box *sandbox.Box, err error) {
	if len(c.Pool) > 0 {
		if c.Cgroup, err = sandbox.EnterPool(c.Pool, "cellbox"); err != nil {
			return nil, err
		}
		c.Pool = nil
	}
	return sandbox.Start(c, deps)
}

// awaitOwner gives a channel that is closed when the owner has: he holds the other end of the pipe fd,
// writes nothing to it, and has ended when it closes. 0 is none.
func awaitOwner(fd int) <-chan struct{} {
	if fd == 0 {
		return nil
	}
	gone := make(chan struct{})
	go func() { // ends with the process
		_, _ = os.NewFile(uintptr(fd), "owner").Read(make([]byte, 1))
		close(gone)
	}()
	return gone
}

// ended says why the sandbox ended the program, if it did.
func ended(r sandbox.Report) int {
	switch r.Why {
	case sandbox.WhyMemory:
		fmt.Fprintf(os.Stderr, "cellbox: the program took more memory than it may have (%d KiB were seen); --memory gives it more\n", r.PeakKiB)
	case sandbox.WhyThreads:
		fmt.Fprintln(os.Stderr, "cellbox: the program made more threads than it may have; --threads gives it more")
	case sandbox.WhyTimeout:
		fmt.Fprintln(os.Stderr, "cellbox: the build took longer than it may; --timeout gives it more")
	case sandbox.WhyOutput:
		complain(r.Err())
		return exitNoOutput
	case sandbox.WhyGuard:
		fmt.Fprintln(os.Stderr, "cellbox: the process that guards the program was killed")
	case sandbox.WhyUnseen:
		fmt.Fprintln(os.Stderr, "cellbox: the program was ended: /proc shows nothing of it (hidepid?), and no control group holds its limits")
	}
	if r.LogDropped > 0 {
		fmt.Fprintf(os.Stderr, "cellbox: %d bytes of its log were dropped; they came too fast\n", r.LogDropped)
	}
	return r.Exit
}

// inheritedEnv is what a nucleus tells a program: its name, and which descriptor carries its frames.
func inheritedEnv(keep []int, lookup func(string) (string, bool)) (env []string) {
	if name, ok := lookup(cellproto.EnvName); ok {
		env = append(env, cellproto.EnvName+"="+name)
	}
	if fd, ok := lookup(cellproto.EnvFD); ok {
		if n, err := strconv.Atoi(fd); err == nil && slices.Contains(keep, n) {
			env = append(env, cellproto.EnvFD+"="+fd)
		}
	}
	return env
}

func printPlans(o options) int {
	text, err := sandbox.Describe(o.config, o.keep)
	if err != nil {
		complain(err)
		return exitFor(err)
	}
	fmt.Print(text)
	return 0
}
