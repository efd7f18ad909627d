package celltest

import (
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// A nucleus that hangs costs those beside it nothing: their leases are renewed meanwhile.
func TestHungMirrorHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, first := n.provide("calculator")
	b := n.Machine().Example("calculator")
	b.Edit(`version = "1.0.0"`, `version = "1.0.1"`)
	b.Start()
	second := b.Publish()
	donor := n.donor()
	caller := n.wanting("caller")
	for _, cell := range []string{first.CID, second.CID} {
		_, stop := caller.load(cell)
		Eventually(t, "a donor has a copy", func() bool { return caller.placement(cell).State == ctl.PlacementThere })
		stop()
	}
	rows := donor.hosted(2, ctl.Running)
	hung, beside := donor.At(rows[0].Dir).Status().NucleusPID, donor.At(rows[1].Dir)
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(hung, syscall.SIGCONT) })
	for until := time.Now().Add(25 * time.Second); time.Now().Before(until); { // longer than a lease, and than any one is waited for
		if reply, _, err := beside.Use(t.Context(), "", "add", "3", "4"); err != nil || string(reply) != "7" {
			t.Fatalf("the one beside it answers %s, %v", reply, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
