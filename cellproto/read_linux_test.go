//go:build linux && !race

package cellproto

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestReaderOf: data, a deadline and the end come as from the file itself, and a file that blocks is read as it was.
func TestReaderOf(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	blocking := os.NewFile(uintptr(fds[1]), "far")
	if r := ReaderOf(blocking); r != io.Reader(blocking) {
		t.Errorf("a file that blocks is read by %T", r)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	near := os.NewFile(uintptr(fds[0]), "near")
	defer near.Close()
	r := ReaderOf(near)
	if _, ok := r.(*pollReader); !ok {
		t.Fatalf("it is read by %T", r)
	}
	b := make([]byte, 8)
	if _, err := blocking.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(b); string(b[:n]) != "abc" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(b); n != 0 || !isTimeout(err) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %d, %v", n, err)
	}
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go blocking.Close() // while it waits
	if n, err := r.Read(b); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}
