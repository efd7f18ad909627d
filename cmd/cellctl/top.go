package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) topCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top [DIR...]",
		Short: "Watch what cells do and cost: calls, latency, CPU, memory",
		Long: "Watch the cells in the directories that are named or, without any, all that can be found: the home cell, the one that\n" +
			"this is within, and those whose nucleus runs as this user. On a terminal the table is drawn anew in place, until q;\n" +
			"else it is printed every interval. A cell that stops stays in the table.",
		Args: args(0, -1),
	}
	interval := cmd.Flags().DurationP("interval", "i", time.Second, "time between two looks")
	once := cmd.Flags().Bool("once", false, "look for one interval, print, and end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *interval < 100*time.Millisecond || *interval > time.Hour {
			return usagef(cmd, "--interval %v is not between 100ms and 1h", *interval)
		}
		named, err := a.namedCells(args)
		if err != nil {
			return err
		}
		t := &top{app: a, named: named, interval: *interval, rows: map[string]*topRow{}}
		ctx := cmd.Context()
		if a.isTerminal(a.out) && !a.json && !*once {
			return t.draw(ctx)
		}
		return t.print(ctx, *once)
	}
	return cmd
}

// namedCells gives the directories of args, each of which has to be a cell.
func (a *app) namedCells(args []string) ([]foundCell, error) {
	var out []foundCell
	for _, arg := range args {
		dir, err := cellDir(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, foundCell{dir, "argument"})
	}
	return out, nil
}

// top looks at cells again and again.
type top struct {
	app      *app
	named    []foundCell // what to look at; none: all that can be found
	interval time.Duration
	rows     map[string]*topRow // by directory
	order    []string           // of the directories, as they were found
}

// topRow is a cell in the table; its fields are a promise of --json.
type topRow struct {
	Name       string  `json:"name"`
	Dir        string  `json:"dir"`
	Found      string  `json:"found"` // argument, home, here or process
	State      string  `json:"state"`
	CallsPerS  float64 `json:"calls_per_s"` // over the last interval
	P50US      int64   `json:"p50_us"`      // of the last one to two thousand calls
	P99US      int64   `json:"p99_us"`
	InFlight   int     `json:"in_flight"`
	Queue      int     `json:"queue"` // calls that wait for the program
	Served     int64   `json:"served"`
	NucleusPID int     `json:"nucleus_pid"`
	NucleusCPU float64 `json:"nucleus_cpu_percent"` // of one core, over the last interval
	NucleusRSS int64   `json:"nucleus_rss"`         // bytes
	ProgramPID int     `json:"program_pid"`
	ProgramCPU float64 `json:"program_cpu_percent"`
	ProgramRSS int64   `json:"program_rss"`
	Error      string  `json:"error,omitempty"` // why there is nothing to show

	last ctl.Metrics // of the look before; zero: there was none
}

// look asks all cells at once how they are, each with as long as an interval takes.
func (t *top) look(ctx context.Context) error {
	cells := t.named
	if len(cells) == 0 {
		var err error
		if cells, err = t.app.findCells(); err != nil {
			return err
		}
	}
	for _, c := range cells {
		if t.rows[c.dir] == nil {
			t.rows[c.dir] = &topRow{Dir: c.dir, Found: c.found, Name: nameOf(c.dir), State: ctl.Stopped}
			t.order = append(t.order, c.dir)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, max(t.interval, time.Second))
	defer cancel()
	type answer struct {
		dir string
		m   ctl.Metrics
		err error
	}
	answers := make(chan answer, len(t.order))
	for _, dir := range t.order {
		go func() {
			m, err := (&ctl.Client{Dir: dir}).Metrics(ctx)
			answers <- answer{dir, m, err}
		}()
	}
	for range t.order {
		got := <-answers
		t.rows[got.dir].take(got.m, got.err)
	}
	return nil
}

// take puts an answer into the row. A rate needs two answers of one nucleus.
func (r *topRow) take(m ctl.Metrics, err error) {
	if err != nil {
		*r = topRow{Dir: r.Dir, Found: r.Found, Name: r.Name, State: ctl.Stopped}
		if !errors.Is(err, ctl.ErrNotRunning) {
			r.State, r.Error = "unknown", fromControl("", r.Dir, err).Error()
		}
		return
	}
	before := r.last
	r.last, r.Error = m, m.LastError
	r.Name, r.State = m.Name, m.State
	r.P50US, r.P99US, r.InFlight, r.Queue, r.Served = m.P50US, m.P99US, m.InFlight, m.Waiting, m.Served
	r.NucleusPID, r.NucleusRSS, r.ProgramPID, r.ProgramRSS = m.Nucleus.PID, m.Nucleus.RSS, m.Program.PID, m.Program.RSS
	r.CallsPerS, r.NucleusCPU, r.ProgramCPU = 0, 0, 0
	span := float64(m.TimeMS - before.TimeMS)
	if before.Nucleus.PID != m.Nucleus.PID || span <= 0 {
		return
	}
	r.CallsPerS = float64(m.Served-before.Served) * 1000 / span
	r.NucleusCPU = 100 * float64(m.Nucleus.CPUMS-before.Nucleus.CPUMS) / span
	if before.Program.PID == m.Program.PID {
		r.ProgramCPU = 100 * float64(m.Program.CPUMS-before.Program.CPUMS) / span
	}
}

// print prints rows every interval: as a table, or as lines of JSON. The first look is only what the
// rates of the second are measured from.
func (t *top) print(ctx context.Context, once bool) error {
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	if err := t.look(ctx); err != nil {
		return err
	}
	for first := true; ; first = false {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return cellproto.Errorf("top", cellproto.Canceled, "%w", ctx.Err())
		}
		if err := t.look(ctx); err != nil {
			return err
		}
		if err := t.show(first); err != nil || once {
			return err
		}
	}
}

func (t *top) show(first bool) error {
	if t.app.json {
		for _, dir := range t.order {
			if err := t.app.printJSON(t.rows[dir]); err != nil {
				return err
			}
		}
		return nil
	}
	if !first {
		if err := t.app.print([]byte("\n")); err != nil {
			return err
		}
	}
	return t.app.table(t.table())
}
