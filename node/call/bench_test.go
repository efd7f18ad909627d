package call

import (
	"context"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// BenchmarkCall compares a call by CID with the same frames: what is between is what the client half costs.
// The figure that counts on a busy machine is cpu-ns/op, which has both ends in it.
func BenchmarkCall(b *testing.B) {
	cell := publish(b, testSchema())
	provider := provide(b, cell, nil)
	known := &book{}
	known.add(provider.host)
	c := use(b, cell, known, nil)
	call(b, c, cell, "echo")
	lk := echoLink(b, c, linkKey{peerText(provider.host), cell.id.String(), ""})
	payload, target := make([]byte, 200), cell.id.String()
	request := func() *cellproto.Request {
		return &cellproto.Request{Header: cellproto.Header{Func: "echo"}, Payload: payload}
	}
	for _, way := range []struct {
		name string
		call func() error
	}{
		{"frames", func() error {
			_, err := lk.conn.Call(context.Background(), request())
			return err
		}},
		{"cid", func() error {
			_, err := c.Call(context.Background(), target, request())
			return err
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			begin := cpuTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := way.call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(cpuTime(b)-begin)/float64(b.N), "cpu-ns/op")
		})
	}
}

// echoLink puts a link to an echo in this process in the place of that to a provider.
func echoLink(b *testing.B, c *Caller, key linkKey) *link {
	b.Helper()
	near, far := unixPair(b)
	echo, err := cellproto.NewConn(far, cellproto.Config{
		Hello: cellproto.Hello{Functions: []string{"echo"}},
		Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
			_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: f.Payload}) // else the call fails
			c.FlushLater(c)
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- echo.Run() }()
	b.Cleanup(func() { echo.Close(); <-done })
	lk, err := c.links.start(near, key, "", 0)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := lk.greeted(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	old := c.links.made[key].link
	lk.remote, lk.meter, lk.use = old.remote, old.meter, old.use
	c.links.made[key] = &dialing{ready: closedChan(), link: lk}
	return lk
}

func closedChan() chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}
