package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seen are attacks that a tier is known not to stop, and that show nothing but names, sizes and times.
// docs/sandbox.md says so. Landlock does not restrict looking a file up.
var seen = map[string][]Tier{
	"look up a file outside": {T2},
}

// builds are what a build may do and others may not: start processes, signal those, all of which are its
// own, and write in its copy of the directory.
var builds = map[string]bool{
	"write the own program": true, "make a file in the own directory": true, "fill the disk": true,
	"lock a file that can be read": true, "lock a range of a file that can be read": true,
	"fork": true, "fork and hide": true, "fork the old way": true, "fork bomb of 8": true, "signal the process group": true,
}

// notEnded is the exit of an attack that the test had to end: it shows neither that it is stopped nor that it is not.
const notEnded = -2

const (
	// attackTime is how long one attack may take beside others. One that has not ended by then has had too little of a busy
	// machine, in most cases: programs are confined to a fifth of a processor, at a low priority. It is tried once more, alone.
	attackTime = 20 * time.Second
	aloneTime  = time.Minute
	// matrixTime is for all of them, so that the matrix is printed before go test ends the test: 10 minutes by default.
	matrixTime = 8 * time.Minute
)

// The fewest attacks that must be shown to succeed without the sandbox, and to fail in each tier.
const fewestShown = 48

// column is one way to run all attacks.
type column struct {
	name  string
	uid   int  // 0 is root
	tier  Tier // Auto is without a sandbox
	build bool // as a build is confined
}

func (c column) String() string {
	switch {
	case c.build:
		return c.name + " build"
	case c.tier == Auto:
		return c.name
	}
	return c.name + " " + c.tier.String()
}

// outcome is what came of one attack in one column.
type outcome struct {
	exit   int // of the attack
	reason string
}

func (o outcome) open() bool { return o.exit == 0 }

// TestMatrix runs every hostile program without the sandbox, where it has to succeed, and in every
// tier that works here, where it must not; as root and as an ordinary user.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a thousand processes")
	}
	columns, why := matrixColumns(t)
	var names, classes []string
	for line := range strings.Lines(output(t, "hostile", "-list")) {
		class, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		names, classes = append(names, name), append(classes, class)
	}
	results := make([][]outcome, len(names))
	for i := range results {
		results[i] = make([]outcome, len(columns))
	}
	ctx, cancel := context.WithTimeout(t.Context(), matrixTime)
	defer cancel()
	type job struct{ attack, column int }
	jobs := make(chan job)
	var workers sync.WaitGroup
	var mine map[int]*world // the last worker's
	for range max(2, runtime.NumCPU()) {
		worlds := map[int]*world{} // one for each user; attacks of two workers do not meet
		for _, c := range columns {
			if worlds[c.uid] == nil {
				worlds[c.uid] = newWorld(t, c.uid)
			}
		}
		mine = worlds
		workers.Go(func() {
			for j := range jobs {
				c := columns[j.column]
				results[j.attack][j.column] = worlds[c.uid].run(ctx, c, names[j.attack], attackTime)
			}
		})
	}
	for c := range columns {
		for a := range names {
			jobs <- job{a, c}
		}
	}
	close(jobs)
	workers.Wait()
	for a, name := range names {
		for i, c := range columns {
			if results[a][i].exit == notEnded {
				t.Logf("%s has not ended as %v, and is tried again", name, c)
				results[a][i] = mine[c.uid].run(ctx, c, name, aloneTime)
			}
		}
	}
	judge(t, columns, names, results)
	summarize(t, columns, classes, results)
	t.Logf("not tried:\n%s", strings.Join(untried(columns, why), "\n"))
}

// matrixColumns gives what can be run here, and why the rest cannot: without root there is one user.
func matrixColumns(t *testing.T) (list []column, why map[string]string) {
	uids, why := []int{os.Getuid()}, map[string]string{}
	if os.Getuid() == 0 {
		uids = []int{0, 61111}
	} else {
		why["root"] = "the test is not run by root"
	}
	for _, uid := range uids {
		who := "user"
		if uid == 0 {
			who = "root"
		}
		list = append(list, column{name: who, uid: uid})
		w := newWorld(t, uid)
		for _, tier := range tiers() {
			state := w.support(tier)
			if !state.Works {
				why[column{name: who, tier: tier}.String()] = state.Why
				continue
			}
			confined := []column{{name: who, uid: uid, tier: tier}}
			if tier == T1 {
				confined = append(confined, column{who, uid, tier, true})
			}
			for _, c := range confined {
				if o := w.run(t.Context(), c, "control", aloneTime); !o.open() {
					t.Fatalf("%v is said to work, and a harmless program fails: %s", c, o.reason)
				}
			}
			list = append(list, confined...)
		}
	}
	if !slices.ContainsFunc(list, func(c column) bool { return c.tier != Auto }) {
		if os.Getenv("CELL_LONG") != "" {
			t.Fatalf("no tier works here: nothing is confined, and nothing would be shown: %q", why)
		}
		t.Skipf("no tier works here: nothing would be shown: %q", why)
	}
	return list, why
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(built, program), args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// support asks cellbox, as the world's user, whether a tier works here.
func (w *world) support(tier Tier) TierSupport {
	cmd := exec.Command(filepath.Join(built, "cellbox"), "--probe", "--json")
	cmd.SysProcAttr = w.credential()
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(w.base, "dir")) // that of root may be closed to the user
	out, _ := cmd.Output()                                                 // its status says whether any tier works
	var s Support
	w.must(json.Unmarshal(out, &s))
	for _, state := range s.Tiers {
		if state.Tier == tier {
			return state
		}
	}
	return TierSupport{Why: "cellbox does not know it"}
}

// world is what attacks are aimed at: files, a cell beside, a process, sockets.
type world struct {
	t      testing.TB
	uid    int
	base   string
	cell   string
	args   []string
	inside *os.File // descriptors: a socket that is meant to be inherited, and what is not
	leaks  []*os.File
	tty    *os.File
}

func newWorld(t testing.TB, uid int) *world {
	base, err := os.MkdirTemp("", "sandbox-world-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, uid: uid, base: base, cell: filepath.Join(base, "cell")}
	t.Cleanup(func() { os.RemoveAll(base) })
	w.layOut()
	w.descriptors()
	w.args = []string{
		"secret=" + filepath.Join(base, "outside", "secret"), "writable=" + filepath.Join(base, "outside", "writable"),
		"owned=" + filepath.Join(base, "outside", "owned"), "bait=" + filepath.Join(base, "dir", "bait"),
		"dir=" + filepath.Join(base, "dir"), "sibling=" + filepath.Join(base, "sibling", "bin", "x"),
		"key=" + filepath.Join(w.cell, "keys", "host.key"), "own=" + w.cell, "setuid=" + filepath.Join(w.cell, "bin", "setuid"),
		"fd=3", fmt.Sprint("victim=", w.victim()),
	}
	w.listen()
	return w
}

func (w *world) must(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

// layOut makes the files. Modes are generous: what stands in the way shall be the sandbox.
func (w *world) layOut() {
	program, err := os.ReadFile(filepath.Join(built, "hostile"))
	w.must(err)
	for _, d := range []string{"", "cell", "cell/bin", "cell/keys", "outside", "dir", "sibling", "sibling/bin"} {
		w.must(os.MkdirAll(filepath.Join(w.base, d), 0o755))
		w.must(os.Chmod(filepath.Join(w.base, d), 0o777))
	}
	w.must(os.Chmod(w.base, 0o755))
	for name, file := range map[string]struct {
		data string
		mode os.FileMode
	}{
		"cell/cell.toml": {"[cell]\n", 0o644}, "cell/bin/hostile": {string(program), 0o755},
		"cell/bin/setuid": {string(program), 0o755}, "cell/bin/other": {"other", 0o666}, "cell/keys/host.key": {"secret", 0o644},
		"outside/secret": {"secret", 0o644}, "outside/writable": {"writable", 0o666}, "outside/owned": {"owned", 0o644},
		"sibling/bin/x": {"secret", 0o644},
	} {
		path := filepath.Join(w.base, name)
		w.must(os.WriteFile(path, []byte(file.data), file.mode))
		w.must(os.Chmod(path, file.mode))
	}
	if os.Getuid() == 0 {
		w.must(os.Chmod(filepath.Join(w.cell, "bin", "setuid"), 0o755|os.ModeSetuid))
		for _, p := range []string{"outside/owned", "outside/secret", "cell"} {
			w.must(os.Chown(filepath.Join(w.base, p), w.uid, w.uid))
		}
	}
	w.bait()
}

// bait puts back what attacks take away.
func (w *world) bait() {
	entries, _ := os.ReadDir(filepath.Join(w.base, "dir"))
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".sock") {
			os.RemoveAll(filepath.Join(w.base, "dir", e.Name()))
		}
	}
	os.Remove(filepath.Join(w.cell, "bin", "new"))
	path := filepath.Join(w.base, "dir", "bait")
	w.must(os.WriteFile(path, []byte("bait"), 0o666))
	if os.Getuid() == 0 {
		w.must(os.Chown(path, w.uid, w.uid))
	}
}

// descriptors makes what is inherited: 3 is meant to be, 4 and 5 have leaked.
func (w *world) descriptors() {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	other := os.NewFile(uintptr(fds[0]), "socket")
	w.inside = os.NewFile(uintptr(fds[1]), "socket, inherited")
	secret, err := os.Open(filepath.Join(w.base, "outside", "secret"))
	w.must(err)
	root, err := os.Open("/")
	w.must(err)
	w.leaks = []*os.File{secret, root}
	for _, f := range []*os.File{other, w.inside, secret, root} {
		w.t.Cleanup(func() { f.Close() })
	}
	if master, slave, err := openTerminal(); err == nil {
		w.tty = slave
		w.t.Cleanup(func() { slave.Close(); master.Close() })
	}
}

func openTerminal() (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, slave, err
}

// victim starts the process that is attacked, and gives its number.
func (w *world) victim() int {
	cmd := exec.Command(filepath.Join(built, "hostile"), "-victim")
	cmd.Env = []string{"SECRET=1"}
	cmd.SysProcAttr = w.credential()
	stdin, err := cmd.StdinPipe()
	w.must(err)
	stdout, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	w.t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	_, err = stdout.Read(make([]byte, 1)) // it is ready
	w.must(err)
	return cmd.Process.Pid
}

func (w *world) credential() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if w.uid != os.Getuid() {
		attr.Credential = &syscall.Credential{Uid: uint32(w.uid), Gid: uint32(w.uid)}
	}
	return attr
}

// listen opens the sockets and the shared memory that are attacked. Nobody accepts: that a connection
// is possible is enough.
func (w *world) listen() {
	abstract := filepath.Base(w.base)
	stream, gram := filepath.Join(w.base, "dir", "stream.sock"), filepath.Join(w.base, "dir", "gram.sock")
	bind := func(family, kind int, addr unix.Sockaddr) (port int) {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		w.must(err)
		w.t.Cleanup(func() { unix.Close(fd) })
		w.must(unix.Bind(fd, addr))
		if kind == unix.SOCK_STREAM {
			w.must(unix.Listen(fd, 128))
		}
		if family == unix.AF_INET {
			sa, err := unix.Getsockname(fd)
			w.must(err)
			return sa.(*unix.SockaddrInet4).Port
		}
		return 0
	}
	loopback := [4]byte{127, 0, 0, 1}
	tcp := bind(unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: loopback})
	udp := bind(unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Addr: loopback})
	bind(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: stream})
	bind(unix.AF_UNIX, unix.SOCK_DGRAM, &unix.SockaddrUnix{Name: gram})
	bind(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@" + abstract})
	w.must(os.Chmod(stream, 0o777))
	w.must(os.Chmod(gram, 0o777))
	shm, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o666)
	w.must(err)
	mem, err := unix.SysvShmAttach(shm, 0, 0)
	w.must(err)
	copy(mem, "secret")
	w.must(unix.SysvShmDetach(mem))
	w.t.Cleanup(func() { _, _ = unix.SysvShmCtl(shm, unix.IPC_RMID, nil) })
	w.args = append(w.args, fmt.Sprint("tcp=", tcp), fmt.Sprint("udp=", udp), "unix="+stream, "unixgram="+gram,
		"abstract="+abstract, fmt.Sprint("shm=", shm))
}

// run makes one attack, in a tier or, for Auto, without a sandbox, and ends it after a time.
func (w *world) run(ctx context.Context, c column, attack string, limit time.Duration) outcome {
	if ctx.Err() != nil {
		return outcome{notEnded, "it was not tried: the time for all of them was over"}
	}
	w.bait()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{filepath.Join(w.cell, "bin", "hostile"), attack}, w.args...)
	if c.tier != Auto {
		box := []string{filepath.Join(built, "cellbox"), "--dir", w.cell, "--tier", c.tier.String(), "--memory", "64MiB",
			"--cpu", "0.2", "--grace", "1s", "--keep-fd", "3", "--"}
		if c.build {
			box = slices.Insert(box, 1, "--build", "--disk", "64MiB", "--inodes", "200", "--threads", "64")
		}
		args = append(append(box, args...), "inside=yes")
		if c.tier == T3 {
			args[len(box)] = "hostile" // looked up in bin
		}
	}
	if attack == "signal the owner" || attack == "signal the parent" { // which has the same user
		args = append([]string{filepath.Join(built, "hostile"), "-under"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = w.cell, []string{"SECRET=1"}
	cmd.SysProcAttr = w.credential()
	cmd.ExtraFiles = append([]*os.File{w.inside}, w.leaks...)
	if w.tty != nil && (strings.Contains(attack, "terminal") || strings.Contains(attack, "console")) {
		cmd.Stdin, cmd.SysProcAttr.Setctty = w.tty, true
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	o := outcome{reason: strings.TrimSpace(stdout.String())}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return outcome{notEnded, fmt.Sprintf("it did not end within %v", limit)}
	case errors.As(err, &exit):
		if o.exit = exit.ExitCode(); o.exit < 0 {
			o.exit = 128
		}
	case err != nil:
		return outcome{127, err.Error()}
	case attack == "flood the log" && stderr.Len() < 4<<20:
		o.exit = 1
	}
	if o.exit != 0 && o.reason == "" {
		o.reason = fmt.Sprintf("exit %d: %.300s", o.exit, stderr.String())
	}
	return o
}
