package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// isTerminal reports that w is a terminal that can move its cursor.
func (a *app) isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && a.getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// color gives s in an ANSI colour, if out is a terminal and nobody has asked for NO_COLOR.
func (a *app) color(code, s string) string {
	if a.getenv("NO_COLOR") != "" || !a.isTerminal(a.out) {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

const (
	green = "32"
	red   = "31"
	bold  = "1"
)

// table prints rows in columns. Cells come from elsewhere and are made safe for a terminal.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = strings.ReplaceAll(safe(cell), "\t", " ")
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// progressDelay is how long a command that is not on a terminal may take before it says what it is
// doing: what takes less is not worth a line in a log. With --json stderr is for one object alone.
const progressDelay = 300 * time.Millisecond

// progress shows what a command is doing, on stderr: on a terminal at once, on one line that is
// removed in the end, else as lines once progressDelay has passed.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	width int
	timer *time.Timer
	late  bool
	last  string
	ended bool
}

func (a *app) progress() *progress {
	p := &progress{w: a.errOut, tty: a.isTerminal(a.errOut), width: 79}
	if f, ok := a.errOut.(*os.File); ok && p.tty {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			p.width = w - 1
		}
	}
	if !p.tty && !a.json {
		p.timer = time.AfterFunc(progressDelay, p.delayOver)
	}
	return p
}

func (p *progress) delayOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = true
	if p.last != "" && !p.ended {
		fmt.Fprintf(p.w, "cellctl: %s\n", p.last)
	}
}

// steps is progress of what takes its time and is done in steps: without a terminal each of them has its line, from the
// first one on.
func (a *app) steps() *progress {
	p := a.progress()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.late = true
	}
	return p
}

// say shows text instead of what was shown before.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text = safe(text)
	if p.ended || text == p.last {
		return
	}
	p.last = text
	switch {
	case p.tty:
		if r := []rune(text); len(r) > p.width {
			text = string(r[:p.width])
		}
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
	case p.late:
		fmt.Fprintf(p.w, "cellctl: %s\n", text)
	}
}

// done removes what is shown. It may be called more than once.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.tty && p.last != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// micros shows a duration of µs as people read it.
func micros(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		d = d.Round(100 * time.Microsecond)
	}
	return d.String()
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
