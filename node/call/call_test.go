package call

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

func TestCallFirstAndSecond(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)

	res := call(t, c, cell, "echo")
	if !res.Raced || res.Cached || res.Source != "dht" {
		t.Errorf("first call: %+v", res)
	}
	if string(res.Reply.Payload) != `{"text":"hello"}` {
		t.Errorf("reply %s", res.Reply.Payload)
	}
	res = call(t, c, cell, "echo")
	if res.Raced || !res.Cached {
		t.Errorf("second call: %+v", res)
	}
	if _, err := try(t, c, cell.id.String(), request("fail", "x")); cellproto.KindOf(err) != cellproto.FuncError {
		t.Errorf("a failing function gives %v", err)
	}
	if _, err := try(t, c, cell.id.String(), request("none", "x")); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("an unknown function gives %v", err)
	}
}

// A pure function's large reply comes whole, though another provider stands by to be asked instead.
func TestCallLargeReplies(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	for range 3 {
		if res := call(t, c, cell, "big"); len(res.Reply.Payload) != 1_000_000 {
			t.Fatalf("%d bytes", len(res.Reply.Payload))
		}
	}
	req := request("sum", "x")
	req.Body = strings.NewReader(strings.Repeat("x", 3<<20))
	res, err := try(t, c, cell.id.String(), req)
	if err != nil || string(res.Reply.Payload) != "3145728" {
		t.Fatalf("%v, %v", res, err)
	}
}

func TestCallFailsOver(t *testing.T) {
	for _, fn := range []string{"echo", "count", "once"} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			a, b := provide(t, cell, nil), provide(t, cell, nil)
			peers := &book{}
			peers.add(a.host, b.host)
			c := use(t, cell, peers, nil)
			winner, other := a, b
			if call(t, c, cell, fn).Provider == peerText(b.host) {
				winner, other = b, a
			}
			winner.stop()
			eventually(t, "the link to the winner has ended", func() bool { return c.links.live(cellproto.PeerID(peerText(winner.host)), cell.id.String(), "") == nil })
			if res := call(t, c, cell, fn); res.Provider != peerText(other.host) {
				t.Errorf("%s answered, want the other one", res.Provider)
			}
		})
	}
}

// A provider that has come back at another address is called there, though the caller remembers the
// old one from an earlier run and tries that first.
func TestCallFindsWhoHasMoved(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	old, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		if c, err := old.Accept(); err == nil {
			c.Close() // somebody else has the port now
		}
		old.Close()
	}()
	peers := &gated{gate: tried}
	peers.add(p.host)
	dir := t.TempDir()
	c := use(t, cell, peers, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Dir = dir })
	was := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", old.Addr().(*net.TCPAddr).Port)
	c.cache.write(fmt.Appendf(nil, `{"peer":%q,"providers":[{"peer":%[1]q,"addrs":[%q]}]}`, p.host.ID(), was),
		0o600, cellDirName(cell.id.String()), "winner.json")
	call(t, c, cell, "once")
	c.Close()

	// Nor does it have to be found: who has not moved is called where it was.
	still := use(t, cell, &book{}, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Dir = dir })
	call(t, still, cell, "once")
}

// gated is a book that is opened when gate is closed.
type gated struct {
	book
	gate chan struct{}
}

func (g *gated) Find(ctx context.Context, id cid.Cid) (<-chan Found, func() string) {
	out := make(chan Found)
	go func() {
		defer close(out)
		select {
		case <-g.gate:
		case <-ctx.Done():
			return
		}
		found, _ := g.book.Find(ctx, id)
		for f := range found {
			select {
			case out <- f:
			case <-ctx.Done():
			}
		}
	}()
	return out, func() string { return "" }
}

// What may have run is sent again only if the schema says that it may be.
func TestCallLostWhileItRuns(t *testing.T) {
	for fn, again := range map[string]bool{"echo": true, "count": true, "once": false} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			a, b := provide(t, cell, nil), provide(t, cell, nil)
			peers := &book{}
			peers.add(a.host, b.host)
			c := use(t, cell, peers, nil)
			winner, other := a, b
			if call(t, c, cell, "relay").Provider == peerText(b.host) {
				winner, other = b, a
			}
			winner.program.handle = func(*cellproto.Inbound) { winner.host.Close() }
			res, err := try(t, c, cell.id.String(), request(fn, "hello"))
			if again {
				if err != nil || res.Provider != peerText(other.host) {
					t.Fatalf("%+v, %v", res, err)
				}
				return
			}
			wantKind(t, err, cellproto.MayHaveRun)
			if n := other.program.begun.Load(); n != 0 {
				t.Errorf("the other one ran it %d times", n)
			}
		})
	}
}

// A provider that says that the caller gave up is not believed: the caller knows better.
func TestCallCanceledByTheProvider(t *testing.T) {
	for fn, again := range map[string]bool{"echo": true, "count": true, "once": false} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			a, b := provide(t, cell, nil), provide(t, cell, nil)
			peers := &book{}
			peers.add(a.host, b.host)
			c := use(t, cell, peers, func(cfg *CallerConfig, _ *CallerDeps) {
				cfg.RemoteCells = map[string]string{"a": a.host.Addrs()[0].String() + "/p2p/" + peerText(a.host)}
			})
			winner, other := a, b
			if call(t, c, cell, "relay").Provider == peerText(b.host) {
				winner, other = b, a
			}
			winner.program.handle = func(in *cellproto.Inbound) {
				_ = in.ReplyError(cellproto.Errorf("", cellproto.Canceled, "you gave up"))
			}
			res, err := try(t, c, cell.id.String(), request(fn, "hello"))
			if again {
				if err != nil || res.Provider != peerText(other.host) {
					t.Fatalf("%+v, %v", res, err)
				}
			} else {
				wantKind(t, err, cellproto.MayHaveRun)
			}
			a.program.handle = winner.program.handle
			_, err = try(t, c, "a", request(fn, "hello"))
			wantKind(t, err, cellproto.MayHaveRun)
			// Who does give up gets that, and no more.
			ctx, cancel := context.WithCancel(t.Context())
			other.program.handle = func(in *cellproto.Inbound) { cancel(); silent(in) }
			winner.program.handle = other.program.handle
			_, err = c.Call(ctx, cell.id.String(), request(fn, "hello"))
			wantKind(t, err, cellproto.Canceled)
		})
	}
}

func TestCallKeepsItsIdempotencyKey(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	lose := func(p *provider) func(*cellproto.Inbound) {
		return func(in *cellproto.Inbound) {
			if p.program.begun.Load() == 1 && (a.program.begun.Load() == 0 || b.program.begun.Load() == 0) {
				p.host.Close()
				return
			}
			answer(in)
		}
	}
	a.program.handle, b.program.handle = lose(a), lose(b)
	call(t, c, cell, "count")
	keys := append(a.program.keys, b.program.keys...)
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("keys %q, want the same twice", keys)
	}
}

func TestCallUnknownCID(t *testing.T) {
	cell := publish(t, testSchema())
	for name, hangs := range map[string]bool{"search ends": false, "search goes on": true} {
		t.Run(name, func(t *testing.T) {
			c := use(t, cell, &book{hangs: hangs}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, cell.id.String(), request("echo", "x"))
			wantKind(t, err, cellproto.NotFound)
			if !strings.Contains(err.Error(), "the book was read, and has 0 providers") || cellproto.HintOf(err) == "" {
				t.Errorf("error %q does not say how far it got, or not what to do", err)
			}
		})
	}
}

// Neighbours are asked: those who do not have the cell are none who provide it, nor is one on the LAN that is silent.
// Who has announced it, or was named by the owner, and is silent, may have it.
func TestUnknownCIDBesideNeighbours(t *testing.T) {
	other := publish(t, testSchema())
	lacking := provide(t, other, nil)
	lacking.advert = func(cid.Cid) ([]byte, error) {
		return nil, cellproto.Errorf("advert", cellproto.NotFound, "not here")
	}
	silentHost, _ := newHost(t) // it knows no protocol of ours
	silentHost.SetStreamHandler(cellproto.ProtocolCall, func(network.Stream) {})
	silentHost.SetStreamHandler(cellproto.ProtocolAdvert, func(network.Stream) {})
	schema := testSchema()
	schema.Cell = "unknown"
	cell := publish(t, schema)
	for name, tt := range map[string]struct {
		found []Found
		kind  cellproto.Kind
	}{
		"static and mdns": {[]Found{{infoOf(lacking.host), "static"}, {infoOf(silentHost), "mdns"}}, cellproto.NotFound},
		"dht":             {[]Found{{infoOf(lacking.host), "dht"}}, cellproto.NotFound},
		"silent static":   {[]Found{{infoOf(lacking.host), "mdns"}, {infoOf(silentHost), "static"}}, cellproto.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			c := use(t, other, &book{found: tt.found, hangs: true}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, cell.id.String(), request("echo", "x"))
			wantKind(t, err, tt.kind)
			if !strings.Contains(err.Error(), "the book was read") || !strings.Contains(err.Error(), "1 peer was asked and does not have it") {
				t.Errorf("error %q does not say how far it got", err)
			}
			if tt.found[0].Source == "dht" {
				return
			}
			findCtx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			err = c.Find(findCtx, cell.id.String(), func(f Found) error {
				t.Errorf("%+v is shown", f)
				return nil
			})
			wantKind(t, err, cellproto.NotFound)
		})
	}
}

// Who is nearby, or listed, and has the cell, is shown.
func TestFindNeighbours(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	resting := cellproto.Errorf("advert", cellproto.Overloaded, "the machine is needed")
	b.advert = func(cid.Cid) ([]byte, error) { return nil, resting }
	c := use(t, cell, &book{found: []Found{{infoOf(a.host), "static"}, {infoOf(b.host), "mdns"}}}, nil)
	var got []string
	if err := c.Find(t.Context(), cell.id.String(), func(f Found) error {
		got = append(got, f.Source)
		return nil
	}); err != nil || len(got) != 2 {
		t.Errorf("found %v: %v", got, err)
	}
}

func TestCallNoCell(t *testing.T) {
	c := use(t, publish(t, testSchema()), &book{}, nil)
	for target, kind := range map[string]cellproto.Kind{
		"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy": cellproto.BadInput, // raw
		"no-such-name":   cellproto.NotFound,
		"../nowhere":     cellproto.NotFound,
		"/proc/self":     cellproto.NotFound,
		"a/../../../etc": cellproto.NotFound,
		"nul\x00byte":    cellproto.NotFound,
	} {
		_, err := try(t, c, target, request("echo", "x"))
		if cellproto.KindOf(err) != kind {
			t.Errorf("%q gives %v (%v), want %v", target, err, cellproto.KindOf(err), kind)
		}
	}
}

// Everything that a provider can be behind is a target: names under [deps] and [remote_cells], a
// name of the network, a multiaddr, a socket.
func TestCallByEveryName(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	peers := &book{names: map[string]cid.Cid{"k51name": cell.id}}
	peers.add(p.host)
	socket := serveSocket(t, p)
	c := use(t, cell, peers, func(cfg *CallerConfig, _ *CallerDeps) {
		cfg.Deps = map[string]string{"math": cell.id.String(), "named": "k51name", "far": "echo-cell", "git": "https://example.org/x.git@v1"}
		cfg.RemoteCells = map[string]string{
			"echo-cell": p.host.Addrs()[0].String() + "/p2p/" + peerText(p.host), "beside": socket,
		}
	})
	for _, target := range []string{"math", "named", "far", "echo-cell", "beside", "k51name", cell.id.String()} {
		if _, err := try(t, c, target, request("echo", target)); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	_, err := try(t, c, "git", request("echo", "x"))
	wantKind(t, err, cellproto.Unsupported)
	schema, err := c.Schema(t.Context(), "beside")
	if err != nil || schema.Hash() != cell.schema.Hash() {
		t.Errorf("schema over the socket: %v", err)
	}
}

// serveSocket has a provider answer on a Unix socket too, as its owner, and gives its path.
func serveSocket(t *testing.T, p *provider) string {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.server.Serve(context.Background(), conn, Who{UID: 1, Owner: true})
		}
	}()
	return path
}

// The program's own calls to other cells go through the caller half.
func TestProgramCallsOthers(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, func(cfg *CallerConfig, _ *CallerDeps) { cfg.Deps = map[string]string{"math": cell.id.String()} })
	mine := newFakeProgram(t)
	mine.accept = c.Accept
	if _, err := mine.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(req *cellproto.Request) ([]byte, error) {
		reply, err := mine.far.Call(t.Context(), req)
		if err != nil {
			return nil, err
		}
		return reply.Bytes(4 << 20)
	}
	to := func(fn, target string) *cellproto.Request {
		req := request(fn, "x")
		req.Header.To = target
		return req
	}
	if reply, err := ask(to("echo", "math")); err != nil || string(reply) != `{"text":"x"}` {
		t.Errorf("echo: %s, %v", reply, err)
	}
	if reply, err := ask(to("big", "math")); err != nil || len(reply) != 1_000_000 {
		t.Errorf("big: %d bytes, %v", len(reply), err)
	}
	req := to("sum", "math")
	req.Body = strings.NewReader(strings.Repeat("x", 1<<20))
	if reply, err := ask(req); err != nil || string(reply) != "1048576" {
		t.Errorf("sum: %s, %v", reply, err)
	}
	_, err := ask(to("fail", "math"))
	wantKind(t, err, cellproto.FuncError)
	_, err = ask(request("echo", "x"))
	wantKind(t, err, cellproto.BadInput)
	c.Close()
	_, err = ask(to("echo", "math"))
	wantKind(t, err, cellproto.Unavailable)
}

// A ranking that is too old is not called without a new race; one that is not, is.
func TestPickAfterALongTime(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	call(t, c, cell, "echo")
	r := c.remote(cell.id)
	res := &Result{}
	if _, ok := c.known(r, new(peerSet), res, time.Now()); !ok {
		t.Error("a fresh winner is not used")
	}
	r.mu.Lock()
	old := *r.decision
	old.At = time.Now().Add(-time.Hour)
	r.decision = &old
	r.winner.Take(&race.Decision{Winner: old.Winner, Ranking: old.Ranking, At: old.At})
	r.mu.Unlock()
	if who, ok := c.known(r, new(peerSet), res, time.Now()); ok {
		t.Errorf("%s is called on the word of an old race", who.Peer)
	}
	if res := call(t, c, cell, "echo"); !res.Raced {
		t.Error("no race was held")
	}
}

func TestRemotesAreBounded(t *testing.T) {
	c := use(t, publish(t, testSchema()), &book{}, nil)
	for i := range maxRemotes + 10 {
		c.remote(blockCID(t, cid.DagCBOR, []byte{byte(i), byte(i >> 8)}))
	}
	if n := len(c.remotes); n != maxRemotes {
		t.Errorf("%d cells are remembered, the bound is %d", n, maxRemotes)
	}
}

// The history of a cell is its owner's: a manifest can name any other one as the version before.
func TestHistory(t *testing.T) {
	cell := publish(t, testSchema())
	owner, other := newKeyPair(t), newKeyPair(t)
	seal := func(version string, prev cid.Cid, key crypto.PrivKey) cid.Cid {
		t.Helper()
		m, err := signed.OpenManifest(cell.id, cell.block)
		if err != nil {
			t.Fatal(err)
		}
		m.Owner, m.Version, m.Prev = "", version, signed.Link{Cid: prev}
		block, id, err := signed.SealManifest(*m, key)
		if err != nil {
			t.Fatal(err)
		}
		cell.blocks[id] = block
		return id
	}
	foreign := seal("0.9.0", cid.Undef, other)
	one := seal("1.0.0", foreign, owner)
	two := seal("2.0.0", one, owner)
	lost := seal("1.5.0", cid.Undef, owner)
	delete(cell.blocks, lost)
	three := seal("3.0.0", lost, owner)
	// Its provider only has to be found: the blocks are the network's.
	p := provide(t, cell, nil)
	peers := &book{}
	peers.add(p.host)
	for _, c := range []struct {
		of   cid.Cid
		want []cid.Cid
		note string
	}{
		{two, []cid.Cid{two, one}, foreign.String() + ", is signed by another owner"},
		{foreign, []cid.Cid{foreign}, ""},
		{three, []cid.Cid{three}, lost.String() + ", cannot be had"},
	} {
		serving, err := NewServing(cellproto.CellID(c.of.String()), cell.schema)
		if err != nil {
			t.Fatal(err)
		}
		p.server.Set(serving)
		claim := p.claim(cell)
		claim.Cell = c.of
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
		got, err := use(t, cell, peers, nil).History(t.Context(), c.of)
		if err != nil {
			t.Fatal(err)
		}
		var ids []cid.Cid
		for i, v := range got {
			ids = append(ids, v.CID)
			if last := i == len(got)-1; last != (v.Note != "") && c.note != "" || !strings.Contains(v.Note, c.note) && last {
				t.Errorf("%s: the note of %s is %q", c.of, v.CID, v.Note)
			}
		}
		if !slices.Equal(ids, c.want) {
			t.Errorf("the history of %s is %v, want %v", c.of, ids, c.want)
		}
	}
}

// notReady is a dependency by git that is being built.
type notReady struct{}

func (notReady) Dir(_ context.Context, name string) (string, bool, error) {
	e := cellproto.Errorf("call "+name, cellproto.Unavailable, "this dependency is being made ready")
	e.RetryAfter = time.Second
	return "", true, e
}

// That a dependency is being built reaches the caller as it is, with the time to come back.
func TestCallOfDependencyByGit(t *testing.T) {
	c := use(t, publish(t, testSchema()), &book{}, func(cfg *CallerConfig, d *CallerDeps) {
		cfg.Deps = map[string]string{"git": "https://example.org/x.git@v1"}
		d.Repos = notReady{}
	})
	_, err := try(t, c, "git", request("echo", "x"))
	wantKind(t, err, cellproto.Unavailable)
	if cellproto.RetryAfterOf(err) != time.Second {
		t.Errorf("again after %v", cellproto.RetryAfterOf(err))
	}
}
