package program

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
)

// keepFiles gives the files of a cell with a program, and starts it until it has proven itself.
func keepFiles(t *testing.T, text string) (*files, staged) {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Name: "x", Binary: "bin/x"}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFiles(cfg, zap.NewNop())
	overwrite(t, f.bin, text)
	s := f.choose()
	if s.trial || s.link == "" || s.path != f.bin {
		t.Fatalf("%+v", s)
	}
	f.proven(s)
	return f, s
}

// overwrite writes into a file in place, as cp does.
func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s has %q, want %q: %v", filepath.Base(path), got, want, err)
	}
}

// Who writes into the program's file in place overwrites no copy that is kept to go back to: not of what the
// system executes, nor of a script.
func TestKeptIsNotOverwritten(t *testing.T) {
	for name, text := range map[string]string{"script": "#!/bin/sh\n: one\n", "program": "\x7fELF one"} {
		t.Run(name, func(t *testing.T) {
			f, _ := keepFiles(t, text)
			wantFile(t, f.kept(), text)
			if left, _ := filepath.Glob(filepath.Join(f.dir, nextPrefix+"*")); len(left) > 0 {
				t.Errorf("%q were left", left)
			}
			overwrite(t, f.bin, text+" and two")
			wantFile(t, f.kept(), text)
			s := f.choose()
			if !s.trial || s.same || !f.fallback(s) {
				t.Errorf("what is in bin/ now is not on trial: %+v", s)
			}
			f.refuse(s, "it is bad", "")
			if s := f.choose(); s.path != f.kept() {
				t.Errorf("what is started is %s", s.path)
			}
		})
	}
}

// A script that is written to before it has proven itself is kept as it was started.
func TestKeptAsStarted(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "x", Binary: "bin/x"}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFiles(cfg, zap.NewNop())
	overwrite(t, f.bin, "#!/bin/sh\n: one\n")
	s := f.choose()
	overwrite(t, f.bin, "#!/bin/sh\n: two and more\n")
	if path := f.of(s); path == f.bin {
		t.Error("what was written since is taken for what runs")
	}
	f.proven(s)
	wantFile(t, f.kept(), "#!/bin/sh\n: one\n")
	if path := f.of(s); path != f.kept() {
		t.Errorf("what runs is said to be %s", path)
	}
}

// The kept program and the one in bin/ are compared once; a note of that holds until one of them changes,
// whatever its times and its size say.
func TestKeptIsNoted(t *testing.T) {
	const one, two = "#!/bin/sh\n: one\n", "#!/bin/sh\n: two\n"
	f, _ := keepFiles(t, one)
	look := func() (kept, bin os.FileInfo) {
		t.Helper()
		kept, err := os.Stat(f.kept())
		if err == nil {
			bin, err = os.Stat(f.bin)
		}
		if err != nil {
			t.Fatal(err)
		}
		return kept, bin
	}
	kept, bin := look()
	if f.noted(kept, bin) {
		t.Error("nobody has compared them")
	}
	s := f.choose()
	if !s.same || s.trial || s.link != "" || f.fallback(s) {
		t.Errorf("it is the one that is kept: %+v", s)
	}
	if f.noted(kept, bin) {
		t.Error("a note made within a tick of the last change is believed")
	}
	if _, changed := changedAt(bin); changed == 0 {
		t.Skip("this system does not tell when a file was changed")
	}
	if _, err := os.Stat(filepath.Join(f.dir, keptOfFile)); err == nil {
		t.Error("a note is made that nobody may believe")
	}
	f.noteSame(time.Now().Add(3 * racy))
	if !f.noted(kept, bin) {
		t.Error("a note made later is not believed")
	}
	if err := os.Remove(filepath.Join(f.dir, keptOfFile)); err != nil {
		t.Fatal(err)
	}
	if !f.noted(kept, bin) {
		t.Error("the note is read for each start")
	}
	// Other bytes of the same size, with the time of the ones before.
	overwrite(t, f.bin, two)
	if err := os.Chtimes(f.bin, bin.ModTime(), bin.ModTime()); err != nil {
		t.Fatal(err)
	}
	if s := f.choose(); s.same || !s.trial {
		t.Errorf("it is taken for the one that is kept: %+v", s)
	}
}

// TestKeptSettles: after how long a note is believed depends on how exact a file's times are.
func TestKeptSettles(t *testing.T) {
	const fine, coarse = 1_700_000_000_123_456_789, 1_700_000_000_123_000_000
	for _, c := range []struct {
		kept, bin int64
		after     time.Duration
		want      bool
	}{
		{fine, fine, 50 * time.Millisecond, false},
		{fine, fine, 150 * time.Millisecond, true},
		{fine, coarse, 150 * time.Millisecond, false},
		{coarse, fine, 150 * time.Millisecond, false},
		{coarse, coarse, 2100 * time.Millisecond, true},
	} {
		k := keptOf{Kept: mark{Changed: c.kept}, Bin: mark{Changed: c.bin}, Checked: fine + int64(c.after)}
		if got := k.settled(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
