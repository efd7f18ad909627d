package celltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// More tests run at once than there are processors, unless -parallel says otherwise: most of what the slow ones
// take is waiting, for daemons that talk once a minute.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		if err := f.Value.Set(fmt.Sprint(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(Main(m))
}

// The main job: two providers of one cell, a router without a program, and a caller that knows
// nothing but the router's address.
func TestMainJob(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	first := n.Example("calculator")
	first.Start()
	published := first.Publish()
	second := n.Copy(first)
	second.Start()
	if s := second.Status(); s.CID != published.CID || s.PeerID == first.Status().PeerID {
		t.Fatalf("the copy is %+v, want the CID %s and a peer ID of its own", s, published.CID)
	}
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 2)

	if got := caller.Must("use", published.CID, "add", "3", "4"); got != "7" {
		t.Fatalf("add 3 4 is %q", got)
	}
	var rows []ctl.RaceRow
	if err := json.Unmarshal([]byte(caller.Must("race", published.CID, "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || !rows[0].Winner || rows[0].MedianUS <= 0 || rows[0].Error != "" || rows[1].Error != "" {
		t.Fatalf("race %+v", rows)
	}
	if r := caller.Ctl("use", published.CID, "div", "1", "0"); r.Code != 6 {
		t.Errorf("div 1 0: exit code %d, want 6\n%s", r.Code, r.Stderr)
	}
	if r := caller.Ctl("use", published.CID, "nothing"); r.Code != 3 {
		t.Errorf("an unknown function: exit code %d, want 3\n%s", r.Code, r.Stderr)
	}
	if got := caller.Must("use", published.IPNS, "add", "30", "4"); got != "34" {
		t.Errorf("by its IPNS name, add 30 4 is %q", got)
	}

	// Whoever wins dies, without a word and with calls in flight; not one of them fails.
	winner, other := first, second
	if rows[0].Peer == second.Status().PeerID {
		winner, other = second, first
	}
	left := other.Status().PeerID
	var calls sync.WaitGroup
	started := make(chan struct{}, 400)
	for range 8 {
		calls.Go(func() {
			for range 50 {
				started <- struct{}{}
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				if reply, _, err := caller.Use(ctx, published.CID, "add", "1", "2"); err != nil || string(reply) != "3" {
					t.Errorf("a call beside the death of the winner: %s, %v", reply, err)
				}
				cancel()
			}
		})
	}
	for range 80 {
		<-started
	}
	winner.Kill()
	calls.Wait()
	_, meta, err := caller.Use(t.Context(), published.CID, "add", "1", "2")
	if err != nil || meta.Provider != left {
		t.Errorf("%s answered (%v), want %s", meta.Provider, err, left)
	}
	// It comes back, with the same keys, under the same CID.
	winner.Start()
	if s := winner.Status(); s.CID != published.CID {
		t.Errorf("it came back under %s", s.CID)
	}
	other.Stop()
	if reply, _, err := caller.Use(t.Context(), published.CID, "add", "1", "2"); err != nil || string(reply) != "3" {
		t.Errorf("after the other one has stopped: %s, %v", reply, err)
	}
}

// A nucleus that is killed with its program running leaves sockets and a process behind; the next one
// takes over: the same keys and manifest, its own sockets, one program.
func TestKilledNucleus(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("calculator")
	c.Start()
	published := c.Publish()
	before := c.Status()
	if before.ProgramPID == 0 {
		t.Fatal("no program runs")
	}
	c.Kill()
	if _, err := os.Lstat(ctl.SocketPath(c.Dir, ctl.ControlSocket)); err != nil {
		t.Fatalf("there is no socket left to be removed: %v", err)
	}
	c.Start()
	after := c.Status()
	if after.PeerID != before.PeerID || after.CID != published.CID {
		t.Errorf("it came back as %s with %s, was %s with %s", after.PeerID, after.CID, before.PeerID, published.CID)
	}
	if got := c.Must("use", ".", "add", "3", "4"); got != "7" {
		t.Errorf("add 3 4 is %q", got)
	}
	Eventually(t, "the left-over program is gone", func() bool { return !Alive(before.ProgramPID) })
	if again := c.Publish(); again.CID != published.CID {
		t.Errorf("publishing again gives %s, want %s", again.CID, published.CID)
	}
	c.Stop()
}

// A second nucleus for a directory does nothing, and says so.
func TestTwoNuclei(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Start()
	if code, said := c.StartAgain(); code != 0 || !strings.Contains(said, "runs here already") {
		t.Errorf("exit code %d, %q", code, said)
	}
	if s := c.Status(); s.NucleusPID != c.PID() {
		t.Errorf("process %d has the cell, want %d", s.NucleusPID, c.PID())
	}
}

// A directory whose path is longer than the address of a Unix socket works like any other.
func TestLongPath(t *testing.T) {
	t.Parallel()
	n := New(t)
	short := n.Example("greet")
	long := n.At(filepath.Join(strings.Repeat("a-long-name-", 9), strings.Repeat("another-one-", 9), "greet"))
	if err := os.CopyFS(long.Dir, os.DirFS(short.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(long.Dir, "bin", "greet"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := n.Must(long.Dir, "use", ".", "greet", "Ann"); got != `"Hello, Ann!"` {
		t.Errorf("greet is %q", got)
	}
	caller := n.Headless("caller")
	caller.Edit("", "[deps]\nfar = \""+caller.relative(long.Dir)+"\"\n")
	caller.Start()
	if got := caller.Must("use", "far", "greet", "Bob"); got != `"Hello, Bob!"` {
		t.Errorf("greet of a dependency is %q", got)
	}
	long.Must("stop")
	long.CheckGone(0)
}

// What must never leave the machine cannot be published; here it serves.
func TestLocalPlacement(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Edit("", "\n[privacy]\nplacement = \"local\"\n")
	c.Start()
	if r := c.Ctl("publish"); r.Code != 4 || !strings.Contains(r.Stderr, "placement") {
		t.Errorf("exit code %d, want 4\n%s", r.Code, r.Stderr)
	}
	if got := c.Must("use", ".", "greet", "Ann"); got != `"Hello, Ann!"` {
		t.Errorf("greet is %q", got)
	}
}

// The home cell's nucleus retires when nobody needs it.
func TestNucleusTimeout(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Headless("home")
	c.Edit("", "[life_cycle]\nnucleus_timeout = 1\n")
	c.Start()
	c.AwaitEnd()
	c.CheckGone(0)
}

// Whoever only watches a nucleus does not keep it from retiring.
func TestWatchedNucleusRetires(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Headless("home")
	c.Edit("", "[life_cycle]\nnucleus_timeout = 1\n")
	c.Start()
	Eventually(t, "a nucleus that is asked for its metrics all the time has retired", func() bool {
		m, err := (&ctl.Client{Dir: c.Dir}).Metrics(t.Context())
		if err == nil && (m.Name != "home" || m.Nucleus.PID != c.PID() || m.Nucleus.RSS == 0 || m.Program.PID != 0) {
			t.Errorf("%+v", m)
		}
		return errors.Is(err, ctl.ErrNotRunning)
	})
	c.AwaitEnd()
}

// Publishing anew what has changed gives another CID that leads back to the one before; the program
// of the old one is not passed off as the new one, nor the other way round.
func TestPublishAnew(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Start()
	one := c.Publish()
	if again := c.Publish(); again != one {
		t.Errorf("with nothing changed %+v became %+v", one, again)
	}
	c.Stop()
	c.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	c.Start()
	two := c.Publish()
	if two.CID == one.CID || two.IPNS != one.IPNS {
		t.Errorf("%+v became %+v", one, two)
	}
	var rows []ctl.HistoryRow
	if err := json.Unmarshal([]byte(c.Must("history", two.CID, "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].CID != two.CID || rows[1].CID != one.CID || rows[0].Version != "1.1.0" || rows[1].Version != "1.0.0" {
		t.Errorf("history %+v", rows)
	}

	// Another program in its place is not what was published.
	program := filepath.Join(c.Dir, "bin", "greet")
	old, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if pid := c.Status().ProgramPID; pid != 0 {
		t.Fatalf("program %d runs, though nobody has called", pid)
	}
	c.write("bin/.new", string(old)+"\n# changed\n", 0o755)
	if err := os.Rename(filepath.Join(c.Dir, "bin/.new"), program); err != nil {
		t.Fatal(err)
	}
	if got := c.Must("use", ".", "greet", "Ann"); got != `"Hello, Ann!"` {
		t.Errorf("greet is %q", got)
	}
	if s := c.Status(); s.CID != "" {
		t.Errorf("another program is served under %s", s.CID)
	}
	three := c.Publish()
	if three.CID == two.CID || c.Status().CID != three.CID {
		t.Errorf("publishing gives %s after %s", three.CID, two.CID)
	}
}

// Either copy of what was published may be damaged while the nucleus runs: it is served all the same,
// and both are whole again.
func TestDamagedWhileRunning(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("calculator")
	c.Start()
	one := c.Publish()
	blocks := filepath.Join(c.Dir, "cache", "blocks", "store", "*", "*.data")
	files, err := filepath.Glob(blocks)
	if err != nil || len(files) < 3 { // manifest, schema, root of the program
		t.Fatalf("blocks %v, %v", files, err)
	}
	whole := map[string][]byte{}
	for _, f := range files {
		if whole[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, int64(len(whole[f])/2)); err != nil {
			t.Fatal(err)
		}
	}
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(one.CID, 1)
	if got := caller.Must("schema", one.CID); !strings.Contains(got, "add a:integer") {
		t.Errorf("the schema is %s", got)
	}
	if got := caller.Must("use", one.CID, "add", "3", "4"); got != "7" {
		t.Errorf("add 3 4 is %q", got)
	}
	good := 0
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && bytes.Equal(data, whole[f]) {
			good++
		}
	}
	if good < 2 { // nobody has asked for the program
		t.Errorf("%d blocks are whole again, want the manifest's and the schema's", good)
	}

	// Now the other copy, on which the history depends.
	manifest := filepath.Join(c.Dir, "published", one.CID+".cbor")
	block, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	c.write("published/"+one.CID+".cbor", "garbage", 0o644)
	c.write("published/latest", "", 0o644)
	if again := c.Publish(); again.CID != one.CID {
		t.Errorf("with nothing changed %s became %s", one.CID, again.CID)
	}
	if got, err := os.ReadFile(manifest); err != nil || !bytes.Equal(got, block) {
		t.Errorf("the published manifest is not whole again: %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(filepath.Join(c.Dir, "published", "latest")); err != nil || strings.TrimSpace(string(got)) != one.CID {
		t.Errorf("published/latest is %q, %v", got, err)
	}
}

// The first member of a private network is well, though it is alone; one that cannot reach the member
// it was told of is not.
func TestDoctorOfALoneNode(t *testing.T) {
	t.Parallel()
	n := New(t)
	first := n.Example("calculator")
	first.Start()
	first.Publish()
	r := first.Ctl("doctor")
	if r.Code != 0 {
		t.Errorf("exit code %d of\n%s", r.Code, r.Stdout)
	}
	for _, want := range []string{"alone so far on the network " + n.name, "CELL_BOOTSTRAP=" + first.Status().Addrs[0], "there is nobody to tell yet"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("the doctor says\n%s\nwithout %q", r.Stdout, want)
		}
	}
	n.bootstrap = first.Status().Addrs
	first.Stop()
	second := n.Headless("second")
	second.Start()
	if r := second.Ctl("doctor"); r.Code != 1 || !strings.Contains(r.Stdout, "0 of 1 bootstrap peers") {
		t.Errorf("without the first, exit code %d of\n%s", r.Code, r.Stdout)
	}
}

// A nucleus whose cell was removed while it ran leaves nothing in its place when it stops, though it has what it would
// have written down: who has called, and which program ran.
func TestStopOfARemovedCell(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("calculator")
	c.Start()
	if got := c.Must("use", ".", "add", "3", "4"); got != "7" {
		t.Fatalf("add 3 4 is %q", got)
	}
	if err := os.Rename(c.Dir, filepath.Join(t.TempDir(), "removed")); err != nil {
		t.Fatal(err)
	}
	if err := c.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.await(c.proc, stopTime)
	c.proc = nil
	_ = filepath.WalkDir(c.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			t.Errorf("%s was made anew", path)
		}
		return nil
	})
}

// SIGTERM with calls in flight: those that end in time are answered, and the nucleus is gone soon,
// whatever its program does.
func TestStopWithCallsInFlight(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("calculator")
	c.Start()
	if got := c.Must("use", ".", "add", "3", "4"); got != "7" {
		t.Fatalf("add 3 4 is %q", got)
	}
	quick, hanging := make(chan error, 1), make(chan error, 1)
	go func() { _, _, err := c.Use(context.Background(), "", "slow", "1500"); quick <- err }()
	go func() { _, _, err := c.Use(context.Background(), "", "slow", "50000"); hanging <- err }()
	Eventually(t, "both calls are in flight", func() bool { return c.Status().InFlight == 2 })
	if took := c.Stop(); took > 12*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := <-quick; err != nil {
		t.Errorf("the call that ended in time: %v", err)
	}
	if err := <-hanging; err == nil {
		t.Error("the call that did not was answered")
	}
}

// A cell reached in every way that a person has: its directory, a name under [deps], its IPNS name
// and its CID, from another directory; and through its socket and its multiaddr.
func TestUseByEveryName(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("calculator")
	c.Start()
	published := c.Publish()
	status := c.Status()
	caller := n.Headless("caller")
	caller.Edit("", "[deps]\nmath = \""+caller.relative(c.Dir)+"\"\nby-cid = \""+published.CID+"\"\n[remote_cells]\n"+
		"beside = \""+ctl.SocketPath(c.Dir, ctl.CellSocket)+"\"\nfar = \""+status.Addrs[0]+"\"\n")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	for _, target := range []string{c.Dir, "math", "by-cid", published.IPNS, published.CID, "beside", "far"} {
		if got := caller.Must("use", target, "add", "3", "4"); got != "7" {
			t.Errorf("%s: add 3 4 is %q", target, got)
		}
	}
	// A dependency that sleeps is started, and it lives on by itself.
	c.Stop()
	if got := caller.Must("use", "math", "add", "5", "6"); got != "11" {
		t.Errorf("add 5 6 of one that slept is %q", got)
	}
	c.Must("stop")
	c.CheckGone(0)
}

// What cellctl init makes is built, started, published and used where this module cannot be fetched.
func TestInitOfEachLanguage(t *testing.T) {
	t.Parallel()
	for _, lang := range []string{"go", "sh", "python"} {
		t.Run(lang, func(t *testing.T) {
			n := New(t)
			n.Bootstrap()
			n.Must(n.root, "init", "--lang", lang, "hello")
			c := n.At("hello")
			n.Must(n.root, "build", "hello")
			n.Must(n.root, "start", "hello")
			var published ctl.Published
			if err := json.Unmarshal([]byte(n.Must(n.root, "publish", "hello", "--json")), &published); err != nil {
				t.Fatal(err)
			}
			caller := n.Headless("caller")
			caller.Start()
			caller.AwaitProviders(published.CID, 1)
			if got := caller.Must("use", published.CID, "greet", "World"); got != `"Hello, World!"` {
				t.Errorf("greet is %q", got)
			}
			program := c.Status().ProgramPID
			c.Must("stop")
			c.CheckGone(program)
		})
	}
}

// A provider that hangs, sockets and all, is passed over; when it goes on it serves again.
func TestFrozenProvider(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	first := n.Example("calculator")
	first.Start()
	published := first.Publish()
	second := n.Copy(first)
	second.Start()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 2)
	if _, err := (&ctl.Client{Dir: caller.Dir}).Race(t.Context(), published.CID); err != nil {
		t.Fatal(err)
	}
	_, meta, err := caller.Use(t.Context(), published.CID, "add", "3", "4")
	if err != nil {
		t.Fatal(err)
	}
	winner, other := first, second
	if meta.Provider == second.Status().PeerID {
		winner, other = second, first
	}
	winner.Signal(syscall.SIGSTOP)
	begin := time.Now()
	reply, meta, err := caller.Use(t.Context(), published.CID, "add", "5", "6")
	if err != nil || string(reply) != "11" || meta.Provider != other.Status().PeerID {
		t.Errorf("%s by %s: %v", reply, meta.Provider, err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	winner.Signal(syscall.SIGCONT)
	other.Stop()
	if reply, _, err := caller.Use(t.Context(), published.CID, "add", "5", "6"); err != nil || string(reply) != "11" {
		t.Errorf("%s: %v", reply, err)
	}
}

// Real bytes: a body of many windows goes from the caller's file through two nuclei to the program.
func TestBodies(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("digest")
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	caller.write("data", string(data), 0o644)
	want := fmt.Sprintf("%x", sha256.Sum256(data))
	for _, target := range []string{published.CID, c.Dir} {
		if got := caller.Must("use", target, "sha256", "--input", "data"); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// An unknown CID is not found, within the time that there is, and it says how far the search got.
func TestUnknownCID(t *testing.T) {
	t.Parallel()
	const unknown = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	n := New(t)
	router := n.Bootstrap()
	caller := n.Headless("caller")
	caller.Start()
	howFar := regexp.MustCompile(`no provider found: the DHT of the network ` + n.name + `, of which 1 peer is known, gave [1-9][0-9]* answers? under [4-7] keys and named 0 providers`)
	if r := caller.Ctl("use", unknown, "add", "3", "4", "--timeout", "5s"); r.Code != 3 || !howFar.MatchString(r.Stderr) {
		t.Errorf("exit code %d, want 3 and how far it got\n%s", r.Code, r.Stderr)
	}
	caller.Stop()
	router.Stop()
	caller.Start()
	r := caller.Ctl("use", unknown, "add", "3", "4", "--timeout", "2s")
	if want := "no peer of the network " + n.name + " can be reached (0 of 1 bootstrap peers connected)"; r.Code != 3 || !strings.Contains(r.Stderr, want) {
		t.Errorf("exit code %d, want %q\n%s", r.Code, want, r.Stderr)
	}
}

// A neighbour that serves another cell is asked, and is none who provides this one.
func TestUnknownCIDBesideNeighbour(t *testing.T) {
	t.Parallel()
	const unknown = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	n := New(t)
	neighbour := n.Example("calculator")
	neighbour.Start()
	known := neighbour.Publish().CID
	static := "[network]\nstatic = [\"" + neighbour.Status().Addrs[0] + "\"]\n"
	caller := n.Headless("caller")
	caller.Edit("", static)
	caller.Start()
	for _, args := range [][]string{{"find", unknown}, {"use", unknown, "add", "3", "4"}, {"race", unknown}, {"schema", unknown}, {"history", unknown}} {
		r := caller.Ctl(append(args, "--timeout", "5s")...)
		if r.Code != 3 || r.Stdout != "" || !strings.Contains(r.Stderr, "no provider found: ") ||
			!strings.Contains(r.Stderr, "; 1 peer was asked and does not have it\n") {
			t.Errorf("%s: exit code %d, want 3, nobody, and how far it got\n%s%s", args[0], r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := caller.Ctl("find", known); r.Code != 0 || !strings.Contains(r.Stdout, neighbour.Status().PeerID) {
		t.Errorf("find of what it has: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// relative gives a path as [deps] has them.
func (c *Cell) relative(path string) string {
	c.t.Helper()
	rel, err := filepath.Rel(c.Dir, path)
	if err != nil {
		c.t.Fatal(err)
	}
	return rel
}
