package ledger

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody has this thread use files as somebody who owns none, until the test ends: no mode keeps root from writing.
func nobody(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	runtime.LockOSThread()
	for _, uid := range []int{65534, -1} { // -1 asks for what is set
		before, err := unix.SetfsuidRetUid(uid)
		if err != nil {
			t.Fatal(err)
		}
		if uid < 0 && before != 65534 {
			t.Fatalf("files are used as %d", before)
		}
	}
	t.Cleanup(func() {
		_, _ = unix.SetfsuidRetUid(0)
		runtime.UnlockOSThread()
	})
}

// A segment that belongs to somebody else, and can only be read, is read; one that is no file is left alone. What comes goes to a new one.
func TestSegmentOfSomebodyElse(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "ledger")
	for name, what := range map[string]func(file string) error{
		"read-only": func(file string) error { return os.Chmod(file, 0o444) },
		"a directory": func(file string) error {
			if err := os.Remove(file); err != nil {
				return err
			}
			return os.Mkdir(file, 0o700)
		},
	} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		l := openIn(t, dir)
		l.Ingest(testTime, wire(t, dual(t, testReceipt(7, 2, 100), 7, 2)))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := what(filepath.Join(dir, segmentName(0))); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			for _, d := range []string{filepath.Dir(top), top, dir} {
				if err := os.Chmod(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			nobody(t)
			l := openIn(t, dir)
			defer l.Close()
			was := testReceipt(7, 2, 100)
			if got := l.register(was.RegKey()).Credit(); name == "read-only" && got != was.Credit {
				t.Errorf("of %d µWh in it %d are known", was.Credit, got)
			}
			if l.unread != (name == "a directory") {
				t.Errorf("a part is unread: %v", l.unread)
			}
			l.Ingest(testTime, wire(t, dual(t, testReceipt(7, 2, 200), 7, 2)))
			if err := l.Tick(testTime.Add(SyncEvery)); err != nil {
				t.Error(err)
			}
			if info, err := os.Stat(filepath.Join(dir, segmentName(1))); err != nil || info.Size() < 200 {
				t.Errorf("what is new is not in a new segment: %v, %v", info, err)
			}
		})
	}
}

func openIn(t *testing.T, dir string) *Ledger {
	t.Helper()
	files, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return openLedger(t, testConfig(2, 2), files)
}
