package celltest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/celltest/netdelay"
	"github.com/celldnet/celld/internal/ctl"
)

// A crowd that says the same lie from one network is one vote: machines with addresses of their own, three of them honest in
// three networks, four lying in one /24. However often a quorum is drawn, it gives what the honest say; all who lied are
// named; and a quorum of more networks than there are is refused.
func TestQuorumOfNetworks(t *testing.T) {
	n, net := New(t), machines(t)
	var all []*machine
	add := func(name, addr string) *machine {
		m := n.machine(net, name, addr)
		for _, other := range all {
			net.Connect(m.Machine, other.Machine, netdelay.Path{})
		}
		all = append(all, m)
		return m
	}
	static := []string{}
	var first *Cell
	var published ctl.Published
	for i := range 3 {
		c := add(fmt.Sprint("honest-", i), fmt.Sprintf("11.20.%d.1", i)).cell("calculator", "")
		source := filepath.Join(moduleRoot, "examples", "calculator", "cell.toml")
		c.copyFile(source, "cell.toml", 0o644)
		c.copyFile(filepath.Join(Bin(t), "calculator"), "bin/calculator", 0o755)
		if first != nil {
			for _, name := range []string{"keys/name.key", "published"} {
				copyTree(t, filepath.Join(first.Dir, name), filepath.Join(c.Dir, name))
			}
		}
		c.Start()
		if first == nil {
			first, published = c, c.Publish()
		}
		static = append(static, fmt.Sprintf("%q", c.Status().Addrs[0]))
	}
	var liars []string
	for i := range 4 {
		addr := fmt.Sprintf("11.30.0.%d", i+1)
		m := add(fmt.Sprint("liar-", i), netip.MustParseAddr(addr).String())
		l := newLiarAt(t, addr, m.Do, cid.MustParse(published.CID), schemaOf(t, first))
		l.request = func(s network.Stream, f *cellproto.Frame) { send(s, reply(f, f.ID)) }
		static = append(static, fmt.Sprintf("%q", l.host.Addrs()[0].String()+"/p2p/"+l.host.ID().String()))
		liars = append(liars, l.host.ID().String())
	}
	caller := add("caller", "11.40.0.1").cell("caller", "[cell]\nname = \"caller\"\n[caller]\nspot_check = 0\n[network]\nstatic = ["+strings.Join(static, ", ")+"]\n")
	caller.Start()
	if r := caller.Ctl("use", "--quorum", "5of7", published.CID, "add", "3", "4"); r.Code != 5 || !strings.Contains(r.Stderr, "in 4 networks only") {
		t.Errorf("five of seven: exit code %d\n%s", r.Code, r.Stderr)
	}
	caught := map[string]bool{}
	for range 10 {
		var got struct {
			Reply  json.Number
			Quorum ctl.Quorum
		}
		if err := json.Unmarshal([]byte(caller.Must("use", "--quorum", "2of3", published.CID, "add", "3", "4", "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if q := got.Quorum; got.Reply != "7" || q.Agreed < 2 {
			t.Fatalf("%+v", got)
		}
		for _, l := range got.Quorum.Liars {
			if caught[l] = true; !slices.Contains(liars, l) {
				t.Errorf("%s is called a liar", l)
			}
		}
	}
	if len(caught) == 0 {
		t.Error("no liar was caught")
	}
}
