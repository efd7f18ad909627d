package celltest

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// Others need the donor's machine: callers move without a failed call, also of a function that must not be repeated, and
// the program stands. Status says why.
func TestDonorPausesForLoad(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("guestbook", func(c *Cell) { c.Edit(`state = "kept"`, `state = "none"`) })
	donor := n.donor()
	talk := newStranger(t).ask(t, donor, provider.offerOf(published.CID))
	if talk.Refusal != nil {
		t.Fatal(talk.Refusal)
	}
	if _, err := talk.Take(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	id := mirror.Status().PeerID
	caller := n.Machine().Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 2)

	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var last atomic.Pointer[string]
	var calls atomic.Int64
	work.Go(func() {
		for ctx.Err() == nil {
			_, meta, err := caller.Use(context.Background(), published.CID, "visit")
			if err != nil && calls.Load() > 0 { // before that it may still be looking for both
				t.Errorf("call %d failed: %v", calls.Load(), err)
			}
			if err == nil {
				calls.Add(1)
				last.Store(&meta.Provider)
			}
		}
	})
	defer func() { cancel(); work.Wait() }()
	from := func(id string) func() bool {
		return func() bool { p := last.Load(); return p != nil && *p == id }
	}
	provider.Stop() // so that the copy has the calls
	Eventually(t, "the copy answers", from(id))
	program := mirror.Status().ProgramPID
	provider.Start()
	Eventually(t, "the original is back", func() bool {
		return strings.Contains(caller.Must("race", published.CID, "--json"), provider.Status().PeerID)
	})
	if g := donor.giving("give", "--busy", "0.1%"); g.Running || !strings.Contains(g.Why, "others use") {
		t.Errorf("running %v, because %q", g.Running, g.Why)
	}
	Eventually(t, "its program stands", func() bool { return standing(program) })
	donor.hosted(1, "paused")
	Eventually(t, "the original answers", from(provider.Status().PeerID))
	if text := donor.Must(donor.root, "give", "status"); !strings.Contains(text, "on, paused") {
		t.Errorf("status says\n%s", text)
	}
	cancel()
	work.Wait()
	t.Logf("%d calls", calls.Load())
}
