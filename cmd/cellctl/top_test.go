package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

func TestTopRates(t *testing.T) {
	r := &topRow{Dir: "/d", Found: "home", Name: "n"}
	m := ctl.Metrics{
		Name: "calculator", State: ctl.Running, TimeMS: 10_000, Served: 100, InFlight: 3, Waiting: 1, P50US: 20, P99US: 300,
		Nucleus: ctl.Process{PID: 7, CPUMS: 500, RSS: 1 << 20}, Program: ctl.Process{PID: 8, CPUMS: 50, RSS: 2 << 20},
	}
	r.take(m, nil)
	if r.CallsPerS != 0 || r.NucleusCPU != 0 || r.Served != 100 || r.Queue != 1 || r.ProgramRSS != 2<<20 {
		t.Errorf("the first look: %+v", r)
	}
	m.TimeMS, m.Served, m.Nucleus.CPUMS, m.Program.CPUMS = 12_000, 150, 700, 1050
	r.take(m, nil)
	if r.CallsPerS != 25 || r.NucleusCPU != 10 || r.ProgramCPU != 50 {
		t.Errorf("the second look: %+v", r)
	}
	m.TimeMS, m.Program = 13_000, ctl.Process{PID: 9, CPUMS: 5}
	r.take(m, nil)
	if r.CallsPerS != 0 || r.ProgramCPU != 0 {
		t.Errorf("another program: %+v", r)
	}
	m.TimeMS, m.Served, m.Nucleus.PID = 500, 3, 10 // another nucleus
	r.take(m, nil)
	if r.CallsPerS != 0 || r.NucleusCPU != 0 {
		t.Errorf("another nucleus: %+v", r)
	}
	r.take(ctl.Metrics{}, ctl.ErrNotRunning)
	if r.State != ctl.Stopped || r.Error != "" || r.Served != 0 || r.Found != "home" {
		t.Errorf("stopped: %+v", r)
	}
	r.take(ctl.Metrics{}, errors.New("broken"))
	if r.State != "unknown" || r.Error != "broken" {
		t.Errorf("broken: %+v", r)
	}
}

// procs makes a procfs with one process.
func addProc(t *testing.T, procfs, pid string, words ...string) {
	t.Helper()
	writeFiles(t, procfs, map[string]string{pid + "/cmdline": strings.Join(words, "\x00") + "\x00"})
}

func TestNucleiOf(t *testing.T) {
	root, procfs := t.TempDir(), t.TempDir()
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	for _, dir := range []string{a, b} {
		writeFiles(t, dir, map[string]string{"cell.toml": ""})
	}
	addProc(t, procfs, "30", "/usr/bin/celld", b)
	addProc(t, procfs, "9", "celld", a)
	addProc(t, procfs, "40", "celld", a) // a second one, which is about to end
	addProc(t, procfs, "41", "/usr/bin/sleep", a)
	addProc(t, procfs, "42", "celld")
	addProc(t, procfs, "43", "celld", root) // no cell
	addProc(t, procfs, "44", "celld", "b")
	if err := os.Symlink(root, filepath.Join(procfs, "44", "cwd")); err != nil {
		t.Fatal(err)
	}
	addProc(t, procfs, "45", "celld", "relative and without cwd")
	addProc(t, procfs, "self", "celld", a)
	writeFiles(t, procfs, map[string]string{"46/cmdline": "", "version": "Linux"})
	if got := nucleiOf(procfs, os.Getuid()); !slices.Equal(got, []string{a, b}) {
		t.Errorf("%q", got)
	}
	if got := nucleiOf(procfs, os.Getuid()+1); len(got) != 0 {
		t.Errorf("of another user: %q", got)
	}
	if got := nucleiOf(filepath.Join(procfs, "none"), os.Getuid()); len(got) != 0 {
		t.Errorf("without a procfs: %q", got)
	}
}

// metrics counts up: 10 calls and 100 ms more at each look.
func metrics() func(*ctl.Writer, *http.Request, http.ResponseWriter) {
	looks := make(chan int, 1)
	looks <- 0
	return func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) {
		i := <-looks
		looks <- i + 1
		_ = w.Result(ctl.Metrics{
			Name: "calculator", Version: "1.0.0", State: ctl.Running, TimeMS: int64(i * 100), Served: int64(i * 10), InFlight: 2,
			P50US: 40, P99US: 1500, Nucleus: ctl.Process{PID: 7, CPUMS: int64(i * 20), RSS: 30 << 20},
			Program: ctl.Process{PID: 8, CPUMS: int64(i * 50), RSS: 5 << 20},
		})
	}
}

func TestTopOnce(t *testing.T) {
	n := startFake(t)
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, errOut: &errs, getenv: func(string) string { return "" }}
	if code := a.run([]string{"top", n.dir, "--once", "--interval", "100ms"}); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	want := []string{"calculator", "running", "100.0", "40µs", "1.5ms", "2", "0", "50.0%", "5.0", "MiB", "20.0%", "30.0", "MiB", "argument", n.dir}
	if got := strings.Fields(lines[1]); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(strings.Fields(lines[0])) < 13 {
		t.Errorf("%q", lines[0])
	}
}

func TestTopJSON(t *testing.T) {
	n := startFake(t)
	stopped := filepath.Join(t.TempDir(), "asleep")
	writeFiles(t, stopped, map[string]string{"cell.toml": "[cell]\nname = \"asleep\"\n"})
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, errOut: &errs, getenv: func(string) string { return "" }}
	if code := a.run([]string{"top", "--json", "--once", "-i", "100ms", n.dir, stopped}); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	dec := json.NewDecoder(&out)
	var rows [2]topRow
	for i := range rows {
		if err := dec.Decode(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if r := rows[0]; r.Name != "calculator" || r.CallsPerS != 100 || r.ProgramCPU != 50 || r.NucleusRSS != 30<<20 || r.Found != "argument" {
		t.Errorf("%+v", r)
	}
	if r := rows[1]; r.Name != "asleep" || r.State != ctl.Stopped || r.Error != "" || r.NucleusPID != 0 {
		t.Errorf("%+v", r)
	}
	if dec.More() {
		t.Error("there is more")
	}
}

// A control character in what a nucleus says does not reach the terminal, and no line is longer than
// the terminal is wide.
func TestTopScreen(t *testing.T) {
	a := &app{out: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	tp := &top{app: a, interval: time.Second, rows: map[string]*topRow{}}
	for i := range 40 {
		dir := fmt.Sprintf("/cells/%d", i)
		tp.order = append(tp.order, dir)
		tp.rows[dir] = &topRow{Dir: dir, Name: "evil\x1b[2J\nname", State: ctl.Running, NucleusPID: 1, Error: "bad\x07\nnews"}
	}
	text := string(tp.screen())
	body, ok := strings.CutPrefix(text, toTop)
	if body, ok2 := strings.CutSuffix(body, endOfScreen); !ok || !ok2 {
		t.Fatalf("%q", text)
	} else {
		lines := strings.Split(body, "\r\n")
		if len(lines) != 24 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines {
			line = strings.TrimSuffix(line, endOfLine)
			if strings.ContainsAny(line, "\x1b\x07\n") || len([]rune(line)) > 80 {
				t.Errorf("%q", line)
			}
		}
	}
}

func TestTopRefuses(t *testing.T) {
	for _, args := range [][]string{{"top", "-i", "1ms"}, {"top", "-i", "0s"}, {"top", "-i", "2h"}, {"top", "--no-such"}} {
		a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, errOut: &bytes.Buffer{}, getenv: func(string) string { return "" }}
		if code := a.run(args); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}
