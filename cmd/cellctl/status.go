package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Show how a cell is",
		Args:  args(0, 1),
	}
	timeout := timeoutFlag(cmd, 5*time.Second)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		status, err := (&ctl.Client{Dir: dir}).Status(ctx)
		if errors.Is(err, ctl.ErrNotRunning) {
			status, err = a.stoppedStatus(dir)
		}
		if err != nil {
			return fromControl("ask the nucleus of "+dir, dir, err)
		}
		if a.json {
			return a.printJSON(status)
		}
		return a.table(statusRows(status))
	}
	return cmd
}

// stoppedStatus is what the directory and the environment alone say.
func (a *app) stoppedStatus(dir string) (ctl.Status, error) {
	c, err := celltoml.Load(dir)
	if err != nil {
		return ctl.Status{}, err
	}
	if err := c.ApplyEnv(a.getenv); err != nil {
		return ctl.Status{}, err
	}
	return ctl.Status{
		Name: c.Cell.Name, Version: c.Cell.Version, State: ctl.Stopped,
		Addrs: []string{}, Network: c.Network.Name, Dir: dir, CID: publishedCID(dir),
	}, nil
}

// publishedCID reads under which CID the cell was published last; "" when it was not.
func publishedCID(dir string) string {
	f, err := os.Open(filepath.Join(dir, "published", "latest"))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return ""
	}
	return safe(strings.TrimSpace(string(b)))
}

// statusRows leaves out what there is nothing to say about.
func statusRows(s ctl.Status) [][]string {
	rows := [][]string{{"cell", s.Name + " " + s.Version}, {"state", s.State}}
	add := func(name, value string) {
		if value != "" && value != "0" {
			rows = append(rows, []string{name, value})
		}
	}
	add("nucleus", strconv.Itoa(s.NucleusPID))
	add("program", strconv.Itoa(s.ProgramPID))
	add("cid", s.CID)
	add("ipns", s.IPNS)
	add("network", s.Network)
	add("peer", s.PeerID)
	for _, addr := range s.Addrs {
		add("address", addr)
	}
	if s.State != ctl.Stopped {
		rows = append(rows, []string{"calls", strconv.Itoa(s.InFlight) + " in flight, " + strconv.FormatInt(s.Served, 10) + " served"})
	}
	add("ledger", s.Ledger)
	add("ledger", s.LedgerDamage)
	add("error", s.LastError)
	add("hint", s.LastHint)
	if s.Swap != nil {
		add("swap", s.Swap.State)
		add("reason", s.Swap.Reason)
		add("hint", s.Swap.Hint)
	}
	for _, u := range s.SchemasInUse {
		add("schema "+u.Schema[:min(len(u.Schema), 12)], schemaUseText(u))
	}
	for _, d := range s.Dependencies {
		text := d.State
		if len(d.Changes) > 0 {
			text += ": " + strings.Join(d.Changes, "; ")
		}
		add("made for "+d.Target, text)
	}
	for _, text := range s.Objectives {
		add("objective", text)
	}
	for _, p := range s.Placements {
		add("copy of "+p.Name, p.String())
	}
	for _, p := range s.Patch {
		text := p.File + " " + strings.ReplaceAll(p.State, "_", " ")
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		add("patch", text)
	}
	add("sandbox", s.SandboxTier)
	add("profile", s.Profile)
	add("directory", s.Dir)
	return rows
}

// schemaUseText says who uses a schema, the last to call first.
func schemaUseText(u ctl.SchemaUse) string {
	var names []string
	const shown = 4
	for _, c := range u.Callers[:min(len(u.Callers), shown)] {
		names = append(names, c.Who)
	}
	if more := len(u.Callers) - len(names); more > 0 {
		names = append(names, "and "+strconv.Itoa(more)+" more")
	}
	text := strings.Join(names, ", ")
	if len(u.Callers) > 0 {
		text += ", last at " + u.Callers[0].LastCall.Local().Format("2006-01-02 15:04:05")
	}
	if !u.Known {
		text += "; this cell never had it"
	} else if !u.Served {
		text += "; an older one"
	}
	return "used by " + text
}
