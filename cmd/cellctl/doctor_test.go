package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// What the doctor says without a nucleus of each thing that can be wrong, and the command that mends it.
func TestDiagnose(t *testing.T) {
	key := func(change func(*keyFacts)) func(*localFacts) {
		return func(f *localFacts) { change(&f.keys[0]) }
	}
	for name, c := range map[string]struct {
		change func(*localFacts)
		check  string
		ok     bool
		detail string
		fix    string
	}{
		"all is well":               {func(*localFacts) {}, "directory", true, "writable, 10240 MiB are left", ""},
		"no celld":                  {func(f *localFacts) { f.celldErr = errors.New("find celld: none") }, "celld", false, "find celld", "put celld into"},
		"a bad cell.toml":           {func(f *localFacts) { f.cfgErr = errors.New("line 3: unknown key") }, "cell.toml", false, "line 3", "cellctl init"},
		"not built":                 {func(f *localFacts) { f.program.err = fs.ErrNotExist }, "binary", false, "bin/x has not been built", "cellctl build /cells/x"},
		"out of reach":              {func(f *localFacts) { f.program.err = fs.ErrPermission }, "binary", false, "permission denied", "ls -l /cells/x/bin/x"},
		"a directory":               {func(f *localFacts) { f.program.mode = fs.ModeDir | 0o755 }, "binary", false, "is no file", "cellctl build"},
		"not executable":            {func(f *localFacts) { f.program.mode = 0o644 }, "binary", false, "not an executable", "chmod +x /cells/x/bin/x"},
		"others read a key":         {key(func(k *keyFacts) { k.mode = 0o640 }), "keys", false, "others can read keys/host.key", "chmod -R go= /cells/x/keys"},
		"a key of somebody else":    {key(func(k *keyFacts) { k.readErr = fs.ErrPermission }), "keys", false, "belongs to somebody else", "chown"},
		"a key that fails":          {key(func(k *keyFacts) { k.readErr = syscall.EIO }), "keys", false, "input/output error", "ls -l"},
		"an empty key":              {key(func(k *keyFacts) { k.size = 0 }), "keys", false, "0 bytes, and is no key", "rm /cells/x/keys/host.key"},
		"a huge key":                {key(func(k *keyFacts) { k.size = 1 << 30 }), "keys", false, "is no key", "rm /cells/x/keys/host.key"},
		"a key that is a directory": {key(func(k *keyFacts) { k.mode = fs.ModeDir | 0o700 }), "keys", false, "is no file", "rm -r"},
		"a key that leads nowhere":  {key(func(k *keyFacts) { k.err = fs.ErrNotExist }), "keys", false, "does not exist", "ls -l"},
		"read-only":                 {func(f *localFacts) { f.writeErr = fmt.Errorf("open: %w", syscall.EROFS) }, "directory", false, "read-only", "mount -o remount,rw"},
		"not the owner's":           {func(f *localFacts) { f.writeErr = fs.ErrPermission }, "directory", false, "cannot write", "chown -R"},
		"nearly full":               {func(f *localFacts) { f.free = 3 << 20 }, "directory", false, "the disk is full: 3 MiB", "df -h /cells/x"},
		"full":                      {func(f *localFacts) { f.writeErr, f.free = syscall.ENOSPC, 0 }, "directory", false, "the disk is full", "df -h /cells/x"},
		"a long path":               {func(f *localFacts) { f.dir = "/" + strings.Repeat("long/", 30) + "x" }, "directory", true, "too long for a socket's by 59 bytes", ""},
		"an odd path":               {func(f *localFacts) { f.dir = "/it's here"; f.program.err = fs.ErrNotExist }, "binary", false, "not been built", `cellctl build '/it'\''s here'`},
		"a port is taken":           {func(f *localFacts) { f.taken = []string{"/ip4/0.0.0.0/tcp/4001"} }, "ports", false, "/ip4/0.0.0.0/tcp/4001", "ss -tulpn"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &localFacts{
				dir: "/cells/x", celld: "/usr/bin/celld", binary: "bin/x", program: fileFacts{mode: 0o755}, free: 10 << 30,
				keys: []keyFacts{{name: "host.key", fileFacts: fileFacts{mode: 0o600}, size: 68}},
			}
			for _, check := range f.diagnose() {
				if !check.OK {
					t.Fatalf("with nothing wrong %+v", check)
				}
			}
			c.change(f)
			var got *ctl.Check
			for _, check := range f.diagnose() {
				if check.OK != (check.Fix == "") {
					t.Errorf("%s is ok: %t, and is mended by %q", check.Name, check.OK, check.Fix)
				}
				if check.Name == c.check {
					got = &check
				}
			}
			if got == nil || got.OK != c.ok || !strings.Contains(got.Detail, c.detail) || !strings.Contains(got.Fix, c.fix) {
				t.Errorf("%+v, want ok %t with %q, mended by %q", got, c.ok, c.detail, c.fix)
			}
		})
	}
}

// What the doctor looks at is what is there.
func TestDoctorLooks(t *testing.T) {
	n := startFake(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	stopped := t.TempDir()
	writeFiles(t, stopped, map[string]string{
		"cell.toml":     fmt.Sprintf("[cell]\nname = \"x\"\nbinary = \"bin/x\"\n[network]\nlisten = [\"/ip4/127.0.0.1/tcp/%d\", \"/ip4/127.0.0.1/tcp/0\"]\n", port),
		"bin/x":         "no program",
		"keys/name.key": "",
	})
	if err := os.Chmod(filepath.Join(stopped, "bin/x"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := run(t, "", "doctor", stopped)
	for _, want := range []string{
		"WRONG  binary: bin/x is not an executable file\n         try: chmod +x ", "keys/name.key",
		"ok     directory: writable, ", fmt.Sprintf("WRONG  ports: another program listens on /ip4/127.0.0.1/tcp/%d\n", port),
	} {
		if !strings.Contains(o.out, want) {
			t.Errorf("doctor prints\n%s\nwithout %q", o.out, want)
		}
	}
	if o.code != exitFailed {
		t.Errorf("exit code %d", o.code)
	}
	if o := run(t, "", "doctor", n.dir); strings.Contains(o.out, "WRONG  ports") {
		t.Errorf("the ports of a nucleus that runs are taken:\n%s", o.out)
	}
	if left, err := filepath.Glob(filepath.Join(stopped, ".doctor*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFixedPorts(t *testing.T) {
	got := fixedPorts([]string{
		"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip4/0.0.0.0/tcp/0", "/dns4/x/tcp/1", "/ip4/1.2.3.4", "/ip4/0.0.0.0/sctp/1", "", "/",
	})
	want := []portToTry{
		{"/ip4/0.0.0.0/udp/4001/quic-v1", "udp4", "0.0.0.0", "4001"}, {"/ip6/::/tcp/4001", "tcp6", "::", "4001"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
