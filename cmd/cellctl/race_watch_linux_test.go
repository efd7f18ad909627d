package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/internal/ctl"
)

var report = ctl.RaceReport{
	Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Why: "slow call", TookUS: 12_345, Seen: 2, Winner: "P1",
	Rows: []ctl.RaceRow{{Peer: "P1", MedianUS: 310, P99US: 1_200_000, Queue: 2, ScoreUS: 12_345, Winner: true}, {Peer: "P2", Error: "no \x1b[2Janswer"}},
}

// races answers with so many races, and then waits for the end of the request.
func races(n int) func(*ctl.Writer, *http.Request, http.ResponseWriter) {
	return func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		for range n {
			w.Item(report)
		}
		if r.URL.Query().Get("every_ms") != "2000" {
			<-r.Context().Done()
		}
		w.Result(nil)
	}
}

func TestRaceWatch(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	n.routes[ctl.RouteRaces] = races(2)
	got := must(t, run(t, "", "race", "bafy", "--watch", "--every", "2"))
	if strings.Count(got, "P1    310µs  1.2s  2      12.3ms  winner\n") != 2 || !strings.Contains(got, "race 2 of bafy (slow call): 2 seen, took 12.3ms\n") {
		t.Errorf("it prints\n%s", got)
	}
	lines := strings.Split(strings.TrimSpace(must(t, run(t, "", "race", "bafy", "-w", "--every", "2s", "--json"))), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var r ctl.RaceReport
		if err := json.Unmarshal([]byte(line), &r); err != nil || len(r.Rows) != 2 || r.Winner != "P1" || !r.Time.Equal(report.Time) {
			t.Errorf("%s: %v", line, err)
		}
	}
	// The end of its time is a good end, if there was something to see.
	if got := must(t, run(t, "", "race", "bafy", "--watch", "--timeout", "500ms")); !strings.Contains(got, "race 2") {
		t.Errorf("it prints\n%s", got)
	}
	n.routes[ctl.RouteRaces] = races(0)
	if o := run(t, "", "race", "bafy", "--watch", "--timeout", "300ms"); o.code != exitUnavailable || o.out != "" {
		t.Errorf("exit code %d, %s%s", o.code, o.out, o.err)
	}
	if o := run(t, "", "race", "bafy", "--watch", "--every", "10ms"); o.code != exitUsage || !strings.Contains(o.err, "--every 10ms") {
		t.Errorf("exit code %d, %s", o.code, o.err)
	}
}

// On a real terminal it draws in place until ^C, and leaves the last race there.
func TestRaceWatchOnATerminal(t *testing.T) {
	n := startFake(t)
	n.mu.Lock() // another process asks: nothing else orders this before that
	n.routes[ctl.RouteRaces] = races(3)
	n.mu.Unlock()
	master, slave := pty(t, 100, 20)
	before := termios(t, slave)
	cmd := exec.Command(filepath.Join(binDir, "cellctl"), "race", "bafy", "--watch")
	cmd.Dir = n.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, if all is well
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	out := readUntil(t, master, "race 3 of bafy (slow call): 2 seen, took 12.3ms; ^C ends")
	if !strings.HasSuffix(out, endOfScreen) {
		out += readUntil(t, master, endOfScreen)
	}
	for _, want := range []string{enterScreen, toTop, "\x1b[1mPEER ", "winner", "no ?[2Janswer"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	press(t, master, "\x03")
	out = readUntil(t, master, "no ?[2Janswer")
	if !strings.Contains(out, leaveScreen) {
		t.Errorf("it leaves %q", out)
	}
	select {
	case err := <-ended:
		if cmd.ProcessState.ExitCode() != 128+int(unix.SIGINT) {
			t.Errorf("%v: %q", err, out)
		}
	case <-time.After(time.Minute):
		t.Fatalf("it goes on: %q", out)
	}
	if got := termios(t, slave); got != before {
		t.Errorf("the terminal is left as %+v, it was %+v", got, before)
	}
}
