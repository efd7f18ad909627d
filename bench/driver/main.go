// Command driver measures celld side by side with its peers. Ours and the peer take turns, round by
// round, in one run, so that what else the machine does hits both; what counts is the median of the
// rounds' ratios, not a number of calls per second. It starts real daemons and programs as processes
// of its own, on loopback, in a temporary directory that it removes.
//
// It is also the client process of a few rows, and the nucleus without a program of others: see
// roles.go. scripts/bench.sh builds what it needs and runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/celldnet/celld/bench/load"
)

// options are what a run of the benchmarks can be told.
type options struct {
	bin    string        // directory of celld, cellctl, the programs that are called, and the peers
	kubo   string        // path of ipfs; "": the artefact is measured alone
	rounds int           // of each comparison
	round  time.Duration // length of one side's turn
	rest   time.Duration // that the nucleus at rest is watched
	calls  time.Duration // of calls, to see whether a nucleus grows
	write  string        // Markdown file to put the table into, between its markers
	commit string
	rows   *regexp.Regexp // comparisons that are made; of the other measurements all are
}

// sections are run in this order; each appends its rows.
var sections = []struct {
	name string
	run  func(*bench) error
	only bool // when it is named
}{
	{name: "remote", run: remote},
	{name: "local", run: local},
	{name: "swap", run: swapped},
	{name: "use", run: use},
	{name: "typed", run: typed},
	{name: "first", run: first},
	{name: "artefact", run: artefact},
	{name: "patch", run: patched},
	{name: "rest", run: rest},
	{name: "cpu", run: cpuCosts, only: true},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := role(os.Args[2], os.Args[3:]); err != nil {
			load.Fail(err)
		}
		return
	}
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of celld, cellctl, the programs that are called, and the peers")
	flag.StringVar(&o.kubo, "kubo", "", "`path` of kubo's ipfs; without it the artefact has no peer")
	flag.IntVar(&o.rounds, "rounds", 15, "rounds of each comparison")
	flag.DurationVar(&o.round, "round", time.Second, "length of one side's turn in a round")
	flag.DurationVar(&o.rest, "rest", time.Minute, "how long the nucleus at rest is watched")
	flag.DurationVar(&o.calls, "calls", 5*time.Minute, "how long a nucleus is called, to see whether it grows; 0: not at all")
	flag.StringVar(&o.write, "write", "", "Markdown `file` to replace the table in, between its markers")
	flag.StringVar(&o.commit, "commit", "unknown", "what is measured")
	rows := flag.String("rows", "", "`pattern` of the comparisons to make, for a quick look")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: driver [flags] [section...]\n\nSections: %s. Default: all but cpu.\n\n", strings.Join(sectionNames(), " "))
		flag.PrintDefaults()
	}
	flag.Parse()
	pattern, err := regexp.Compile(*rows)
	if err != nil {
		load.Fail(err)
	}
	o.rows = pattern
	if err := run(o, flag.Args()); err != nil {
		load.Fail(err)
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

func run(o options, wanted []string) error {
	for _, name := range wanted {
		if !slices.Contains(sectionNames(), name) {
			return fmt.Errorf("there is no section %q: %s", name, strings.Join(sectionNames(), " "))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	begin := time.Now()
	for _, s := range sections {
		if named := slices.Contains(wanted, s.name); !named && (len(wanted) > 0 || s.only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "== %s (load average %s)\n", s.name, loadAverage())
		if err := s.run(b); err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
		b.procs.stop()
	}
	text := b.report(time.Since(begin))
	fmt.Print(text)
	if o.write == "" {
		return nil
	}
	return replaceBetween(o.write, text)
}
