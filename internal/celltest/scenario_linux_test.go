package celltest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/celltest/netdelay"
	"github.com/celldnet/celld/internal/ctl"
)

// nearCell is what the callers call the program on the donor that they reach by its address.
const nearCell = "near"

// How far apart the machines are, one way.
const (
	farAway  = 30 * time.Millisecond   // 60 ms there and back
	nearby   = 2500 * time.Microsecond // as within a town
	midway   = 10 * time.Millisecond   // to the router that everybody knows
	artefact = 10_000_000              // bytes of the program
	wished   = 20                      // ms: what the callers want of 99 of 100 calls
)

// scenario is what the whole project serves: callers far from a cell get a near copy unasked, and losing the
// original costs them nothing.
type scenario struct {
	t   *testing.T
	n   *Net
	net *netdelay.Net
	out io.Writer
	all []*machine

	boot, far, far2, donor *machine
	callers                []*machine
	using                  []*Cell // the callers' cells
	near                   *Cell   // the same program, unpublished, on the donor: what a direct call takes
	original, second       *Cell
	v1, v2                 ctl.Published

	compared struct{ from, to time.Time } // when calls were compared with direct ones

	load  *steadyLoad
	began time.Time
	cuts  []cut

	mu       sync.Mutex
	evidence *evidence // read now and then
	shown    time.Time // until then the timeline was printed
}

// mayHaveRun says that an error of a call says so.
func mayHaveRun(err error) bool {
	var remote *ctl.RemoteError
	return errors.As(err, &remote) && remote.Kind == cellproto.MayHaveRun.String()
}

func newScenario(t *testing.T, out io.Writer) *scenario {
	t.Helper()
	s := &scenario{t: t, n: New(t), net: machines(t), out: out}
	s.boot = s.machine("boot", "11.10.0.1")
	s.far = s.machine("far", "11.20.0.1")
	s.far2 = s.machine("far2", "11.20.1.1")
	s.donor = s.machine("donor", "11.30.0.1")
	for i, name := range []string{"caller-a", "caller-b", "caller-c"} {
		s.callers = append(s.callers, s.machine(name, fmt.Sprintf("11.30.%d.1", i+1)))
	}
	for i, a := range s.all {
		for _, b := range s.all[:i] {
			p := netdelay.Path{Delay: nearby}
			if a.isFar() != b.isFar() {
				p.Delay = farAway
			}
			if b == s.boot {
				p.Delay = midway
			}
			s.net.Connect(a.Machine, b.Machine, p)
		}
	}
	return s
}

func (m *machine) isFar() bool { return strings.HasPrefix(m.name, "far") }

func (s *scenario) machine(name, addr string) *machine {
	m := s.n.machine(s.net, name, addr)
	s.all = append(s.all, m)
	return m
}

// say prints a line of the timeline.
func (s *scenario) say(format string, args ...any) {
	at := 0.0
	if !s.began.IsZero() {
		at = time.Since(s.began).Seconds()
	}
	fmt.Fprintf(s.out, "%6.1f s  %s\n", at, fmt.Sprintf(format, args...))
}

// witness makes the program of a version, as large as the scenario wants it.
func (s *scenario) witness(c *Cell, version string) {
	s.t.Helper()
	path := filepath.Join(c.Dir, "bin", "witness")
	goBuild(s.t, path, "./internal/celltest/testdata/witness", "-ldflags", "-s -w -X main.version="+version)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		var size int64
		if size, err = f.Seek(0, io.SeekEnd); err == nil && size < artefact {
			_, err = io.CopyN(f, rand.Reader, artefact-size) // a program's end is of no concern to the system
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) toml() string {
	data, err := os.ReadFile("testdata/witness/cell.toml")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// prepare starts everything but the load.
func (s *scenario) prepare(p pace) {
	router := s.boot.cell("router", "[cell]\nname = \"router\"\n")
	router.Start()
	s.n.bootstrap = append(s.n.bootstrap, router.Status().Addrs...)

	s.original = s.far.cell("witness", s.toml())
	s.witness(s.original, "1.0.0")
	s.original.Start()
	s.v1 = s.original.Publish()
	s.say("far publishes version %s as %s", s.v1.Version, s.v1.CID)
	s.backup()

	s.near = s.donor.cell(nearCell, s.toml())
	s.near.copyFile(filepath.Join(s.original.Dir, "bin", "witness"), "bin/witness", 0o755)
	s.near.Start()
	addr := s.near.Status().Addrs[0]
	if p.donor {
		s.give()
	}

	for _, m := range s.callers {
		c := m.cell("caller", fmt.Sprintf("[cell]\nname = \"caller\"\n\n[deps]\nwitness = %q\n\n[remote_cells]\n%s = %q\n", s.v1.IPNS, nearCell, addr))
		c.write(".cell-cache/slo.json", fmt.Sprintf(`{"max_p99_ms": %d, "clone_on_violation": true}`, wished), 0o600)
		c.Start()
		s.using = append(s.using, c)
	}
	for _, c := range s.using {
		c.AwaitProviders(s.v1.CID, 1)
	}
}

// backup is the owner's: the cell, its keys, and those of the home cell, on another machine.
func (s *scenario) backup() {
	s.second = s.far2.cell("witness", strings.Replace(s.toml(), `version = "1.0.0"`, `version = "2.0.0"`, 1))
	s.witness(s.second, "2.0.0")
	for _, name := range []string{"keys/name.key", "published"} {
		s.copyTree(filepath.Join(s.original.Dir, name), filepath.Join(s.second.Dir, name))
	}
	s.copyTree(filepath.Join(s.far.at.dir, "home", "keys"), filepath.Join(s.far2.at.dir, "home", "keys"))
	if err := os.Remove(filepath.Join(s.far2.at.dir, "home", "keys", "host.key")); err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
}

func (s *scenario) copyTree(from, to string) {
	s.t.Helper()
	copyTree(s.t, from, to)
}

// copyTree copies files with their modes.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, name)
		return errors.Join(os.MkdirAll(filepath.Dir(dst), 0o755), os.WriteFile(dst, data, info.Mode().Perm()))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Calls by the name and direct ones are measured by turns: so often, and for so long each, after one that does not count.
const (
	turns    = 3
	turnTime = 4 * time.Second
)

// compare has the load go by turns to the same program on the same donor, at its address (unconfined, not searched for, not
// raced), and by the name again, which the copy answers. All else is the same: the callers, their rate, the functions, the
// network, the minute.
func (s *scenario) compare() {
	usual := s.load.aim.Load()
	for turn := range 1 + turns {
		if turn == 1 { // connections are there
			s.compared.from = time.Now()
		}
		s.load.aim.Store(&aim{target: nearCell, want: "1.0.0"})
		s.until(turnTime, nil)
		s.load.aim.Store(usual)
		s.until(turnTime, nil)
	}
	s.compared.to = time.Now()
}

// direct has each caller connect to the donor, and gives how long calls take while there is no load.
func (s *scenario) direct() (calls []made) {
	s.t.Helper()
	for i := range 150 {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		m := made{key: fmt.Sprintf("direct%d", i), at: time.Now()}
		args := []byte(`{"key":"` + m.key + `"}`)
		_, _, m.err = ask(ctx, s.using[i%len(s.using)], ctl.UseRequest{Target: nearCell, Func: "look", Args: args})
		cancel()
		m.took = time.Since(m.at)
		if m.err != nil {
			s.t.Fatal(m.err)
		}
		if i >= 10*len(s.using) { // a connection is there
			calls = append(calls, m)
		}
		time.Sleep(time.Second / perSecond)
	}
	return calls
}

// showEvery is how much time a line of the timeline covers.
const showEvery = 2 * time.Second

// go on with the load for a while, or until ok.
func (s *scenario) until(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if now := time.Now(); s.load != nil && now.Sub(s.shown) >= showEvery+200*time.Millisecond {
			s.show(now.Add(-200 * time.Millisecond)) // those that were begun by then have mostly ended
		}
		if ok != nil && ok() {
			return true
		}
	}
	return ok == nil
}

// served says that the last ten calls of each caller that were addressed to want ("": by the name) were all
// answered near, by that version.
func (s *scenario) served(want, version string) bool {
	const enough = 10
	calls := s.load.between(time.Now().Add(-4*time.Second), time.Now())
	for i := range s.callers {
		got := 0
		for _, m := range calls {
			if m.caller != i || m.want != want || got == enough {
				continue
			}
			if m.err != nil || m.reply.Version != version || !s.isNear(&m) {
				return false
			}
			got++
		}
		if got < enough {
			return false
		}
	}
	return true
}

// pace is how much of a scenario is played.
type pace struct {
	calm     time.Duration // after each thing that happens
	patience time.Duration // for what is to come
	byName   bool          // callers use the name, and look at what it stands for once a minute; else the CIDs
	donor    bool          // somebody near gives; else each caller makes a copy for itself
}

func (s *scenario) run(p pace) {
	s.prepare(p)
	direct := s.direct()
	s.say("a direct call of a near cell while there is no load: p50 %s, p99 %s", ms(percentile(direct, 50)), ms(percentile(direct, 99)))

	s.began = time.Now()
	s.shown = s.began
	first := aim{target: s.v1.CID, want: "1.0.0"}
	if p.byName {
		first = aim{target: "witness", versions: map[string]string{"1.0.0": s.v1.CID}}
	}
	s.load = startLoad(s.using, first)
	s.say("three callers begin, %d calls a second each", perSecond)
	s.await(p, "served near by version 1", func() bool { return s.served(first.want, "1.0.0") })
	s.until(p.calm, nil)
	s.compare()

	s.cut(s.far, "the original is killed")
	s.until(p.calm, nil)

	s.rollOut(p)
	s.until(p.calm, nil)

	if p.donor {
		s.loseDonor(p)
	} else {
		s.loseCopies(p)
	}
	s.until(3*time.Second, nil) // those that are late
	calls := s.load.end()
	s.show(time.Now())
	e, err := gather(s.all)
	if err != nil {
		s.t.Fatal(err)
	}
	s.report(calls, e, direct)
}

func (s *scenario) await(p pace, what string, ok func() bool) {
	if !s.until(p.patience, ok) {
		report := s.t.Errorf
		if p.donor && s.load.busy() {
			report = s.t.Logf // all that is hosted has the part of one process: on a busy machine it is far from quick, and avoided
		}
		report("not yet after %v: %s", p.patience, what)
		what = "NOT " + what
	}
	s.say("%s", what)
}

func (s *scenario) cut(m *machine, what string) {
	pids, _ := m.Processes() // for people
	s.cuts = append(s.cuts, cut{m.name, m.powerCut()})
	s.say("%s: kill -9 of %d processes on %s", what, len(pids), m.name)
}

// rollOut has the owner publish version 2 from another machine, and the callers move to it.
func (s *scenario) rollOut(p pace) {
	s.second.Start()
	s.v2 = s.second.Publish()
	if s.v2.IPNS != s.v1.IPNS {
		s.t.Fatalf("version 2 has the name %s, version 1 %s", s.v2.IPNS, s.v1.IPNS)
	}
	s.say("far2 publishes version %s as %s", s.v2.Version, s.v2.CID)
	if !p.byName {
		s.load.aim.Store(&aim{target: s.v2.CID, want: "2.0.0"})
		s.await(p, "served near by version 2", func() bool { return s.served("2.0.0", "2.0.0") })
		return
	}
	s.load.aim.Store(&aim{target: "witness", versions: map[string]string{"1.0.0": s.v1.CID, "2.0.0": s.v2.CID}})
	s.await(p, "served near by version 2", func() bool { return s.served("2.0.0", "2.0.0") })
	s.await(p, "by its name too", func() bool { return s.served("", "2.0.0") })
	s.load.aim.Store(&aim{target: "witness", versions: map[string]string{"2.0.0": s.v2.CID}})
}

// give has the donor give half of its processors, however busy the others keep them: machines share those.
func (s *scenario) give() {
	s.n.must(s.donor.at, s.donor.at.dir, "give", "--cpu", "50%", "--ram", "20%", "--busy", "100%")
	s.t.Cleanup(func() { // so that no control group is left
		for _, args := range [][]string{{"give", "stop"}, {"stop", filepath.Join(s.donor.at.dir, "home")}} {
			if r := s.n.ctl(s.donor.at, s.donor.at.dir, args...); r.Code != 0 {
				s.t.Logf("cellctl %s: %s", args[0], r.Stderr)
			}
		}
	})
	var status string
	if !s.until(Patience, func() bool {
		status = s.n.must(s.donor.at, s.donor.at.dir, "give", "status", "--json")
		return strings.Contains(status, `"running":true`)
	}) {
		s.t.Fatalf("the donor does not give: %s", status)
	}
}

// loseDonor cuts the power of the donor, and lets it come back.
func (s *scenario) loseDonor(p pace) {
	s.cut(s.donor, "the donor is killed")
	s.until(p.calm, nil)
	s.n.must(s.donor.at, s.donor.at.dir, "start", filepath.Join(s.donor.at.dir, "home"))
	s.say("the donor is back")
	want := ""
	if !p.byName {
		want = "2.0.0"
	}
	s.await(p, "served near again", func() bool { return s.served(want, "2.0.0") })
	s.until(p.calm, nil)
}

// loseCopies kills the nuclei of the copies, which come back with the next call.
func (s *scenario) loseCopies(p pace) {
	for _, c := range s.callers {
		rows, err := os.ReadDir(filepath.Join(c.at.dir, "foreign"))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, row := range rows {
			pid, err := os.ReadFile(filepath.Join(c.at.dir, "foreign", row.Name(), "run", "pid"))
			if err != nil {
				continue // no cell, or it does not run
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
			if err == nil {
				err = syscall.Kill(n, syscall.SIGKILL)
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
		s.cuts = append(s.cuts, cut{c.name, time.Now()})
	}
	s.say("the nuclei of all copies are killed")
	s.until(p.calm, nil)
}

// A copy comes, the original goes, a new version comes, the copies are killed: no call fails, runs twice or
// is answered by another version. scripts/scenario.sh shows all of it, and takes its time.
func TestScenario(t *testing.T) {
	t.Parallel()
	s := newScenario(t, t.Output())
	s.run(pace{calm: 2 * time.Second, patience: 90 * time.Second})
}

// The same with copies at a donor.
func TestScenarioWithDonor(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("what is hosted gets the part of one process of a machine, so that it serves on a quiet one only: set CELL_LONG=1")
	}
	s := newScenario(t, t.Output())
	s.run(pace{calm: 2 * time.Second, patience: 90 * time.Second, donor: true})
}

func TestLongScenario(t *testing.T) {
	if os.Getenv("CELL_SCENARIO") == "" {
		t.Skip("scripts/scenario.sh runs it")
	}
	s := newScenario(t, os.Stdout)
	s.run(pace{calm: 10 * time.Second, patience: 2 * time.Minute, byName: true, donor: true})
}
