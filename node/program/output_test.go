package program

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü\t€ 😀":         "plain ü\t€ 😀",
		"\x1b[2Jx\x00\x7f":     `\x1b[2Jx\x00\x7f`,
		"bad \xff\xc3":         `bad \xff\xc3`,
		"c1 \u009b2J":          `c1 \u009b2J`,
		"rtl \u202eevil\u2066": `rtl \u202eevil\u2066`,
		"line\u2028sep":        `line\u2028sep`,
		"cr\rover":             `cr\x0dover`,
	} {
		if got := string(appendEscaped(nil, []byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("a\x1b[0m\xff\u202e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := appendEscaped(nil, text)
		for _, r := range string(got) {
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0xfffd && !strings.ContainsRune(string(text), r) {
				t.Fatalf("%q holds %U", got, r)
			}
		}
	})
}

func TestBudget(t *testing.T) {
	var b budget
	now := time.Unix(100, 0)
	for i := range 64 {
		if ok, owed := b.take(now.Add(time.Duration(i)*time.Millisecond), 1<<10); !ok || owed != 0 {
			t.Fatalf("%d: %t %d", i, ok, owed)
		}
	}
	for range 2 {
		if ok, owed := b.take(now, 100); ok || owed != 0 {
			t.Fatalf("past the rate: %t %d", ok, owed)
		}
	}
	if ok, owed := b.take(now.Add(time.Second), 100); !ok || owed != 200 {
		t.Fatalf("the next second: %t %d", ok, owed)
	}
	if ok, owed := b.take(now.Add(2*time.Second), 100); !ok || owed != 0 {
		t.Fatalf("told twice: %t %d", ok, owed)
	}
}

func TestOutputLines(t *testing.T) {
	var got bytes.Buffer
	o := newOutput(&got, zap.NewNop())
	now := time.Date(2026, 11, 22, 21, 0, 0, 5e6, time.UTC)
	o.now = func() time.Time { return now }
	o.line([]byte("one\r"), 0)
	o.line([]byte("two\x1b"), 7)
	for range 70 {
		o.line(bytes.Repeat([]byte("x"), 1<<10), 0)
	}
	now = now.Add(time.Second)
	o.line([]byte("three"), 0)
	lines := strings.Split(strings.TrimSuffix(got.String(), "\n"), "\n")
	if lines[0] != "2026-11-22T21:00:00.005Z one" || lines[1] != `2026-11-22T21:00:00.005Z two\x1b [7 bytes cut]` {
		t.Errorf("%q", lines[:2])
	}
	last := lines[len(lines)-2:]
	if !strings.HasSuffix(last[0], " bytes cut: the program prints more than 64 KiB a second") || last[1] != "2026-11-22T21:00:01.005Z three" {
		t.Errorf("%q", last)
	}
	if o.tail() != "three" {
		t.Errorf("tail %q", o.tail())
	}
	o.forget()
	o.line([]byte("panic: boom"), 0)
	o.line([]byte("\tmain.go:5"), 0)
	o.line([]byte("  "), 0)
	if o.tail() != "panic: boom" {
		t.Errorf("tail %q", o.tail())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestOutputSurvivesItsLog(t *testing.T) {
	o := newOutput(failing{}, zap.NewNop())
	o.line([]byte("x"), 0)
	if !o.broken || o.tail() != "x" {
		t.Error("not noted")
	}
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "cell.log")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	line := func(i int) string { return fmt.Sprintf("%08d%s\n", i, strings.Repeat("x", 1015)) }
	const lines = 2000 // 2 MB
	for i := range lines {
		if i == lines/2 { // a restart in between
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = OpenLog(path); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := l.Write([]byte(line(i))); err != nil || n != 1024 {
			t.Fatal(n, err)
		}
	}
	older, err1 := os.ReadFile(path + ".1")
	newer, err2 := os.ReadFile(path)
	if err1 != nil || err2 != nil || len(older) > MaxLogFile || len(newer) > MaxLogFile || len(older) != 512<<10 {
		t.Fatal(len(older), len(newer), err1, err2)
	}
	all := string(older) + string(newer)
	first := lines - len(all)/1024
	for i := first; i < lines; i++ {
		if got := all[(i-first)*1024:][:1024]; got != line(i) {
			t.Fatalf("line %d is %q", i, got[:8])
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 {
		t.Errorf("%d files", len(entries))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("x")); err == nil {
		t.Error("written after Close")
	}
}

func TestLogRefusesAndHeals(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link.log")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(link); err == nil {
		t.Error("a symbolic link is followed")
	}
	if _, err := OpenLog(dir); err == nil {
		t.Error("a directory is taken")
	}
	large := filepath.Join(dir, "cell.log")
	if err := os.WriteFile(large, make([]byte, 3*MaxLogFile), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(large)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Mkdir(large+".1", 0o700); err != nil { // it cannot be renamed over this
		t.Fatal(err)
	}
	for range 3 {
		if n, err := l.Write(make([]byte, MaxLogFile+10)); err != nil || n != MaxLogFile+10 {
			t.Fatal(n, err)
		}
	}
	if info, err := os.Stat(large); err != nil || info.Size() != MaxLogFile {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := OpenLog(filepath.Join(large, "x", "cell.log")); cellproto.KindOf(err) == 0 {
		t.Error("a log below a file")
	}
}
