package celltest

import (
	"context"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// dialHandoff is dial for a caller that takes its connection being handed over.
func (c *Cell) dialHandoff() *cellproto.Conn {
	c.t.Helper()
	sock, err := ctl.Dial(context.Background(), c.Dir, ctl.CellSocket)
	if err != nil {
		c.t.Fatal(err)
	}
	conn, err := cellproto.NewConn(sock, cellproto.Config{Opener: true, Hello: cellproto.Hello{Capabilities: []string{cellproto.CapHandoff}}})
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = conn.Run() }()
	c.t.Cleanup(func() { conn.Close(); <-done })
	return conn
}

// TestGrantedAgainAfterASwap: a caller that came back while a new program was on trial is relayed, but
// not for ever.
func TestGrantedAgainAfterASwap(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("")
	c.Start()
	conn := c.dialHandoff()
	agent := func() string {
		if conn.Leaving() {
			conn = c.dialHandoff()
		}
		h, err := conn.PeerHello(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h.Agent
	}
	if got := agent(); got != "celld-go-sdk" {
		t.Skipf("connections are not handed over here: %s answers", got)
	}
	c.Must("swap", "--program", c.nextVersion(2))
	Eventually(t, "the caller is told to come back", conn.Leaving)
	t.Logf("after the swap: %s", agent())
	Eventually(t, "the program answers", func() bool { return agent() == "celld-go-sdk" })
}
