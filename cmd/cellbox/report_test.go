package main

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/celldnet/celld/node/sandbox"
)

// events gives what the lines of reports tell.
func events(t *testing.T, r io.Reader) (list []sandbox.Event) {
	t.Helper()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		report, err := sandbox.ParseReport(lines.Bytes())
		if err != nil {
			t.Error(err)
		}
		list = append(list, report.Event)
	}
	return list
}

// late is a pipe with room, of a process that gets a processor only after a while.
type late struct {
	bytes.Buffer
	by time.Duration
}

func (l *late) Write(b []byte) (int, error) {
	time.Sleep(l.by)
	return l.Buffer.Write(b)
}

// That a program has started, and has ended, is told though this process has no processor for a moment; else who waits for it
// takes it for dead. What is told every second may be left out.
func TestToldThoughStarved(t *testing.T) {
	for by, want := range map[time.Duration][]sandbox.Event{
		0:                      {sandbox.EventStart, sandbox.EventUsage, sandbox.EventUsage, sandbox.EventEnd},
		600 * time.Millisecond: {sandbox.EventStart, sandbox.EventEnd},
	} {
		synctest.Test(t, func(t *testing.T) {
			out := &late{by: by}
			r := newReporter(out)
			for _, event := range []sandbox.Event{sandbox.EventStart, sandbox.EventUsage, sandbox.EventUsage, sandbox.EventEnd} {
				r.tell(sandbox.Report{Event: event})
				if by == 0 {
					synctest.Wait()
				}
			}
			r.close()
			<-r.done
			got := events(t, &out.Buffer)
			if by > 0 {
				got = slices.DeleteFunc(got, func(e sandbox.Event) bool { return e == sandbox.EventUsage })
			}
			if !slices.Equal(got, want) {
				t.Errorf("late by %v it tells %v, want %v", by, got, want)
			}
		})
	}
}

// Who does not read keeps nobody up, and if he reads after all he gets whole lines, the start and the end among them.
func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		r := newReporter(out)
		r.tell(sandbox.Report{Event: sandbox.EventStart})
		for range 100 {
			synctest.Wait()
			r.tell(sandbox.Report{Event: sandbox.EventUsage})
		}
		r.tell(sandbox.Report{Event: sandbox.EventEnd})
		r.close()
		go func() { <-r.done; out.Close() }()
		if got, want := events(t, in), []sandbox.Event{sandbox.EventStart, sandbox.EventUsage, sandbox.EventEnd}; !slices.Equal(got, want) {
			t.Errorf("he reads %v, want %v", got, want)
		}
	})
}

// Who does not want reports any more is told nothing, and waited for no longer.
func TestReaderIsGone(t *testing.T) {
	in, out := io.Pipe()
	in.Close()
	r := newReporter(out)
	for range 10 {
		r.tell(sandbox.Report{Event: sandbox.EventEnd})
	}
	r.close()
	<-r.done
}
