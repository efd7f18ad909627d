package celltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// offerOf makes an offer of what a cell has published.
func (c *Cell) offerOf(id string) offer.Offer {
	c.t.Helper()
	block, err := os.ReadFile(filepath.Join(c.Dir, "published", id+".cbor"))
	if err != nil {
		c.t.Fatal(err)
	}
	info, err := peer.AddrInfoFromString(c.Status().Addrs[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return offer.Offer{Cell: cid.MustParse(id), Block: block, Providers: []peer.AddrInfo{*info}}
}

// A cell that has no program for a donor's machine is refused there, with the reason, unless its owner has asked for
// building from source: then it is built, and serves those who know it by its manifest.
func TestDonorBuildsFromSource(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*signed.Manifest){
		"a program for others": func(*signed.Manifest) {},
		"no program":           func(m *signed.Manifest) { m.Artefacts = nil },
	} {
		t.Run(name, func(t *testing.T) {
			n := New(t)
			n.Bootstrap()
			r := n.Repository("greet")
			r.Edit("cell.toml", "cp greet.sh", "sed s/Hello,.*!/built/ greet.sh >")
			r.Commit()
			a, id := n.sourceOnly(r)
			id = a.Republish(ctl.Published{CID: id}, edit)
			o := a.offerOf(id)
			refusing, building := n.donor(), n.donor("--build-from-source")
			refusal := newStranger(t).ask(t, refusing, o).Refusal
			if refusal == nil || refusal.Kind != cellproto.Denied || !strings.Contains(refusal.Error(), "does not build from source") {
				t.Errorf("unasked it is: %v", refusal)
			}
			talk := newStranger(t).ask(t, building, o)
			if talk.Refusal != nil {
				t.Fatalf("refused: %v", talk.Refusal)
			}
			var steps []string
			info, err := talk.Take(t.Context(), func(step string) { steps = append(steps, step) })
			if err != nil {
				t.Fatalf("%v, after %q", err, steps)
			}
			if !strings.Contains(strings.Join(steps, "; "), "building it in a sandbox") {
				t.Errorf("it was told %q", steps)
			}
			row := building.hosted(1, ctl.Running)[0]
			if row.CID != id || building.mirrors(t, 1)[0].Source != "file://"+r.dir+"@"+r.git("rev-parse", "HEAD") {
				t.Errorf("%+v", row)
			}
			a.Kill()
			caller := n.Machine().Headless("caller")
			caller.Start()
			caller.AwaitProviders(id, 1)
			reply, meta, err := caller.Use(t.Context(), id, "greet", "Ann")
			if err != nil || string(reply) != `"built"` || meta.Provider != info.ID.String() {
				t.Errorf("it says %s at %s: %v", reply, meta.Provider, err)
			}
			refusing.hosted(0, "")
		})
	}
}

// A build for others is within the bounds of all that is hosted, and ends when the owner comes back.
func TestDonorStopsBuilding(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	r := n.Repository("greet")
	r.Edit("cell.toml", "mkdir -p bin", "sleep 3218 ; mkdir -p bin")
	r.Commit()
	a, id := n.sourceOnly(r)
	donor := n.donor("--build-from-source")
	talk := newStranger(t).ask(t, donor, a.offerOf(id))
	if talk.Refusal != nil {
		t.Fatalf("refused: %v", talk.Refusal)
	}
	taken := make(chan error, 1)
	go func() {
		_, err := talk.Take(t.Context(), func(string) {})
		taken <- err
	}()
	sleeping := func() string {
		out, _ := exec.Command("pgrep", "-f", "^sleep 3218").Output()
		return strings.TrimSpace(string(out))
	}
	Eventually(t, "it is being built", func() bool { return sleeping() != "" })
	if by := donor.giving("give", "status").LimitBy; strings.HasPrefix(by, "cgroup") {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%s/cgroup", sleeping()))
		if err != nil || !strings.Contains(string(text), "cellgive-") {
			t.Errorf("it is not in the group (%s): %v\n%s", by, err, text)
		}
	}
	donor.giving("give", "--schedule", "mon 00:00-00:01,tue 00:00-00:01")
	Eventually(t, "the build has ended", func() bool { return sleeping() == "" })
	if err := <-taken; cellproto.KindOf(err) != cellproto.Overloaded || cellproto.RetryAfterOf(err) == 0 {
		t.Errorf("who waited for it is told: %v", err)
	}
	donor.hosted(0, "")
}
