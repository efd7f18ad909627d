package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// The markers in docs/benchmarks.md between which the table is kept.
const (
	tableBegins = "<!-- table: written by scripts/bench.sh --write -->"
	tableEnds   = "<!-- end of table -->"
)

// report gives the table with the machine and the commit.
func (b *bench) report(took time.Duration) string {
	var t strings.Builder
	fmt.Fprintf(&t, "Commit %s, %s, %d cores of %s, Linux %s, %s; %d rounds of %v, %v in all, load average %s at the end.\n\n",
		b.o.commit, time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), cpuModel(), kernel(), runtime.Version(),
		b.o.rounds, b.o.round, took.Round(time.Second), loadAverage())
	fmt.Fprintf(&t, "| what | ours | peer | ratio (quartiles) | goal | met |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, r := range b.rows {
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.peer, r.ratio, r.goal, r.met)
	}
	return t.String()
}

// replaceBetween puts text between the markers of a file.
func replaceBetween(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := bytes.Cut(old, []byte(tableBegins))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnds))
	if !ok1 || !ok2 {
		return fmt.Errorf("%s does not have the lines %q and %q", path, tableBegins, tableEnds)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n\n%s\n%s%s", before, tableBegins, text, tableEnds, after)
	return renameio.WriteFile(path, out.Bytes(), 0o644)
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string { return firstWord("/proc/sys/kernel/osrelease") }

func loadAverage() string { return firstWord("/proc/loadavg") }

func firstWord(path string) string {
	text, err := os.ReadFile(path)
	if f := strings.Fields(string(text)); err == nil && len(f) > 0 {
		return f[0]
	}
	return "unknown"
}
