package celltest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A provider that is remembered as slow, and is well, has its place back, and again after it was killed. What is
// remembered of both is so slow that no busy machine is slower; and the other one is slow in truth: else it would pass a
// trial as well, and be preferred for a while as the one of two equals that has not failed.
func TestSlowProviderComesBack(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	steady := n.tally("")
	steady.Start()
	target := steady.Publish().CID
	well := n.Copy(steady)
	well.Start()
	steady.write("data/lag", "2000", 0o644)
	book, then := race.NewReputation(), time.Now().Add(-time.Minute)
	for c, took := range map[*Cell]time.Duration{steady: 20 * time.Second, well: time.Minute} {
		for range 20 {
			book.Succeeded(then, cellproto.PeerID(c.Status().PeerID), took)
		}
	}
	remembered, err := json.Marshal(book)
	if err != nil {
		t.Fatal(err)
	}
	caller := n.Headless("caller")
	caller.Edit("", "[caller]\nspot_check = 0\n")
	caller.write(".cell-cache/reputation.json", string(remembered), 0o600)
	caller.Start()
	caller.AwaitProviders(target, 2)
	by := func() string {
		t.Helper()
		_, meta, err := caller.Use(t.Context(), target, "lag")
		if err != nil {
			t.Fatal(err)
		}
		return meta.Provider
	}
	id := well.Status().PeerID
	serves := func() bool { // and not just on trial, nor asked since the other one was slow
		for range 20 {
			if by() != id {
				return false
			}
		}
		return true
	}
	Eventually(t, "it serves again", serves)
	well.Kill()
	if by() == id {
		t.Error("it answers although it was killed")
	}
	well.Start()
	Eventually(t, "it serves again after it was killed", func() bool {
		caller.Must("race", target) // else there is none for half a minute
		return serves()
	})
}
