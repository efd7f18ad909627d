package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

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
		checks := append(localChecks(dir), a.nucleusChecks(ctx, dir, home, p)...)
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

// localChecks looks at what can be seen without a nucleus.
func localChecks(dir string) []ctl.Check {
	path, err := findCelld()
	checks := []ctl.Check{finding("celld", path, err, "")}
	c, err := celltoml.Load(dir)
	checks = append(checks, finding("cell.toml", filepath.Join(dir, celltoml.FileName), err, ""))
	if err != nil {
		return checks
	}
	if !c.Headless() {
		checks = append(checks, finding("binary", c.Cell.Binary, checkProgram(c), "cellctl build "+quoteWord(dir)))
	}
	if err := checkKeys(dir); err != nil {
		checks = append(checks, finding("keys", "", err, "chmod -R go= "+quoteWord(filepath.Join(dir, "keys"))))
	}
	return append(checks, finding("directory", "writable", checkWritable(dir), "chown -R \"$(id -un)\" "+quoteWord(dir)))
}

func checkProgram(c *celltoml.Config) error {
	info, err := os.Stat(c.Path(c.Cell.Binary))
	switch {
	case err != nil:
		return fmt.Errorf("%s has not been built", c.Cell.Binary)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", c.Cell.Binary)
	}
	return nil
}

// checkKeys finds private keys that others on this machine could read.
func checkKeys(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, "keys"))
	if err != nil {
		return nil // made when the nucleus starts
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && filepath.Ext(e.Name()) == ".key" && info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("others can read keys/%s", e.Name())
		}
	}
	return nil
}

func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor")
	if err != nil {
		return fmt.Errorf("cannot write to it: %w", err)
	}
	f.Close()
	return os.Remove(f.Name())
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
