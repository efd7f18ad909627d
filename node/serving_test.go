package node

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// fakeProgram is a program whose hello names a schema, and that gives one when it is asked.
func fakeProgram(t *testing.T, named, given []byte) *cellproto.Conn {
	t.Helper()
	a, b := net.Pipe()
	near, err := cellproto.NewConn(a, cellproto.Config{Opener: true})
	if err != nil {
		t.Fatal(err)
	}
	far, err := cellproto.NewConn(b, cellproto.Config{
		Hello: cellproto.Hello{Schema: named},
		Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
			_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: given})
			c.FlushLater(c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	for _, c := range []*cellproto.Conn{near, far} {
		go func() { _ = c.Run(); done <- struct{}{} }()
	}
	t.Cleanup(func() { near.Close(); far.Close(); <-done; <-done })
	return near
}

// A program says in its hello which schema it has: it has to be the one that it gives.
func TestSchemaOf(t *testing.T) {
	schema := &cellproto.Schema{Cell: "c", Functions: map[string]cellproto.Function{"f": {}}}
	other := &cellproto.Schema{Cell: "c", Functions: map[string]cellproto.Function{"g": {}}}
	hash := schema.Hash()
	for name, c := range map[string]struct {
		named, given []byte
		kind         cellproto.Kind
		has          bool
	}{
		"right":    {hash[:], schema.Canonical(), 0, true},
		"none":     {nil, nil, 0, false},
		"another":  {hash[:], other.Canonical(), cellproto.Incompatible, false},
		"nonsense": {hash[:], []byte("{"), cellproto.BadInput, false},
		"too long": {hash[:], []byte(strings.Repeat(" ", cellproto.MaxArgs)), cellproto.BadInput, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		got, err := (&nucleus{}).schemaOf(ctx, fakeProgram(t, c.named, c.given))
		cancel()
		if cellproto.KindOf(err) != c.kind || (got != nil) != c.has {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
