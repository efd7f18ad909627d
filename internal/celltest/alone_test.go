package celltest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
)

// A caller gets a copy of whatever is too slow for it, but not of a cell whose owner wants none, that calls others, or that
// keeps state: they answer as before. No donor takes them either.
func TestNotCopiedUnasked(t *testing.T) {
	t.Parallel()
	n := New(t)
	own, kept := n.Example("calculator"), n.Example("guestbook")
	own.Edit("[slo]", "[slo]\nclone_on_violation = false")
	asks := n.cell("asks")
	rel, err := filepath.Rel(asks.Dir, own.Dir)
	if err != nil {
		t.Fatal(err)
	}
	asks.copyFile(filepath.Join(Bin(t), "asks"), "bin/asks", 0o755)
	asks.write("cell.toml", "[cell]\nname = \"asks\"\nbinary = \"bin/asks\"\nstate = \"none\"\n[auth]\nchallenge = \"none\"\n[deps]\nlib = \""+rel+"\"\n", 0o644)
	_, copied := n.provide("calculator")
	caller := n.Headless("caller")
	caller.write(".cell-cache/slo.json", `{"max_p99_ms": 0, "min_bandwidth_mbps": 1000000, "clone_on_violation": true}`, 0o600)
	caller.Start()
	donor := n.donor()
	var alone []string // CIDs
	for _, c := range []struct {
		cell *Cell
		says string
	}{{own, "its owner wants no copies"}, {asks, "it calls other cells"}, {kept, "it keeps state"}} {
		c.cell.Start()
		published := c.cell.Publish()
		alone = append(alone, published.CID)
		caller.AwaitProviders(published.CID, 1)
		if talk := newStranger(t).ask(t, donor, c.cell.offerOf(published.CID)); talk.Refusal == nil || !strings.Contains(talk.Refusal.Error(), c.says) {
			t.Errorf("%s is offered to a donor: %v", published.Name, talk.Refusal)
		}
	}
	caller.AwaitProviders(copied.CID, 1)
	visits := 0
	Eventually(t, "what may be is copied", func() bool {
		if reply, meta, err := caller.Use(t.Context(), alone[0], "add", "3", "4"); err != nil || string(reply) != "7" || meta.Source == "mirror" {
			t.Fatalf("%s by %s: %v", reply, meta.Source, err)
		}
		if _, meta, err := caller.Use(t.Context(), alone[1], "ask", "Ann"); meta.Source == "mirror" {
			t.Fatalf("it asks a copy: %v", err)
		}
		if visits++; caller.visit(alone[2]) != visits {
			t.Fatal("the book has been copied")
		}
		for _, cid := range alone { // as often as it may miss, and more
			if _, err := (&ctl.Client{Dir: caller.Dir}).Race(t.Context(), cid); err != nil {
				t.Fatal(err)
			}
		}
		_, meta, err := caller.Use(t.Context(), copied.CID, "add", "3", "4")
		if err != nil {
			t.Fatal(err)
		}
		return meta.Source == "mirror" && races(t, caller, alone) > 2*mirror.MissesToPlace
	})
	if rows := donor.hosted(1, ctl.Running); rows[0].CID != copied.CID {
		t.Errorf("%+v is hosted", rows)
	}
	n.mirrors(t, 0)
}

// races is how often the cells were raced, the least of them.
func races(t *testing.T, caller *Cell, cids []string) int {
	least := -1
	for _, cid := range cids {
		log, err := os.ReadFile(filepath.Join(caller.Dir, ".cell-cache", cid, "race.log"))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(log), "\n"); least < 0 || n < least {
			least = n
		}
	}
	return least
}
