//go:build unix

package main

import (
	"bufio"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/node/sandbox"
)

// Who shares the open file that takes the reports, such as the terminal of a shell, finds it as it was: blocking.
func TestReportLeavesTheOpenFileAsItIs(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	for name, fds := range map[string][2]int{"a pipe": pipe, "a socket": pair} {
		shared, err := syscall.Dup(fds[1]) // as a parent has it
		if err != nil {
			t.Fatal(err)
		}
		f, err := openReport(strconv.Itoa(fds[1]))
		if err != nil {
			t.Fatal(err)
		}
		r := newReporter(f)
		r.tell(sandbox.Report{Event: sandbox.EventStart})
		r.close()
		in := os.NewFile(uintptr(fds[0]), name)
		if line, err := bufio.NewReader(in).ReadBytes('\n'); err != nil {
			t.Error(err)
		} else if report, err := sandbox.ParseReport(line); err != nil || report.Event != sandbox.EventStart {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		if flags, err := unix.FcntlInt(uintptr(shared), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("%s does not block any more for whoever shares it: flags %#x, %v", name, flags, err)
		}
		f.Close()
		in.Close()
		syscall.Close(shared)
	}
}
