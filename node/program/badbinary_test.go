package program

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// elfHead is the beginning of a 64-bit little-endian ELF executable for a machine.
func elfHead(machine byte) []byte {
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	head[16], head[18], head[20] = 2, machine, 1
	return head
}

const (
	elfARM64 = 183
	elfAMD64 = 62
)

func TestBadBinaries(t *testing.T) {
	foreign, own, arch := byte(elfARM64), byte(elfAMD64), "linux/arm64"
	if runtime.GOARCH == "arm64" {
		foreign, own, arch = own, foreign, "linux/amd64"
	}
	for name, c := range map[string]struct {
		content    []byte
		mode       os.FileMode
		text, hint string
	}{
		"missing":     {nil, 0, "bin/prog is missing", "cellctl build"},
		"directory":   {nil, os.ModeDir | 0o755, "is not a file", "cell.toml"},
		"no x bit":    {[]byte("#!/bin/sh\n"), 0o644, "is not executable", "chmod +x"},
		"empty":       {[]byte{}, 0o755, "is empty", "cellctl build"},
		"other arch":  {elfHead(foreign), 0o755, "a program for " + arch, "Build it here"},
		"half":        {elfHead(own)[:40], 0o755, "damaged or half-written", "cellctl build"},
		"half header": {elfHead(own), 0o755, "damaged or half-written", "cellctl build"},
		"windows":     {[]byte("MZ\x90\x00"), 0o755, "a program for windows", "Build it here"},
		"mac":         {[]byte("\xcf\xfa\xed\xfe\x0c\x00\x00\x01"), 0o755, "a program for darwin/arm64", "Build it here"},
		"no shebang":  {[]byte("echo hello\n"), 0o755, "without a first line", "#!/bin/sh"},
		"data":        {[]byte{1, 2, 3, 4, 5}, 0o755, "is not a program", "cellctl build"},
		"no such interpreter": {
			[]byte("#!/no/such/python3\n"), 0o755, "a script for /no/such/python3, which is not installed", "Install it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "bin", "prog")
			os.Mkdir(filepath.Dir(path), 0o755)
			var err error
			switch {
			case c.mode.IsDir():
				err = os.Mkdir(path, 0o755)
			case c.content != nil:
				err = os.WriteFile(path, c.content, c.mode)
			}
			if err != nil {
				t.Fatal(err)
			}
			p := newProgram(t, testConfig(dir, "serve"), Deps{})
			_, err = p.Conn(testContext(t))
			wantError(t, err, cellproto.Unavailable, c.text, c.hint)
			if !cellproto.KindOf(err).NeverRan() || cellproto.RetryAfterOf(err) <= 0 {
				t.Errorf("%v, retry after %v", cellproto.KindOf(err), cellproto.RetryAfterOf(err))
			}
			s := p.State()
			if s.LastError != err.Error() || s.LastHint == "" || s.PID != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestFileThatIsBeingWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bin", "prog")
	os.Mkdir(filepath.Dir(path), 0o755)
	self, _ := os.Executable()
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(data)
	p := newProgram(t, testConfig(dir, "serve"), Deps{})
	_, err = p.Conn(testContext(t))
	if err != nil { // some kernels execute it
		wantError(t, err, cellproto.Unavailable, "is still being written", "rename")
	}
	f.Close()
	eventually(t, "it starts", func() bool { _, err := p.Conn(testContext(t)); return err == nil })
}

func TestProgramsThatNeverSayHello(t *testing.T) {
	for mode, c := range map[string]struct{ text, hint string }{
		"exit3":   {`(exit status 3); it printed: cannot open \x1b[31mdata`, "cellctl logs"},
		"exit0":   {"ended before it said hello (exit status 0)", "stays in the foreground"},
		"panic":   {"(exit status 2); it printed: panic: no such table", "cellctl logs"},
		"nohello": {"has not said hello for 300ms", "jsonl"},
		"close":   {"closed its connection without a hello", "jsonl"},
		"garbage": {"does not speak frames", "jsonl"},
		"fork":    {"ended before it said hello (exit status 0); it printed: child", "foreground"},
	} {
		t.Run(mode, func(t *testing.T) {
			var out testOutput
			cfg := testConfig(cellDir(t), mode)
			if mode == "nohello" {
				cfg.StartTimeout = 300 * time.Millisecond
			}
			p := newProgram(t, cfg, Deps{Output: &out})
			_, err := p.Conn(testContext(t))
			wantError(t, err, cellproto.Unavailable, c.text, c.hint)
			pid := p.State().PID
			eventually(t, "it has failed", func() bool { return p.State().Phase == Failed })
			if pid != 0 {
				checkReaped(t, pid)
			}
			if mode == "fork" {
				eventually(t, "the child is gone", func() bool { return startTime(childOf(t, out.String())) == 0 })
			}
		})
	}
}

func TestFailedStartIsNotRepeatedAtOnce(t *testing.T) {
	p := start(t, "exit3")
	_, first := p.Conn(testContext(t))
	if cellproto.RetryAfterOf(first) != minBackoff {
		t.Errorf("retry after %v", cellproto.RetryAfterOf(first))
	}
	begin := time.Now()
	asked := 0
	for time.Since(begin) < 350*time.Millisecond { // room for the starts at 0, 100 and 300 ms
		_, err := p.Conn(testContext(t))
		wantError(t, err, cellproto.Unavailable, "exit status 3", "cellctl logs")
		if after := cellproto.RetryAfterOf(err); after <= 0 || after > 4*minBackoff {
			t.Fatalf("retry after %v", after)
		}
		asked++
		<-time.After(time.Millisecond)
	}
	if s := p.State(); s.Starts > 4 || asked < 20 {
		t.Errorf("%d starts for %d requests", s.Starts, asked)
	}
}

func TestFailedStartThenMended(t *testing.T) {
	dir := cellDir(t)
	prog := filepath.Join(dir, "bin", "prog")
	if err := os.Rename(prog, prog+".away"); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, testConfig(dir, "serve"), Deps{})
	_, err := p.Conn(testContext(t))
	wantError(t, err, cellproto.Unavailable, "is missing", "")
	if err := os.Rename(prog+".away", prog); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it starts", func() bool { _, err := p.Conn(testContext(t)); return err == nil })
	if s := p.State(); s.Phase != Running || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}

// TestQuickCrashesBackOff has a program that says hello and dies, for requests that keep coming.
func TestQuickCrashesBackOff(t *testing.T) {
	p := start(t, "quick")
	begin := time.Now()
	for time.Since(begin) < 400*time.Millisecond {
		_, err := call(testContext(t), p, "echo", nil, cellproto.Raw)
		if err == nil {
			t.Fatal("an answer of a program that dies")
		}
		if p.State().Starts > 20 {
			break
		}
	}
	if s := p.State(); s.Starts > 8 || !strings.Contains(s.LastError+"exit status 4", "exit status 4") {
		t.Errorf("%+v", s)
	}
}
