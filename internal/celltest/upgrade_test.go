package celltest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
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
	c.Stop()
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
// the program serves itself: no call fails, none is lost, none runs twice. CELL_LONG=1 makes it long.
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
	client := &ctl.Client{Dir: c.Dir}
	nucleus, pids := c.PID(), []int{c.Status().ProgramPID}
	var swapStalls, upgradeStalls []time.Duration
	upgrade := func() {
		t.Helper()
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
		file := c.nextVersion(v)
		l.stall()
		if v%2 == 0 {
			if _, err := client.Swap(t.Context(), file, false, false); err != nil {
				t.Fatalf("swap %d: %v", v, err)
			}
		} else if err := os.Rename(file, filepath.Join(c.Dir, "bin", "tally")); err != nil {
			t.Fatal(err)
		}
		Eventually(t, "the new program serves", func() bool { return c.Status().ProgramPID != pids[len(pids)-1] })
		l.await(2 * clients)
		swapStalls = append(swapStalls, l.stall())
		pids = append(pids, c.Status().ProgramPID)
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
		swaps, upgrades, clients, median(swapStalls), median(upgradeStalls), upgradeStalls[len(upgradeStalls)-1], held)
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
