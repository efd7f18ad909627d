package call

import (
	"context"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// A cell at rest sends its callers away, lets their calls end for as long as there is time, and cuts the others:
// whoever may repeat them does so elsewhere.
func TestRest(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	h, _ := newHost(t)
	idle := dial(t, h, p)
	release := hold(p)
	defer release()
	busy := dial(t, h, p)
	answered := make(chan error, 1)
	go func() {
		_, err := ask(t, busy, request("echo", "x"))
		answered <- err
	}()
	eventually(t, "the call is in flight", func() bool { return p.server.Load().InFlight == 1 })
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if cut := p.server.Rest(short); cut != 1 {
		t.Errorf("%d calls were cut", cut)
	}
	if err := <-answered; cellproto.KindOf(err) != cellproto.MayHaveRun {
		t.Errorf("the call that was cut ends with %v", err)
	}
	<-idle.Done()
	if _, err := ask(t, dial(t, h, p), request("echo", "x")); err == nil {
		t.Error("a peer was let in")
	}
	release()
	p.server.Welcome()
	if _, err := ask(t, dial(t, h, p), request("echo", "x")); err != nil {
		t.Error(err)
	}
	if cut := p.server.Rest(t.Context()); cut != 0 {
		t.Errorf("%d calls were cut that there are not", cut)
	}
}

// A copy that was just made is called though the network does not know it, and the calls go on meanwhile.
func TestSuggest(t *testing.T) {
	cell := publish(t, testSchema())
	b := &book{}
	far := provide(t, cell, nil)
	b.add(far.host)
	c := use(t, cell, b, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Policy = race.Policy{Keep: time.Hour} })
	call(t, c, cell, "echo")
	far.program.handle = func(in *cellproto.Inbound) { time.Sleep(20 * time.Millisecond); answer(in) }
	for range 20 { // its claim is what it was, but it is seen to be slow
		call(t, c, cell, "echo")
	}
	near := provide(t, cell, nil)
	c.Suggest(cell.id, infoOf(near.host), "mirror")
	eventually(t, "the copy answers", func() bool {
		res := call(t, c, cell, "echo")
		return res.Provider == near.host.ID().String() && res.Source == "mirror"
	})
	far.server.Close(t.Context())
	if res := call(t, c, cell, "echo"); res.Provider != near.host.ID().String() {
		t.Errorf("%+v", res)
	}
}
