package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

const (
	// reportWait is the first of the waits for who reads the reports, when nothing follows any more, and reportMost the last;
	// each is twice as long as the one before it.
	reportWait = 10 * time.Millisecond
	reportMost = 640 * time.Millisecond
	// reportRoom is how many reports may wait: that the program has started or what it uses, and how it has ended.
	reportRoom = 2
)

// reporter tells what the program uses, to whoever reads it. Nobody waits for who does not read, since the program's limits are
// held by who reports: a goroutine writes, and blocks. What it writes to is left as it is, since others may have the same
// open file: one that did not block would not do so for them either.
type reporter struct {
	lines chan []byte
	done  chan struct{} // closed when all lines are written, or none can be
}

func newReporter(out io.Writer) *reporter {
	r := &reporter{make(chan []byte, reportRoom), make(chan struct{})}
	go func() { // ends with the process, if nobody reads
		defer close(r.done)
		for line := range r.lines {
			if _, err := out.Write(line); err != nil {
				return // nobody wants any more
			}
		}
	}()
	return r
}

// tell has a report be written, once those before it are. What is told again and again is left out while others wait.
func (r *reporter) tell(report sandbox.Report) {
	var line bytes.Buffer
	if sandbox.WriteReport(&line, report) != nil || report.Event == sandbox.EventUsage && len(r.lines) > 0 {
		return
	}
	select {
	case r.lines <- line.Bytes():
	default: // nobody reads
	}
}

// close waits for what was told, but not for ever for who does not read it; nothing is told after that. It waits in short steps:
// on a machine that has no processor for this process a time can be over before anything was tried in it.
func (r *reporter) close() {
	close(r.lines)
	for wait := reportWait; wait <= reportMost; wait *= 2 {
		select {
		case <-r.done:
			return
		case <-time.After(wait):
		}
	}
}

// openReport opens what takes the report: a descriptor by its number, or a file that is appended to.
func openReport(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	if fd, err := strconv.ParseUint(name, 10, 10); err == nil {
		f := os.NewFile(uintptr(fd), "report")
		if _, err := f.Stat(); err != nil {
			return nil, cellproto.Errorf("open report", cellproto.BadInput, "descriptor %d is not open", fd)
		}
		return f, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND|noFollow, 0o600)
	if err != nil {
		return nil, cellproto.Errorf("open report", cellproto.KindOf(err), "%w", err)
	}
	return f, nil
}
