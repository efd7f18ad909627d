package sandbox

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// A program in each tier gets what it shall, says how it ended, and what it used is reported.
func TestConfined(t *testing.T) {
	for _, tier := range working(t) {
		t.Run(tier.String(), func(t *testing.T) {
			c := Config{Tier: tier, Memory: 64 << 20, CPU: 0.5, Env: []string{"X=y"}, Every: minEvery}
			p := tell(t, c, nil, "args", "env", "cwd", "say=hello", "grow=8", "burn=250", "exit=7")
			r, said := p.end()
			for _, want := range []string{"hello\n", "X=y\n", "GOMAXPROCS=1\n", `"exit=7"`} {
				if !strings.Contains(said, want) {
					t.Errorf("it did not say %q: %s", want, said)
				}
			}
			if strings.Contains(said, "GOCACHE") {
				t.Error("it has got this process's environment")
			}
			if r.Event != EventEnd || r.Exit != 7 || r.Signal != "" || r.Why != "" || r.Tier != tier {
				t.Errorf("it ended with %+v", r)
			}
			if r.CPU <= 0 || r.Wall <= 0 || r.PeakKiB < 8<<10 || r.RSSKiBSeconds <= 0 || r.Sent < int64(len("hello\n")) || r.RSSKiB != 0 {
				t.Errorf("it used %+v", r.Usage)
			}
			seen := p.reports()
			if first := seen[0]; first.Event != EventStart || first.PID != p.PID() || first.PID == 0 || first != p.Report() {
				t.Errorf("the first report is %+v", first)
			}
			if !slices.ContainsFunc(seen, func(r Report) bool { return r.Event == EventUsage && r.RSSKiB > 0 && r.CPU > 0 }) {
				t.Errorf("no report between: %+v", seen)
			}
			if last := seen[len(seen)-1]; last != r {
				t.Errorf("the last report is %+v, not %+v", last, r)
			}
		})
	}
}

func TestSignalledProgram(t *testing.T) {
	r, _ := tell(t, Config{}, nil, "signal="+strconv.Itoa(int(unix.SIGTERM))).end()
	if r.Exit != 128+int(unix.SIGTERM) || r.Signal != "terminated" || r.Why != "" {
		t.Errorf("%+v", r)
	}
}

// Who ignores SIGTERM is killed after the grace, frozen or not.
func TestStop(t *testing.T) {
	for _, tier := range working(t) {
		p := tell(t, Config{Tier: tier, Grace: 50 * time.Millisecond}, nil, "deaf", "say=ready", "sleep=60000")
		p.await("ready")
		p.Freeze()
		eventually(t, "it is stopped", func() bool { return state(p.PID()) == "T" })
		p.Thaw()
		eventually(t, "it goes on", func() bool { return state(p.PID()) != "T" })
		p.Freeze()
		p.Stop()
		if r, _ := p.end(); r.Why != WhyStopped || r.Exit != 137 {
			t.Errorf("%v: %+v", tier, r)
		}
	}
}

func TestStopIsAsked(t *testing.T) {
	p := tell(t, Config{Grace: time.Minute}, nil, "say=ready", "sleep=60000")
	p.await("ready")
	p.Stop()
	if r, _ := p.end(); r.Why != WhyStopped || r.Signal != "terminated" {
		t.Errorf("%+v", r)
	}
}

// The limits hold with the control groups that there are and without.
func TestMemory(t *testing.T) {
	for _, cgroup := range []string{CgroupAuto, CgroupNone} {
		c := Config{Memory: 32 << 20, Cgroup: cgroup}
		r, said := tell(t, c, nil, "grow=100", "sleep=60000").end()
		if r.Why != WhyMemory || r.Exit != 137 {
			t.Errorf("%s: %+v, it said %s", r.MemoryBy, r, said)
		}
		if r.PeakKiB > 130<<10 { // the quota and goSlack
			t.Errorf("%s: it had %d KiB", r.MemoryBy, r.PeakKiB)
		}
		// Of one whose first thread has ended the kernel shows no memory in the usual place.
		r, said = tell(t, c, nil, "sleep=200", "behead", "grow=25", "sleep=500", "grow=75", "sleep=60000").end()
		if r.Why != WhyMemory || r.PeakKiB < 25<<10 || r.RSSKiBSeconds < 5<<10 {
			t.Errorf("headless, %s: %+v, it said %s", r.MemoryBy, r, said)
		}
		// A program that keeps to its limit is left alone.
		if r, said := tell(t, c, nil, "grow=10", "exit=3").end(); r.Exit != 3 {
			t.Errorf("%s: %+v, it said %s", r.MemoryBy, r, said)
		}
	}
}

func TestThreads(t *testing.T) {
	p := tell(t, Config{Threads: 16, Tier: T2, Cgroup: CgroupNone}, nil, "threads=40", "sleep=60000")
	if p.Report().ThreadsBy != byWatchdog {
		t.Fatalf("%+v", p.Report())
	}
	if r, _ := p.end(); r.Why != WhyThreads {
		t.Errorf("%+v", r)
	}
}

// Bounds are generous: what is exact is the throttle, which has a test of its own.
func TestCPU(t *testing.T) {
	const cores = 0.2
	for _, cgroup := range []string{CgroupAuto, CgroupNone} {
		r, _ := tell(t, Config{CPU: cores, Cgroup: cgroup}, nil, "burn=2000").end()
		used := float64(r.CPU) / float64(r.Wall)
		t.Logf("%s: %.3f cores of %.3f", r.CPUBy, used, cores)
		if used > 3*cores {
			t.Errorf("%s: it had %.2f cores of %.2f", r.CPUBy, used, cores)
		}
	}
}

// Who reads from the disk faster than it may is stopped until it has paid; and has no way to have it read once more.
func TestReadRate(t *testing.T) {
	const size, rate = 16 << 20, 4 << 20
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err = io.CopyN(f, rand.Reader, size); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := Config{ReadRate: rate, Cgroup: CgroupNone, Read: []string{path}}
	r, said := tell(t, c, nil, "sip="+path, "drop="+path, "sip="+path).end()
	if said != "EOF\n<nil> function not implemented\nEOF\n" {
		t.Fatalf("it said %q; %+v", said, r)
	}
	if r.Read == 0 {
		t.Skip("the temporary directory is not on a disk")
	}
	if got := float64(r.Read) / (float64(r.Wall) / 1e9); r.Read < size || r.Read > size*5/4 || got > 1.5*rate {
		t.Errorf("it read %d bytes of %d, %.0f a second", r.Read, size, got)
	}
}

func TestLogRate(t *testing.T) {
	p := tell(t, Config{LogRate: 1 << 10}, nil, "log=3072", "exit=0")
	r, said := p.end()
	if r.LogDropped < 1<<20 || int64(len(said)) > logBurst+256<<10 || len(said) < logBurst {
		t.Errorf("%d bytes of the log came through, %d were dropped", len(said), r.LogDropped)
	}
}

// inherited gives a pair of connected sockets, one to be kept here.
func inherited(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestInherits(t *testing.T) {
	for _, tier := range working(t) {
		for _, number := range []int{3, 17} {
			ours, theirs := inherited(t)
			p := tell(t, Config{Tier: tier}, map[int]*os.File{number: theirs}, "fds", fmt.Sprint("echo=", number))
			theirs.Close()
			if _, err := ours.WriteString("ping"); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			n, err := ours.Read(buf)
			if err != nil || string(buf[:n]) != "ping" {
				t.Errorf("%v: %q, %v", tier, buf[:n], err)
			}
			_, said := p.end()
			if want := fmt.Sprintf("open: [0 1 2 %d]\n", number); !strings.Contains(said, want) {
				t.Errorf("%v: %s, not %s", tier, said, want)
			}
		}
	}
}

func TestRefusesToInherit(t *testing.T) {
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	gram := os.NewFile(uintptr(fd), "datagrams")
	defer gram.Close()
	for _, f := range []*os.File{file, dir, gram} {
		if _, err := tryTell(t, Config{}, map[int]*os.File{3: f}); cellproto.KindOf(err) != cellproto.Denied {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
	if _, err := tryTell(t, Config{}, map[int]*os.File{2: gram}); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

// Whoever of the three is killed, the program ends.
func TestKilledGuards(t *testing.T) {
	for _, tier := range working(t) {
		p := tell(t, Config{Tier: tier}, nil, "deaf", "say=ready", "sleep=60000")
		p.await("ready")
		guard := parentOf(t, p.PID())
		if err := unix.Kill(guard, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if r, _ := p.end(); r.Why != WhyGuard || r.Exit != 137 {
			t.Errorf("%v, guard: %+v", tier, r)
		}

		p = tell(t, Config{Tier: tier}, nil, "deaf", "say=ready", "sleep=60000")
		p.await("ready")
		guard = parentOf(t, p.PID())
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if r, _ := p.end(); r.Why != WhyGuard || r.Event != EventEnd || r.Tier != tier {
			t.Errorf("%v, cellbox: %+v", tier, r)
		}
		eventually(t, "the guard is gone", func() bool { return !alive(guard) && !alive(p.PID()) })
		for _, dir := range groupsOf(p.cmd.Process.Pid) { // a minute later the next cellbox would
			eventually(t, "the group is empty", func() bool { return os.Remove(dir) == nil })
		}

		p = tell(t, Config{Tier: tier}, nil, "deaf", "say=ready", "sleep=60000")
		p.await("ready")
		p.Kill() // closes what closes when this process ends
		if r, _ := p.end(); r.Why != WhyStopped || r.Exit != 137 {
			t.Errorf("%v, owner: %+v", tier, r)
		}
	}
}

func parentOf(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	n, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A step that fails, whichever, ends everything before the program's first instruction.
func TestFailsClosed(t *testing.T) {
	for _, tier := range working(t) {
		c := Config{Dir: built, Program: "obedient", Tier: tier, Cgroup: CgroupNone}.WithDefaults()
		f, err := look(c, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := makePlan(c, f, tier, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(whole.Guard) + len(whole.Program) {
			p := *whole
			p.Guard, p.Program = slices.Clone(whole.Guard), slices.Clone(whole.Program)
			broken := &p.Guard
			if i >= len(p.Guard) {
				i, broken = i-len(p.Guard), &p.Program
			}
			instead := (*broken)[i]
			(*broken)[i] = step{Do: doChdir, What: "/nowhere"}
			if said, err := launchPlan(t, &p); err == nil || said != "" {
				t.Errorf("%v: without %q the program runs and says %q", tier, instead, said)
			}
		}
		if said, err := launchPlan(t, whole); err != nil || said != "ran\n" {
			t.Errorf("%v: %q, %v", tier, said, err)
		}
	}
}

// launchPlan carries out a plan and gives what the program printed.
func launchPlan(t *testing.T, p *plan) (string, error) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l, err := launch(p, []string{p.Path, "say=ran"}, [3]*os.File{null, w, w}, nil, &group{})
	w.Close()
	if err == nil {
		l.awaitEnded()
		l.reap()
		l.release()
	}
	buf := make([]byte, 64)
	n, _ := r.Read(buf) // nobody holds the other end any more
	return string(buf[:n]), err
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) { // whom root starts is a stranger
		must(os.Chmod(p, 0o755))
	}
	must(os.WriteFile(filepath.Join(dir, "plain"), []byte("x"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "junk"), []byte("no program"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "script"), []byte("#!/nowhere/interpreter\n"), 0o755))
	for program, want := range map[string]cellproto.Kind{
		"missing": cellproto.NotFound, "plain": cellproto.Denied, "junk": cellproto.BadInput, "script": cellproto.NotFound,
	} {
		_, err := tryTell(t, Config{Dir: dir, Program: program}, nil)
		if cellproto.KindOf(err) != want {
			t.Errorf("%s: %v is of kind %v, not %v", program, err, cellproto.KindOf(err), want)
		}
	}
	// Only a tier that is not to be had: no start.
	if _, err := tryTell(t, Config{Tier: T3, System: SystemAll}, nil); cellproto.KindOf(err) != cellproto.Unavailable || cellproto.HintOf(err) == "" {
		t.Error(err)
	}
	if _, err := Confine(t.Context(), filepath.Join(built, "obedient"), Config{Dir: built, Program: "obedient"}, Deps{}); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Errorf("another program than cellbox: %v", err)
	}
	if _, err := Confine(t.Context(), filepath.Join(built, "missing"), Config{Dir: built, Program: "obedient"}, Deps{}); cellproto.HintOf(err) == "" {
		t.Errorf("no cellbox: %v", err)
	}
}

// Where no tier works nothing is run, and the error says of each why.
func TestNoTier(t *testing.T) {
	c := Config{Dir: built, Program: "obedient"}.WithDefaults()
	f, err := look(c, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.ABI, f.Root = 0, false
	b := &Box{cfg: c, group: &group{}}
	err = b.strongest(f, [3]*os.File{})
	if cellproto.KindOf(err) != cellproto.Unavailable || cellproto.HintOf(err) == "" || b.run != nil {
		t.Errorf("%v", err)
	}
	for _, tier := range tiers() {
		if !strings.Contains(err.Error(), tier.String()) {
			t.Errorf("nothing about %v: %v", tier, err)
		}
	}
}

// Where a stronger tier does not work the next one is taken, and said.
func TestWeakerTier(t *testing.T) {
	if !slices.Contains(working(t), T2) {
		t.Skip("T2 does not work here")
	}
	dir := t.TempDir()
	c := Config{Dir: built, Program: "obedient", Every: minEvery}.WithDefaults()
	f, err := look(c, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSlots { // more than a plan of T1 can hold
		p := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		f.Extra = append(f.Extra, root{Path: p, Kind: fileRoot})
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	b := &Box{cfg: c, group: &group{}, done: make(chan struct{})}
	if err := b.strongest(f, [3]*os.File{null, null, null}); err != nil {
		t.Fatal(err)
	}
	go b.watch()
	if r := b.Wait(); r.Tier != T2 || !strings.Contains(r.Weaker, "T1") || r.Exit != 0 {
		t.Errorf("%+v", r)
	}
}

// startIn starts the obedient program in this process's name, in a group that a test has made.
func startIn(t *testing.T, g *group, args ...string) *Box {
	t.Helper()
	c := Config{Dir: built, Program: "obedient", Args: args, CPU: 0.5}.WithDefaults()
	f, err := look(c, nil, len(g.join))
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	b := &Box{cfg: c, group: g, done: make(chan struct{})}
	if err := b.strongest(f, [3]*os.File{null, null, null}); err != nil {
		t.Fatal(err)
	}
	go b.watch()
	return b
}

// A group that cannot be entered holds nothing: the limits are held otherwise, and said to be.
func TestGroupThatCannotBeEntered(t *testing.T) {
	working(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(t.TempDir()) // no control group
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*group{
		"v1": {join: []*os.File{full}, holds: map[string]string{"cpu": byGroup1, "memory": byGroup1}},
		"v2": {enter: dir, holds: map[string]string{"cpu": byGroup2, "memory": byGroup2}},
	} {
		if r := startIn(t, g, "exit=6").Wait(); r.Exit != 6 || r.CPUBy != byDuty || r.MemoryBy != byWatchdog {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A program is in its group of version 2 from its first instruction on.
func TestGroupV2(t *testing.T) {
	working(t)
	places, err := readPlaces()
	parent := places[""].Dir
	if err != nil || parent == "" {
		t.Skip("there is no control group of version 2 here")
	}
	dir := filepath.Join(parent, fmt.Sprintf("sandbox-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("a control group of version 2 cannot be made here: " + err.Error())
	}
	for _, how := range []string{"by clone3", "by its number"} {
		enter, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		g := &group{enter: enter, holds: map[string]string{"cpu": byGroup2}, noClone3: how == "by its number"}
		b := startIn(t, g, "sleep=60000")
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.run.pid))
		if err != nil || !strings.Contains(string(text), "/"+filepath.Base(dir)+"\n") {
			t.Errorf("%s: it is in %s, %v", how, text, err)
		}
		b.Kill()
		if r := b.Wait(); r.CPUBy != byGroup2 {
			t.Errorf("%s: %+v", how, r)
		}
	}
	eventually(t, "the group is empty", func() bool { return os.Remove(dir) == nil })
}

func TestMoreCPUThanThereIs(t *testing.T) {
	if r, _ := tell(t, Config{CPU: 1000}, nil, "exit=4").end(); r.Exit != 4 || r.CPUBy != byNothing {
		t.Errorf("%+v", r)
	}
}

func TestRunInProcess(t *testing.T) {
	r, err := Run(t.Context(), Config{Dir: built, Program: "obedient", Args: []string{"exit=5"}}, Deps{})
	if err != nil || r.Exit != 5 || r.Event != EventEnd {
		t.Errorf("%+v, %v", r, err)
	}
}

// maxLauncher is how large cellbox may be: what is small starts fast.
const maxLauncher = 4 << 20

func TestLauncherSize(t *testing.T) {
	info, err := os.Stat(filepath.Join(built, "cellbox"))
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("cellbox has %d bytes on %s", info.Size(), runtime.GOARCH); info.Size() > maxLauncher {
		t.Errorf("cellbox has %d bytes, more than %d", info.Size(), maxLauncher)
	}
}

func TestFindLauncher(t *testing.T) {
	cellbox := filepath.Join(built, "cellbox")
	env := func(value string) func(string) string { return func(string) string { return value } }
	if p, err := FindLauncher(env(cellbox)); p != cellbox {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := FindLauncher(env(built)); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("a directory: %v", err)
	}
	t.Setenv("PATH", "")
	if _, err := FindLauncher(env("")); cellproto.KindOf(err) != cellproto.NotFound || cellproto.HintOf(err) == "" {
		t.Error(err)
	}
	t.Setenv("PATH", built)
	if p, err := FindLauncher(env("")); p != cellbox {
		t.Errorf("%q, %v", p, err)
	}
}

func TestProbeThrough(t *testing.T) {
	s, err := ProbeThrough(t.Context(), filepath.Join(built, "cellbox"))
	if want := Probe(); err != nil || s.String() != want.String() || s.Kernel != want.Kernel {
		t.Errorf("%+v is not %+v; %v", s, want, err)
	}
	if _, err := ProbeThrough(t.Context(), filepath.Join(built, "missing")); cellproto.KindOf(err) != cellproto.Unavailable {
		t.Error(err)
	}
	if _, err := ProbeThrough(t.Context(), filepath.Join(built, "obedient")); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

// BenchmarkStart is the time from the start of a program that does nothing to its end: plain, under
// cellbox in each tier, and as a build.
func BenchmarkStart(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkStart(b, filepath.Join(built, "obedient")) })
	cellbox := filepath.Join(built, "cellbox")
	for _, tier := range working(b) {
		b.Run(tier.String(), func(b *testing.B) {
			benchmarkStart(b, cellbox, "--dir", built, "--tier", tier.String(), "--cpu", "0.5", "--", "obedient")
		})
		b.Run(tier.String()+" without cgroups", func(b *testing.B) {
			benchmarkStart(b, cellbox, "--dir", built, "--tier", tier.String(), "--cpu", "0.5", "--cgroup", "none", "--", "obedient")
		})
	}
}

func benchmarkStart(b *testing.B, path string, args ...string) {
	var took []time.Duration
	for b.Loop() {
		begun := time.Now()
		if err := exec.Command(path, args...).Run(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
