package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
)

const (
	cellLog      = "cell.log"
	followPeriod = 200 * time.Millisecond // of looking for new lines
	maxLogLine   = 64 << 10               // bytes of a line in one piece
)

func (a *app) logsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs [DIR]",
		Short: "Show what a cell's program and its nucleus have written",
		Args:  args(0, 1),
	}
	n := cmd.Flags().IntP("lines", "n", 50, "how many `LINES` of each log, from the end")
	follow := cmd.Flags().BoolP("follow", "f", false, "go on with what is written from now on")
	only := cmd.Flags().String("only", "", "\"cell\" or \"nucleus\": one of the two logs")
	completeFlag(cmd, "only", "cell", "nucleus")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *n < 0 || *n > 1_000_000 {
			return usagef(cmd, "-n %d is not between 0 and 1000000", *n)
		}
		names, err := logNames(cmd, *only)
		if err != nil {
			return err
		}
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		v := &logView{a: a}
		for _, name := range names {
			v.logs = append(v.logs, &tailedLog{name: name, path: filepath.Join(dir, "log", name)})
		}
		for _, l := range v.logs {
			if err := v.showTail(l, *n); err != nil {
				return err
			}
		}
		defer v.close()
		if *follow {
			return v.follow(cmd.Context())
		}
		if err := v.flush(); err != nil {
			return err
		}
		if !v.any && !a.json {
			return cellproto.Errorf("read the logs of "+dir, cellproto.NotFound, "nothing has been written yet").
				WithHint("cellctl start %s", quoteWord(dir))
		}
		return nil
	}
	return cmd
}

func logNames(cmd *cobra.Command, only string) ([]string, error) {
	switch only {
	case "":
		return []string{nucleusLog, cellLog}, nil
	case "cell":
		return []string{cellLog}, nil
	case "nucleus":
		return []string{nucleusLog}, nil
	}
	return nil, usagef(cmd, "--only %q is neither cell nor nucleus", only)
}

// tailedLog is a log that is read while it grows.
type tailedLog struct {
	name string
	path string
	f    *os.File // nil while it does not exist
	rest []byte   // an incomplete line
}

type logView struct {
	a       *app
	logs    []*tailedLog
	current *tailedLog // whose header was printed last
	any     bool
}

// showTail prints the last n lines of l.
func (v *logView) showTail(l *tailedLog, n int) error {
	if err := l.open(); err != nil || l.f == nil {
		return err
	}
	tail, end, err := readTail(l.f, n)
	if err != nil {
		return logError(l, err)
	}
	if _, err := l.f.Seek(end, io.SeekStart); err != nil {
		return logError(l, err)
	}
	return v.show(l, tail)
}

func (l *tailedLog) open() error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return logError(l, err)
	}
	l.f = f
	return nil
}

func logError(l *tailedLog, err error) error {
	return cellproto.Errorf("read "+l.path, cellproto.KindOf(err), "%w", err)
}

// show prints the whole lines of data and keeps the rest.
func (v *logView) show(l *tailedLog, data []byte) error {
	data = append(l.rest, data...)
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && len(data) < maxLogLine {
		l.rest = data
		return nil
	}
	if end == 0 {
		end = len(data)
	}
	l.rest = bytes.Clone(data[end:])
	v.any = true
	for line := range bytes.Lines(data[:end]) {
		if err := v.line(l, safe(string(bytes.TrimRight(line, "\n")))); err != nil {
			return err
		}
	}
	return nil
}

func (v *logView) line(l *tailedLog, line string) error {
	if v.a.json {
		return v.a.printJSON(struct {
			Log  string `json:"log"`
			Line string `json:"line"`
		}{l.name, line})
	}
	if v.current != l && len(v.logs) > 1 {
		gap := ""
		if v.current != nil {
			gap = "\n"
		}
		v.current = l
		if err := v.a.print([]byte(gap + v.a.color(bold, "==> log/"+l.name+" <==") + "\n")); err != nil {
			return err
		}
	}
	return v.a.print([]byte(line + "\n"))
}

// follow prints what is written from now on, until the command is interrupted.
func (v *logView) follow(ctx context.Context) error {
	tick := time.NewTicker(followPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, l := range v.logs {
			if err := v.advance(l); err != nil {
				return err
			}
		}
	}
}

// advance prints what is new in l; a log that was rotated is read from its beginning.
func (v *logView) advance(l *tailedLog) error {
	for {
		if l.f == nil {
			if err := l.open(); err != nil || l.f == nil {
				return err
			}
		}
		if err := v.drain(l); err != nil {
			return err
		}
		if !l.replaced() {
			return nil
		}
		if err := v.drain(l); err != nil { // what came between the two looks; nothing does any more
			return err
		}
		l.f.Close()
		l.f = nil
	}
}

// drain prints l to its end.
func (v *logView) drain(l *tailedLog) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.f.Read(buf)
		if n > 0 {
			if err := v.show(l, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return logError(l, err)
		}
	}
}

// replaced reports that the name now means another file, or that the file was cut.
func (l *tailedLog) replaced() bool {
	ours, err := l.f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(l.path)
	if err != nil {
		return false // between the two renames of a rotation
	}
	at, err := l.f.Seek(0, io.SeekCurrent)
	return !os.SameFile(ours, named) || err == nil && named.Size() < at
}

// flush prints the lines that nobody has ended yet, such as the last words of a program.
func (v *logView) flush() error {
	for _, l := range v.logs {
		if len(l.rest) > 0 {
			if err := v.show(l, []byte("\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *logView) close() {
	for _, l := range v.logs {
		if l.f != nil {
			l.f.Close()
		}
	}
}

// readTail gives the last n lines of a file and where it ended. It reads backwards, so that a long
// log costs no more than what is shown of it.
func readTail(f *os.File, n int) (tail []byte, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	end = info.Size()
	const block = 32 << 10
	for from := end; from > 0 && n > 0; {
		size := min(from, block)
		from -= size
		buf := make([]byte, size, int(size)+len(tail))
		if _, err := f.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		tail = append(buf, tail...)
		if lines := bytes.Count(tail, []byte("\n")); lines > n {
			break
		}
	}
	extra := bytes.Count(tail, []byte("\n")) - n
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		extra++ // the last line is not complete
	}
	for ; extra > 0; extra-- {
		tail = tail[bytes.IndexByte(tail, '\n')+1:]
	}
	if n == 0 {
		tail = nil
	}
	return tail, end, nil
}
