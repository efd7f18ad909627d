package celltest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// TestUpgradeIdle replaces the celld of a nucleus of which nobody wants anything.
func TestUpgradeIdle(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	l := c.begin(2, "once")
	l.await(10)
	l.end(false)
	before := c.Status()
	t.Log(c.Must("upgrade"))
	nucleus, program := descriptors(t, c.PID()), descriptors(t, before.ProgramPID)
	for range 3 {
		c.Must("upgrade")
	}
	// None is left over, and a program that is started now inherits none.
	Eventually(t, "the nucleus has no more descriptors than before", func() bool { return descriptors(t, c.PID()) <= nucleus })
	after := c.Status()
	if after.NucleusPID != before.NucleusPID || after.ProgramPID != before.ProgramPID || after.NucleusPID != c.PID() {
		t.Errorf("nucleus %d, program %d became nucleus %d, program %d", before.NucleusPID, before.ProgramPID, after.NucleusPID, after.ProgramPID)
	}
	if after.CelldStarted.Equal(before.CelldStarted) || after.Upgrade == nil || after.Upgrade.Error != "" {
		t.Errorf("it is as before: %+v", after)
	}
	if after.Served != before.Served || after.Starts != 1 || after.Crashes != 0 || after.Addrs[0] != before.Addrs[0] {
		t.Errorf("%+v became %+v", before, after)
	}
	c.Must("swap", "--program", c.nextVersion(1))
	swapped := c.Status().ProgramPID
	if n := descriptors(t, swapped); n > program {
		t.Errorf("the next program has %d descriptors, the first one %d", n, program)
	}
	c.Stop()
	for _, pid := range []int{before.ProgramPID, swapped} {
		if Alive(pid) {
			t.Errorf("process %d was left", pid)
		}
	}
}

// descriptors counts those of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// takeovers gives how long callers were held back at each upgrade, and how many connections were
// carried, as the nucleus's log says.
func (c *Cell) takeovers() (held []time.Duration, callers []int) {
	for line := range strings.Lines(c.Log()) {
		_, fields, ok := strings.Cut(line, "celld was replaced\t")
		var f struct {
			Held    float64 `json:"held"`
			Callers int     `json:"callers"`
		}
		if ok && json.Unmarshal([]byte(fields), &f) == nil {
			held, callers = append(held, time.Duration(f.Held*float64(time.Second))), append(callers, f.Callers)
		}
	}
	return held, callers
}

// TestSwapsAndUpgradesUnderLoad replaces the program, and celld beneath it, under clients half of whom
// the program serves itself, at each of them: no call fails, none is lost, none runs twice. CELL_LONG=1 makes it long.
func TestSwapsAndUpgradesUnderLoad(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	clients, swaps, upgrades := 16, 6, 2
	if os.Getenv("CELL_LONG") != "" {
		clients, swaps, upgrades = 64, 25, 4
	}
	l := c.beginMixed(clients, "once")
	l.await(10 * clients)
	nucleus, pids := c.PID(), []int{c.Status().ProgramPID}
	var swapStalls, upgradeStalls []time.Duration
	upgrade := func() {
		t.Helper()
		c.awaitGranted(clients / 2)
		before := c.Status()
		l.stall()
		c.Must("upgrade")
		l.await(2 * clients)
		upgradeStalls = append(upgradeStalls, l.stall())
		after := c.Status()
		if after.NucleusPID != nucleus || after.ProgramPID != before.ProgramPID || after.CelldStarted.Equal(before.CelldStarted) {
			t.Errorf("%+v became %+v", before, after)
		}
	}
	upgrade() // while half of the clients are the program's own
	for v := range swaps {
		c.awaitGranted(clients / 2)
		pid, stall, _ := l.swap(v, clients)
		pids, swapStalls = append(pids, pid), append(swapStalls, stall)
		if (v+1)*(upgrades-1)/swaps > v*(upgrades-1)/swaps {
			upgrade()
		}
	}
	l.end(false)
	if s := c.Status(); s.Crashes != 0 || s.Starts != uint64(swaps+1) {
		t.Errorf("%d starts, %d crashes", s.Starts, s.Crashes)
	}
	held, carried := c.takeovers()
	if len(held) != upgrades || carried[0] > clients/2+1 {
		t.Errorf("%d upgrades with %v callers carried, of %d clients", len(held), carried, clients)
	}
	t.Logf("%d swaps and %d upgrades under %d clients: longest call around a swap, p50 %v; around an upgrade, p50 %v, most %v; callers were held for %v",
		swaps, upgrades, clients, median(swapStalls), median(upgradeStalls), slices.Max(upgradeStalls), held)
	c.Stop()
	for _, pid := range pids {
		if Alive(pid) {
			t.Errorf("process %d was left", pid)
		}
	}
}

// TestUpgradeUnderRemoteCalls replaces the celld of a cell that another one calls by its CID: connections
// of the network cannot be carried, so its calls are made again.
func TestUpgradeUnderRemoteCalls(t *testing.T) {
	n := New(t)
	n.Bootstrap()
	c := n.tally("[privacy]\nplacement = \"public\"\n")
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	remote := func(ctx context.Context, fn, args, key string) error {
		r, err := (&ctl.Client{Dir: caller.Dir}).Use(ctx, ctl.UseRequest{
			Target: published.CID, Func: fn, Args: json.RawMessage(args), Key: key, Timeout: cellproto.DefaultTimeout,
		}, nil)
		if err == nil {
			err = r.Close()
		}
		return err
	}
	l := c.beginWith("repeat", []client{remote, remote, remote, remote})
	l.await(50)
	before := c.Status()
	for range 3 {
		c.Must("upgrade")
		l.await(50)
	}
	l.end(true)
	if after := c.Status(); after.NucleusPID != before.NucleusPID || after.ProgramPID != before.ProgramPID || after.Addrs[0] != before.Addrs[0] || after.CID != before.CID {
		t.Errorf("%+v became %+v", before, after)
	}
	c.Stop()
}

// badCelld makes a celld that cannot take over, in a directory of its own.
func (n *Net) badCelld(how string) string {
	n.t.Helper()
	dir := n.t.TempDir()
	data, err := os.ReadFile(filepath.Join(Bin(n.t), "badcelld"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "celld"), data, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "how"), []byte(how), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return filepath.Join(dir, "celld")
}

// TestBadUpgrades has files take over that cannot: each is refused, or the celld before goes on, and the
// clients notice nothing.
func TestBadUpgrades(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("")
	c.Start()
	l := c.beginMixed(4, "once")
	l.await(20)
	before := c.Status()
	write := func(name, text string, mode os.FileMode) string {
		c.write(name, text, mode)
		path := filepath.Join(c.Dir, name)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	celld, err := os.ReadFile(filepath.Join(Bin(t), "celld"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := []byte(string(celld))
	foreign[18]++ // e_machine
	for _, bad := range []struct {
		file, says string
	}{
		{filepath.Join(c.Dir, "nothing"), "no such file"},
		{write("text", "#!/bin/sh\nexit 0\n", 0o755), "no program of this system"},
		{write("foreign", string(foreign), 0o755), "another machine"},
		{write("half", string(celld[:len(celld)/2]), 0o755), "it "},
		{write("plain", string(celld), 0o644), "not executable"},
		{write("open", string(celld), 0o757), "everybody can write"},
		{filepath.Join(Bin(t), "calculator"), "handover"},
		{n.badCelld("future"), "format [999]"},
		{n.badCelld("refuses"), "there is something about it"},
		{n.badCelld("babbles"), "no celld that knows of handovers"},
		{n.badCelld("changed"), "was changed after it was checked"},
	} {
		r := c.Ctl("upgrade", "--celld", bad.file)
		if r.Code == 0 || !strings.Contains(r.Stderr, bad.says) {
			t.Errorf("%s: exit code %d, %s", bad.file, r.Code, r.Stderr)
		}
	}
	if now := c.Status(); !now.CelldStarted.Equal(before.CelldStarted) {
		t.Errorf("it was replaced: %+v", now)
	}
	// What would not run the cell is refused too: exec cannot be taken back.
	toml, err := os.ReadFile(filepath.Join(c.Dir, "cell.toml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Edit("", "nonsense = 1\n")
	if r := c.Ctl("upgrade"); r.Code == 0 || !strings.Contains(r.Stderr, "nonsense") {
		t.Errorf("with a bad cell.toml: exit code %d, %s", r.Code, r.Stderr)
	}
	c.write("cell.toml", string(toml), 0o644)
	// One that cannot be executed when it comes to that: the celld before executes itself.
	l.await(20)
	r := c.Ctl("upgrade", "--celld", n.badCelld("unexecutable"))
	if r.Code != 1 || !strings.Contains(r.Stderr, "cannot be executed: execve: permission denied") {
		t.Errorf("exit code %d, %s", r.Code, r.Stderr)
	}
	l.await(20)
	after := c.Status()
	if after.NucleusPID != before.NucleusPID || after.ProgramPID != before.ProgramPID || after.CelldStarted.Equal(before.CelldStarted) || after.Upgrade == nil || after.Upgrade.Error == "" {
		t.Errorf("%+v became %+v", before, after)
	}
	c.Must("upgrade") // and another one goes well
	l.await(20)
	l.end(false)
	if s := c.Status(); s.Upgrade.Error != "" || s.Starts != 1 {
		t.Errorf("%+v", s)
	}
	c.Stop()
}

// TestUpgradeDies: when the celld that has taken over dies, the nucleus has crashed, and its program ends
// with it. The next one starts as after any crash.
func TestUpgradeDies(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("")
	c.Start()
	l := c.begin(1, "once")
	l.await(5)
	l.end(false)
	program := c.Status().ProgramPID
	r := c.Ctl("upgrade", "--celld", n.badCelld("dies"))
	if r.Code == 0 {
		t.Errorf("exit code 0, %s", r.Stdout)
	}
	t.Log(r.Stderr)
	<-c.proc.ended
	if code := c.proc.cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
	c.proc = nil
	Eventually(t, "the program ends", func() bool { return !Alive(program) })
	c.Start()
	l = c.begin(1, "repeat")
	l.await(5)
	l.end(false)
	c.Stop()
}

// TestUpgradeBusy: a call that takes its time is not cut by an upgrade, unless that is asked for.
func TestUpgradeBusy(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	before := c.Status()
	long := c.raw()
	result := make(chan error, 1)
	go func() { result <- long(context.Background(), "slow", `{"key":"long-1","ms":20000}`, "long-1") }()
	Eventually(t, "the call is in flight", func() bool { return c.Status().InFlight > 0 })
	l := c.beginMixed(4, "once")
	l.await(20)
	r := c.Ctl("upgrade")
	if r.Code != 5 || !strings.Contains(r.Stderr, "1 calls of callers here are in flight for longer than 1s") || !strings.Contains(r.Stderr, "--cut") {
		t.Errorf("exit code %d, %s", r.Code, r.Stderr)
	}
	l.await(20)
	l.end(false)
	select {
	case err := <-result:
		t.Fatalf("the long call: %v", err)
	default:
	}
	c.Must("upgrade", "--cut")
	if err := <-result; cellproto.KindOf(err) != cellproto.MayHaveRun {
		t.Errorf("a call that was cut: %v", err)
	}
	l = c.beginMixed(4, "repeat")
	l.await(20)
	l.end(true)
	if after := c.Status(); after.NucleusPID != before.NucleusPID || after.CelldStarted.Equal(before.CelldStarted) {
		t.Errorf("%+v became %+v", before, after)
	}
	c.Stop()
}
