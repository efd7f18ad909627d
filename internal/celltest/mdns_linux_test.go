package celltest

import (
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/celltest/netdelay"
)

// Two machines on a LAN, of which nobody knows an address, find each other by multicast: the cell is called by its CID.
// One that has no way to them finds nobody.
func TestMulticast(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.env = append(n.env, cellproto.EnvMDNS+"=on")
	net := machines(t)
	here, there, away := n.machine(net, "here", "11.40.0.1"), n.machine(net, "there", "11.40.0.2"), n.machine(net, "away", "11.50.0.1")
	net.Connect(here.Machine, there.Machine, netdelay.Path{Delay: 200 * time.Microsecond})

	example := n.Example("calculator")
	provider := n.At("here/calculator")
	provider.on = here.at
	here.has = append(here.has, provider)
	provider.copyFile(example.Dir+"/cell.toml", "cell.toml", 0o644)
	provider.copyFile(example.Dir+"/bin/calculator", "bin/calculator", 0o755)
	provider.Start()
	published := provider.Publish()

	caller := there.cell("caller", "[cell]\nname = \"caller\"\n")
	caller.Start()
	Eventually(t, "the provider is found on the LAN", func() bool {
		r := caller.Ctl("find", published.CID)
		return r.Code == 0 && strings.HasPrefix(r.Stdout, provider.Status().PeerID+"  mdns ")
	})
	if got := caller.Must("use", published.CID, "add", "3", "4"); got != "7" {
		t.Errorf("add 3 4 is %s", got)
	}
	const unknown = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	if r := caller.Ctl("find", unknown); r.Code != 3 || r.Stdout != "" {
		t.Errorf("find of what nobody has: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	stranger := away.cell("stranger", "[cell]\nname = \"stranger\"\n")
	stranger.Start()
	if r := stranger.Ctl("find", published.CID, "--timeout", "3s"); r.Code != 3 {
		t.Errorf("from elsewhere: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
