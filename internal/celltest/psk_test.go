package celltest

import (
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// A network with a pre-shared key is one for those who have it. That it has no QUIC is no fault of the cell's.
func TestPreSharedKey(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.env = append(n.env, cellproto.EnvListen+"=/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0") // both, as by default
	private := func(c *Cell, psk string) *Cell {
		c.write("keys/lab.psk", strings.Repeat(psk, 64)+"\n", 0o600)
		c.Edit("", "\n[network]\npsk = \"keys/lab.psk\"\nname = \"lab\"\n")
		c.Start()
		return c
	}
	router := private(n.Headless("router"), "a")
	n.bootstrap = append(n.bootstrap, router.Status().Addrs...)
	c := private(n.Example("calculator"), "a")
	published := c.Publish()
	if r := c.Ctl("doctor"); strings.Contains(r.Stdout, "WRONG  listening") || !strings.Contains(r.Stdout, "not on QUIC") {
		t.Errorf("doctor: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	member := private(n.Headless("member"), "a")
	member.AwaitProviders(published.CID, 1)
	if got := member.Must("use", published.CID, "add", "3", "4"); got != "7" {
		t.Errorf("add 3 4 is %s", got)
	}
	other := private(n.Headless("other"), "b")
	stranger := n.Headless("stranger")
	stranger.Start()
	for _, outside := range []*Cell{other, stranger} {
		r := outside.Ctl("use", published.CID, "add", "3", "4", "--timeout", "3s")
		if r.Code != 3 || !strings.Contains(r.Stderr, "(0 of 1 bootstrap peers connected)") {
			t.Errorf("from outside: exit code %d, want 3 and nobody reached\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		addr := outside.Ctl("use", published.CID, "add", "3", "4", "--timeout", "3s")
		if addr.Code == 0 {
			t.Errorf("%s is a member\n%s", outside.Dir, addr.Stdout)
		}
	}
}
