package main

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/celldnet/celld/node/sandbox"
)

// starved is a pipe with room, of a process that gets a processor only when its time to write is over: so often.
type starved struct {
	bytes.Buffer
	late  int
	tries int
}

func (s *starved) SetWriteDeadline(time.Time) error { return nil }

func (s *starved) Write(b []byte) (int, error) {
	if s.tries++; s.tries <= s.late {
		return 0, os.ErrDeadlineExceeded
	}
	return s.Buffer.Write(b)
}

// That a program has started, or has ended, is told though this process has no processor for a moment; else who waits for it
// takes it for dead. What is told every second may be left out.
func TestToldThoughStarved(t *testing.T) {
	for _, c := range []struct {
		event       sandbox.Event
		late, tries int
		told        bool
	}{
		{sandbox.EventStart, 0, 1, true},
		{sandbox.EventStart, 3, 4, true},
		{sandbox.EventEnd, 6, 7, true},
		{sandbox.EventFailed, 1, 2, true},
		{sandbox.EventStart, 100, 7, false}, // nobody reads it
		{sandbox.EventUsage, 1, 1, false},
	} {
		out := &starved{late: c.late}
		tell(out, sandbox.Report{Event: c.event})
		if told := out.Len() > 0; told != c.told || out.tries != c.tries {
			t.Errorf("%s, late %d times: told %t after %d tries, want %t after %d", c.event, c.late, told, out.tries, c.told, c.tries)
		}
	}
}
