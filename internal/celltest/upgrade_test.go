package celltest

import (
	"testing"
)

// TestUpgradeIdle replaces the celld of a nucleus of which nobody wants anything.
func TestUpgradeIdle(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	conn := c.dial()
	l := c.begin(2, "once")
	l.await(10)
	l.end(false)
	before := c.Status()
	out := c.Must("upgrade")
	t.Log(out)
	after := c.Status()
	if after.NucleusPID != before.NucleusPID || after.ProgramPID != before.ProgramPID || after.NucleusPID != c.PID() {
		t.Errorf("nucleus %d, program %d became nucleus %d, program %d", before.NucleusPID, before.ProgramPID, after.NucleusPID, after.ProgramPID)
	}
	if after.CelldStarted.Equal(before.CelldStarted) || after.Upgrade == nil || after.Upgrade.Error != "" {
		t.Errorf("it is as before: %+v", after)
	}
	if after.Served != before.Served || after.Starts != 1 || after.Crashes != 0 || len(after.Addrs) != len(before.Addrs) || after.Addrs[0] != before.Addrs[0] {
		t.Errorf("%+v became %+v", before, after)
	}
	_ = conn
	t.Log(c.Log())
	c.Stop()
}
