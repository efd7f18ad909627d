package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// What a terminal is told: ECMA-48, and the private modes of xterm that every terminal knows today.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	endOfLine   = "\x1b[K"
	endOfScreen = "\x1b[J"
)

// table shows the rows; the first line is the heads.
func (t *top) table() [][]string {
	rows := [][]string{{"CELL", "STATE", "CALLS/S", "P50", "P99", "IN FLIGHT", "QUEUE", "CPU", "RSS", "NUCLEUS CPU", "NUCLEUS RSS", "FOUND", "DIRECTORY"}}
	for _, dir := range t.order {
		r := t.rows[dir]
		row := []string{r.Name, r.State, "-", "-", "-", "-", "-", "-", "-", "-", "-", r.Found, r.Dir}
		if r.State != ctl.Stopped && r.NucleusPID != 0 {
			row[2] = strconv.FormatFloat(r.CallsPerS, 'f', 1, 64)
			row[5], row[6] = strconv.Itoa(r.InFlight), strconv.Itoa(r.Queue)
			row[9], row[10] = percent(r.NucleusCPU), size(r.NucleusRSS)
			if r.P50US > 0 || r.P99US > 0 {
				row[3], row[4] = micros(r.P50US), micros(r.P99US)
			}
			if r.ProgramPID != 0 {
				row[7], row[8] = percent(r.ProgramCPU), size(r.ProgramRSS)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func percent(p float64) string { return strconv.FormatFloat(p, 'f', 1, 64) + "%" }

// draw shows the table in place until somebody presses q, or the process is told to end. The terminal
// is left as it was found, whatever happens.
func (t *top) draw(ctx context.Context) error {
	in, isFile := t.app.in.(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) {
		return t.print(ctx, false) // nobody could press q
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // what else ends a command has ended ctx
	defer stop()
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return cellproto.Errorf("top", cellproto.Failed, "cannot take the terminal over: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), before) }() // a terminal that is gone needs it no more
	if err := t.app.print([]byte(enterScreen)); err != nil {
		return err
	}
	defer func() { _ = t.app.print([]byte(leaveScreen)) }()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	quit, closeKeyboard, err := keyboard(in)
	if err != nil {
		return err
	}
	defer closeKeyboard()
	for again := true; ; {
		if again {
			if err := t.look(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if err := t.app.print(t.screen()); err != nil {
			return err
		}
		select {
		case <-tick.C:
			again = true
		case <-resized:
			again = false
		case <-quit:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// keyboard tells on pressed when q or ^C was pressed, or the terminal is gone. close ends its goroutine,
// and waits for it.
func keyboard(in *os.File) (pressed <-chan struct{}, closeIt func(), err error) {
	end, ender, err := os.Pipe()
	if err != nil {
		return nil, nil, cellproto.Errorf("top", cellproto.Failed, "%w", err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer end.Close()
		if awaitQuit(int(in.Fd()), int(end.Fd())) {
			close(quit)
		}
	}()
	return quit, func() { ender.Close(); <-done }, nil
}

// awaitQuit reads from in until it says to quit, or end is closed.
func awaitQuit(in, end int) bool {
	buf := make([]byte, 64)
	for {
		fds := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(end), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return true
		}
		if fds[1].Revents != 0 {
			return false
		}
		n, err := unix.Read(in, buf)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil || n <= 0 || bytes.ContainsAny(buf[:n], "qQ\x03\x04") {
			return true
		}
	}
}

// screen is what is written to show the rows in place.
func (t *top) screen() []byte {
	running := 0
	for _, r := range t.rows {
		if r.NucleusPID != 0 {
			running++
		}
	}
	head := fmt.Sprintf("%s  %d of %d cells have a nucleus, every %v; q quits", time.Now().Format(time.TimeOnly), running, len(t.order), t.interval)
	var below []string
	for _, dir := range t.order {
		if r := t.rows[dir]; r.Error != "" {
			below = append(below, "", safe(r.Name)+": "+strings.ReplaceAll(safe(r.Error), "\n", " "))
		}
	}
	return t.app.drawn(head, t.table(), below)
}

// drawn is what is written to show a head, a table and what is below it in place: lines that end in \r\n,
// since the terminal may be raw, and none longer or more than the terminal has.
func (a *app) drawn(head string, table [][]string, below []string) []byte {
	width, height := 80, 24
	if f, ok := a.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range table {
		for i, cell := range row {
			row[i] = strings.NewReplacer("\t", " ", "\n", " ").Replace(safe(cell))
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // to memory
	lines := append([]string{head, ""}, strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")...)
	lines = append(lines, below...)
	var out bytes.Buffer
	out.WriteString(toTop)
	for i, line := range lines[:min(len(lines), height)] {
		if i > 0 {
			out.WriteString("\r\n")
		}
		line = cut(line, width)
		if i == 2 {
			line = a.color(bold, line)
		}
		out.WriteString(line + endOfLine)
	}
	out.WriteString(endOfScreen)
	return out.Bytes()
}

// cut gives the first characters of a line. Wide ones count as one: the terminal wraps none, for the
// line after begins where it begins.
func cut(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width])
}
