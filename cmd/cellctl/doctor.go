package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [DIR]",
		Short: "Say what is wrong with a cell and this machine's way to others, and what mends it",
		Long: "Say what is wrong with a cell and this machine's way to others, and which command mends it.\n" +
			"Without DIR it is about the nearest cell upward, else the home cell. Exit code 1: something is.",
		Args: args(0, 1),
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, home, err := a.patient(first(args))
		if err != nil {
			return err
		}
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		p := a.progress()
		defer p.done()
		checks := append(a.look(dir).diagnose(), a.nucleusChecks(ctx, dir, home, p)...)
		p.done()
		return a.showChecks(checks)
	}
	return cmd
}

// patient gives the cell to look at, and whether it is the home cell, which may be started.
func (a *app) patient(named string) (dir string, home bool, err error) {
	if named == "" {
		if dir, err = a.callerDir(); err != nil {
			return "", false, err
		}
	} else if dir, err = filepath.Abs(named); err != nil {
		return "", false, cellproto.Errorf("find the cell", cellproto.Failed, "%w", err)
	}
	if _, err := os.Stat(dir); err != nil {
		return "", false, cellproto.Errorf("find the cell", cellproto.KindOf(err), "%w", err).WithHint("cellctl init NAME makes a cell")
	}
	path, err := a.homePath()
	return dir, err == nil && path == dir, nil
}

func (a *app) showChecks(checks []ctl.Check) error {
	healthy := true
	for _, c := range checks {
		healthy = healthy && c.OK
	}
	if a.json {
		if err := a.printJSON(checks); err != nil {
			return err
		}
	} else {
		for _, c := range checks {
			word := a.color(green, "ok   ")
			if !c.OK {
				word = a.color(red, "WRONG")
			}
			text := fmt.Appendf(nil, "%s  %s: %s\n", word, safe(c.Name), safe(c.Detail))
			if !c.OK && c.Fix != "" {
				text = fmt.Appendf(text, "         try: %s\n", safe(c.Fix))
			}
			if err := a.print(text); err != nil {
				return err
			}
		}
	}
	if !healthy {
		return silentError{}
	}
	return nil
}

// finding makes a check of an error; nil is a good one.
func finding(name, good string, err error, fix string) ctl.Check {
	if err == nil {
		return ctl.Check{Name: name, OK: true, Detail: good}
	}
	if hint := cellproto.HintOf(err); hint != "" {
		fix = hint
	}
	return ctl.Check{Name: name, Detail: err.Error(), Fix: fix}
}

// look collects what can be seen without a nucleus.
func (a *app) look(dir string) *localFacts {
	f := &localFacts{dir: dir, running: !lockFree(dir)}
	f.celld, f.celldErr = findCelld()
	c, err := celltoml.Load(dir)
	if err == nil {
		err = c.ApplyEnv(a.getenv)
	}
	if f.cfgErr = err; err != nil {
		return f
	}
	f.headless, f.binary = c.Headless(), c.Cell.Binary
	if !f.headless {
		f.program = lookAt(c.Path(c.Cell.Binary))
	}
	f.keys = lookAtKeys(filepath.Join(dir, "keys"))
	f.free, f.writeErr = room(dir)
	if !f.running {
		for _, p := range fixedPorts(c.Network.Listen) {
			if p.isTaken() {
				f.taken = append(f.taken, p.text)
			}
		}
	}
	return f
}

func lookAt(path string) (f fileFacts) {
	info, err := os.Stat(path)
	if f.err = err; err == nil {
		f.mode = info.Mode()
	}
	return f
}

// lookAtKeys looks at the private keys of a cell; there are none before its nucleus has started.
func lookAtKeys(dir string) (keys []keyFacts) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.key")) // the pattern is good
	for _, path := range paths {
		k := keyFacts{name: filepath.Base(path), fileFacts: lookAt(path)}
		if k.err == nil && k.mode.IsRegular() {
			f, err := os.Open(path)
			if k.readErr = err; err == nil {
				if info, err := f.Stat(); err == nil {
					k.size = info.Size()
				}
				f.Close()
			}
		}
		keys = append(keys, k)
	}
	return keys
}

// room gives the space that is left for a directory, or why nothing can be written there.
func room(dir string) (free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	free = uint64(st.Bavail) * uint64(st.Bsize)
	f, err := os.CreateTemp(dir, ".doctor")
	if err != nil {
		return free, err
	}
	f.Close()
	return free, os.Remove(f.Name())
}

// isTaken reports that another program listens there. It tries, for a moment.
func (p portToTry) isTaken() bool {
	addr := net.JoinHostPort(p.host, p.port)
	var c io.Closer
	var err error
	if strings.HasPrefix(p.network, "tcp") {
		c, err = net.Listen(p.network, addr)
	} else {
		c, err = net.ListenPacket(p.network, addr)
	}
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

// nucleusChecks asks the nucleus what it finds about itself and its network. One that sleeps is
// itself a finding, but for the home cell's, which starts on demand.
func (a *app) nucleusChecks(ctx context.Context, dir string, home bool, p *progress) []ctl.Check {
	name, start := "nucleus", "cellctl start "+quoteWord(dir)
	if home {
		if _, err := a.ensure(ctx, dir, p); err != nil {
			return []ctl.Check{finding(name, "", err, start)}
		}
	}
	client := &ctl.Client{Dir: dir, Progress: p.say}
	status, err := client.Status(ctx)
	if errors.Is(err, ctl.ErrNotRunning) && !lockFree(dir) {
		err = fmt.Errorf("a nucleus (pid %d) holds the cell but does not answer", readPID(dir))
		start = "cellctl restart " + quoteWord(dir)
	}
	if err != nil {
		return []ctl.Check{finding(name, "", err, start)}
	}
	good := fmt.Sprintf("pid %d, %s", status.NucleusPID, status.State)
	checks := []ctl.Check{finding(name, good, nil, "")}
	began := time.Now()
	more, err := client.Doctor(ctx)
	if err != nil {
		err = fromControl("ask the nucleus", dir, err)
		return append(checks, finding("network", fmt.Sprint(time.Since(began)), err, "cellctl logs "+quoteWord(dir)))
	}
	return append(checks, more...)
}
