package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// sourceDir makes a directory with a script to build it, where everybody may read it.
func sourceDir(t *testing.T, script string) string {
	t.Helper()
	if _, err := exec.LookPath("/bin/sh"); err != nil {
		t.Skip("there is no /bin/sh")
	}
	working(t)
	if !Probe().Tiers[0].Works {
		t.Skip("a build needs T1: " + Probe().Tiers[0].Why)
	}
	dir, err := os.MkdirTemp("", "sandbox-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	put(t, filepath.Join(dir, "build.sh"), "#!/bin/sh\nset -eu\n"+script, 0o755)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func startBuild(t *testing.T, dir string, b Build, change func(*Config)) *told {
	t.Helper()
	c := Config{Dir: dir, Program: "build.sh", Build: &b, Memory: 256 << 20}
	if change != nil {
		change(&c)
	}
	return tell(t, c, nil)
}

// A build sees its source and the system, starts processes, and leaves its outputs and nothing else.
func TestBuild(t *testing.T) {
	dir := sourceDir(t, `
		cat src/in src/link
		ls keys 2>/dev/null && echo "it sees the keys"
		cat > src/in <<-END
		changed
		END
		mktemp >/dev/null
		mkdir -p out/deep
		(echo made; cat src/in) > out/deep/file
		cp build.sh out/prog; chmod 4755 out/prog 2>/dev/null || chmod 755 out/prog
		sh -c 'echo child' & wait
		head -c 100000 /dev/zero 2>/dev/null > left-over || :
	`)
	put(t, filepath.Join(dir, "src", "in"), "source\n", 0o600) // the owner's alone
	put(t, filepath.Join(dir, "cell.toml"), "[cell]\n", 0o644)
	put(t, filepath.Join(dir, "keys", "host.key"), "secret", 0o644)
	put(t, filepath.Join(dir, "out", "prog"), "an old one", 0o644)
	if err := os.Symlink("in", filepath.Join(dir, "src", "link")); err != nil {
		t.Fatal(err)
	}
	p := startBuild(t, dir, Build{Output: []string{"out/deep/file", "out/prog"}}, nil)
	r, said := p.end()
	if r.Exit != 0 || r.Why != "" || r.Tier != T1 || said != "source\nsource\nchild\n" {
		t.Fatalf("%+v; it said %q", r, said)
	}
	if r.CPU <= 0 || r.RSSKiBSeconds < 0 {
		t.Errorf("it used %+v", r.Usage)
	}
	for name, want := range map[string]string{"out/deep/file": "made\nchanged\n", "src/in": "source\n"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); string(text) != want {
			t.Errorf("%s holds %q, %v", name, text, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "out", "prog"))
	if err != nil || info.Mode() != 0o755 || info.Size() < 100 {
		t.Errorf("%v, %v", info, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "out", "prog"), &st); err != nil || int(st.Uid) != os.Getuid() {
		t.Errorf("it belongs to %d, %v", st.Uid, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("the directory has %v", entries)
	}
}

// What is no regular file below the directory is no output, whatever it pretends to be.
func TestBuildOutputs(t *testing.T) {
	dir := sourceDir(t, `
		mkdir dir out
		ln -s /etc/passwd link
		echo x > file
		ln -s /etc etc
		truncate -s 100M holes
	`)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"missing", "dir", "link", "etc/passwd", "file/x", "holes", "away/x"} {
		r, said := startBuild(t, dir, Build{Output: []string{"file", output}, Disk: 32 << 20}, func(c *Config) {
			if output != "holes" {
				c.Build.Disk = 128 << 20
			}
		}).end()
		if output == "holes" { // past the limit of a file
			if r.Exit == 0 {
				t.Errorf("%s: %+v, %s", output, r, said)
			}
			continue
		}
		if r.Why != WhyOutput || cellproto.KindOf(r.Err()) != cellproto.BadInput || cellproto.HintOf(r.Err()) == "" {
			t.Errorf("%s: %+v, %v", output, r, r.Err())
		}
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside there is %v", left)
	}
}

func TestBuildFails(t *testing.T) {
	dir := sourceDir(t, "echo x > out; exit 3\n")
	r, _ := startBuild(t, dir, Build{Output: []string{"out"}}, nil).end()
	if _, err := os.Stat(filepath.Join(dir, "out")); r.Exit != 3 || r.Why != "" || err == nil {
		t.Errorf("%+v", r)
	}
}

// What a build leaves running ends with it, and with its time.
func TestBuildEndsAll(t *testing.T) {
	const background = `
		setsid sh -c 'trap "" TERM HUP; while :; do sleep 2718281; done' >/dev/null 2>&1 &
		(sleep 2718281 &) >/dev/null 2>&1
		echo ready
	`
	r, _ := startBuild(t, sourceDir(t, background+"exit 0\n"), Build{}, nil).end()
	if r.Exit != 0 || r.Why != "" {
		t.Errorf("%+v", r)
	}
	noneLeft(t)
	r, _ = startBuild(t, sourceDir(t, background+"trap '' TERM; sleep 2718281\n"), Build{Timeout: 500 * time.Millisecond}, nil).end()
	if r.Why != WhyTimeout || r.Exit != 137 {
		t.Errorf("%+v", r)
	}
	noneLeft(t)
	p := startBuild(t, sourceDir(t, background+"trap '' TERM; sleep 2718281\n"), Build{}, nil)
	p.await("ready")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end()
	eventually(t, "all are gone", func() bool { return len(sleepers(t)) == 0 })
	for _, dir := range groupsOf(p.cmd.Process.Pid) {
		eventually(t, "the group is empty", func() bool { return os.Remove(dir) == nil })
	}
}

func noneLeft(t *testing.T) {
	t.Helper()
	if left := sleepers(t); len(left) > 0 {
		t.Errorf("these still run: %v", left)
	}
}

// sleepers gives the processes that only these tests start.
func sleepers(t *testing.T) (list []string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if strings.Contains(string(text), "2718281") {
			list = append(list, fmt.Sprintf("%s: %q", name, text))
		}
	}
	return list
}

// All of a build is frozen, and goes on.
func TestBuildFreezes(t *testing.T) {
	dir := sourceDir(t, `
		i=0
		while [ $i -lt 3 ]; do (while :; do :; done) & i=$((i+1)); done
		echo ready
		wait
	`)
	p := startBuild(t, dir, Build{}, nil)
	p.await("ready")
	family := func() (states string) {
		all := map[int]procStat{}
		names, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, name := range names {
			var pid int
			fmt.Sscanf(name, "/proc/%d/stat", &pid)
			text, _ := os.ReadFile(name)
			if st, ok := parseStat(text); ok {
				all[pid] = st
			}
		}
		for _, pid := range descendants(all, parentOf(t, p.PID())) {
			states += state(pid)
		}
		return states
	}
	p.Freeze()
	eventually(t, "all are stopped", func() bool { return family() == "TTTT" })
	p.Thaw()
	eventually(t, "all go on", func() bool { return !strings.Contains(family(), "T") })
	p.Kill()
	p.end()
}

// A build without a control group has its share of the processors, however it starts its processes.
func TestBuildCPU(t *testing.T) {
	const cores = 0.2
	dir := sourceDir(t, `
		burn() { while :; do :; done; }
		burn & burn & burn &
		wait
	`)
	r, _ := startBuild(t, dir, Build{Timeout: 2 * time.Second}, func(c *Config) { c.CPU, c.Cgroup = cores, CgroupNone }).end()
	used := float64(r.CPU) / float64(r.Wall)
	if t.Logf("%s: %.3f cores of %.3f", r.CPUBy, used, cores); r.CPUBy != byDuty || used > 3*cores {
		t.Errorf("%s: it had %.2f cores of %.2f; %+v", r.CPUBy, used, cores, r)
	}
}

// The memory of all processes together is bounded, with a control group and without.
func TestBuildMemory(t *testing.T) {
	dir := sourceDir(t, `
		i=0
		while [ $i -lt 4 ]; do ./obedient grow=24 sleep=60000 & i=$((i+1)); done
		wait
		sleep 60
	`)
	text, err := os.ReadFile(filepath.Join(built, "obedient"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "obedient"), string(text), 0o755)
	r, said := startBuild(t, dir, Build{Disk: 8 << 20}, func(c *Config) { c.Memory, c.Cgroup = 48<<20, CgroupNone }).end()
	if r.Why != WhyMemory {
		t.Errorf("%+v, it said %s", r, said)
	}
}

func TestBuildTooLarge(t *testing.T) {
	dir := sourceDir(t, "exit 0\n")
	put(t, filepath.Join(dir, "large"), strings.Repeat("x", 3<<20), 0o644)
	for _, b := range []Build{{Disk: 2 << 20}, {Files: minBuildFiles}} {
		for n := range minBuildFiles {
			put(t, filepath.Join(dir, "many", fmt.Sprint(n)), "", 0o644)
		}
		_, err := tryTell(t, Config{Dir: dir, Program: "build.sh", Build: &b}, nil)
		if cellproto.KindOf(err) != cellproto.TooLarge || cellproto.HintOf(err) == "" {
			t.Errorf("%+v: %v", b, err)
		}
	}
}

// A build of Go source with the machine's toolchain: what a mirror does.
func TestBuildGo(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it compiles a part of the standard library: set CELL_LONG=1")
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	goroot := strings.TrimSpace(string(root))
	dir := sourceDir(t, "exec go build -o bin/program .\n")
	put(t, filepath.Join(dir, "go.mod"), "module x\n", 0o644)
	put(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\"built\") }\n", 0o644)
	p := startBuild(t, dir, Build{Output: []string{"bin/program"}, Timeout: 10 * time.Minute}, func(c *Config) {
		c.Memory, c.Read = 1<<30, []string{goroot}
		c.Env = []string{"GOROOT=" + goroot, "PATH=" + goroot + "/bin:" + safePath, "GOTOOLCHAIN=local", "GOPROXY=off", "CGO_ENABLED=0"}
	})
	<-p.Done()
	if r, said := p.end(); r.Exit != 0 || r.Why != "" {
		t.Fatalf("%+v, it said %s", r, said)
	}
	out, err := exec.Command(filepath.Join(dir, "bin", "program")).CombinedOutput()
	if err != nil || string(out) != "built\n" {
		t.Errorf("%s, %v", out, err)
	}
}
