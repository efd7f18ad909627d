package call

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// Every way in which a provider can lie or fail, each beside one honest provider. Each may cost a
// candidate, and some time, but never the call.
var liars = map[string]func(t *testing.T, cell *published, p *provider){
	"advert of another peer": func(t *testing.T, cell *published, p *provider) {
		other := newKeyPair(t)
		claim := p.claim(cell)
		claim.Peer, claim.Addrs = idOf(t, other), nil
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, other) }
	},
	"advert of another cell": func(t *testing.T, cell *published, p *provider) {
		claim := p.claim(cell)
		claim.Cell = blockCID(t, cid.DagCBOR, []byte("another"))
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	},
	"advert with a false signature": func(_ *testing.T, _ *published, p *provider) {
		honest := p.advert
		p.advert = func(c cid.Cid) ([]byte, error) {
			ad, err := honest(c)
			ad[len(ad)-1] ^= 1
			return ad, err
		}
	},
	"expired advert": func(_ *testing.T, cell *published, p *provider) {
		claim := p.claim(cell)
		claim.Issued = claim.Issued.Add(-time.Hour)
		claim.Expires = claim.Issued.Add(time.Minute)
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	},
	"garbage instead of an advert": func(_ *testing.T, _ *published, p *provider) {
		p.advert = func(cid.Cid) ([]byte, error) { return []byte("garbage"), nil }
	},
	"endless advert": func(_ *testing.T, _ *published, p *provider) {
		p.host.SetStreamHandler(cellproto.ProtocolAdvert, func(s network.Stream) {
			for {
				if _, err := s.Write([]byte{0, 0xff, 0xff, 1, 2, 3}); err != nil {
					return
				}
			}
		})
	},
	"silence instead of an advert": func(_ *testing.T, _ *published, p *provider) {
		p.host.SetStreamHandler(cellproto.ProtocolAdvert, func(network.Stream) {})
	},
	"another program": func(_ *testing.T, cell *published, p *provider) {
		claim := p.claim(cell)
		claim.BinaryBLAKE3 = signed.Digest{66}
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	},
	"another program, of another source": func(_ *testing.T, cell *published, p *provider) {
		claim := p.claim(cell)
		claim.BinaryBLAKE3, claim.Repo, claim.Ref = signed.Digest{66}, "https://example.org/x.git", strings.Repeat("0", 40)
		p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	},
	"another schema": func(t *testing.T, cell *published, p *provider) {
		schema := testSchema()
		schema.Cell = "other"
		serving, err := NewServing(cellproto.CellID(cell.id.String()), schema)
		if err != nil {
			t.Fatal(err)
		}
		p.server.Set(serving)
	},
	"another cell": func(t *testing.T, cell *published, p *provider) {
		serving, err := NewServing("bafyanother", cell.schema)
		if err != nil {
			t.Fatal(err)
		}
		p.server.Set(serving)
	},
	"garbage frames": frames(func(s network.Stream) {
		_, _ = s.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	}),
	"a frame of 4 GiB": frames(func(s network.Stream) {
		_, _ = s.Write([]byte{0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0, 0, 0, 0, 0})
	}),
	"half a frame": frames(func(s network.Stream) {
		_, _ = s.Write([]byte{0, 0, 1, 0, 9, 0})
	}),
	"silence":        frames(func(s network.Stream) { _, _ = io.Copy(io.Discard, s) }),
	"closed at once": frames(func(s network.Stream) { s.Close() }),
	takesAndResets: frames(func(s network.Stream) {
		c := speak(s, func(c *cellproto.Conn, f *cellproto.Frame) {
			_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: 77, Payload: []byte("x")})
			c.FlushLater(c)
			s.Reset()
		})
		_ = c.Run()
	}),
	"blames the arguments": func(_ *testing.T, _ *published, p *provider) { p.program.handle = says(cellproto.BadInput) },
	failsEachCall:          func(_ *testing.T, _ *published, p *provider) { p.program.handle = says(cellproto.FuncError) },
	"refuses everybody": func(t *testing.T, _ *published, p *provider) {
		p.server.cfg.Challenge = cellproto.AuthSig
		p.server.tokens = newTokens(p.server.cfg, p.server.deps.Identity)
	},
	"no program": func(_ *testing.T, _ *published, p *provider) {
		p.program.broken = cellproto.Errorf("start", cellproto.Unavailable, "there is none")
		p.program.broken.(*cellproto.Error).RetryAfter = time.Second
	},
	"overloaded": func(_ *testing.T, _ *published, p *provider) { p.program.places = 0 },
	"gone":       func(_ *testing.T, _ *published, p *provider) { p.host.Close() },
}

const (
	takesAndResets = "takes requests, and resets the stream"
	failsEachCall  = "says that each function fails"
)

// says answers each call with an error.
func says(kind cellproto.Kind) func(*cellproto.Inbound) {
	return func(in *cellproto.Inbound) { in.ReplyError(cellproto.Errorf("call", kind, "no")) }
}

// frames makes a liar out of what answers a stream of the call protocol.
func frames(answer func(network.Stream)) func(*testing.T, *published, *provider) {
	return func(_ *testing.T, _ *published, p *provider) {
		p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
			p.calls.Add(1)
			answer(s)
		})
	}
}

// speak says hello on a stream, and has accept take the requests.
func speak(s network.Stream, accept func(*cellproto.Conn, *cellproto.Frame)) *cellproto.Conn {
	c, err := cellproto.NewConn(s, cellproto.Config{Accept: accept, Hello: cellproto.Hello{Agent: "liar"}})
	if err != nil {
		panic(err)
	}
	return c
}

func TestLiarsCostACandidate(t *testing.T) {
	for name, corrupt := range liars {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cell := publish(t, testSchema())
			liar, honest := provide(t, cell, nil), provide(t, cell, nil)
			corrupt(t, cell, liar)
			peers := &book{}
			peers.add(liar.host, honest.host)
			c := use(t, cell, peers, nil)
			functions := []string{"once", "echo", "count"}
			switch name {
			case takesAndResets:
				functions = functions[1:] // it may have run, for all that the caller can know
			case failsEachCall:
				functions = functions[1:2] // it has run, if it is true
			}
			for _, fn := range functions {
				if res := call(t, c, cell, fn); res.Provider != peerText(honest.host) {
					t.Errorf("%s: the liar answered", fn)
				}
			}
		})
	}
}

// The same, when the liar is the one whom the caller has good reason to call first: it has won the
// race and turns then.
func TestWinnersThatTurn(t *testing.T) {
	turns := map[string]func(p *provider){
		"closes its connections": func(p *provider) { p.host.Close() },
		"is silent when it is connected to anew": func(p *provider) {
			p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
			p.cutLinks()
		},
		"sends garbage when it is connected to anew": func(p *provider) {
			p.host.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) { _, _ = s.Write(make([]byte, 100)) })
			p.cutLinks()
		},
		"has no place": func(p *provider) { p.program.places = 0 },
	}
	for name, turn := range turns {
		for _, fn := range []string{"once", "echo"} {
			t.Run(name+", "+fn, func(t *testing.T) {
				t.Parallel()
				cell := publish(t, testSchema())
				a, b := provide(t, cell, nil), provide(t, cell, nil)
				peers := &book{}
				peers.add(a.host, b.host)
				c := use(t, cell, peers, nil)
				winner, other := a, b
				if call(t, c, cell, fn).Provider == peerText(b.host) {
					winner, other = b, a
				}
				turn(winner)
				eventually(t, "the old link has ended or is of use", func() bool {
					lk := c.links.live(cellproto.PeerID(peerText(winner.host)), cell.id.String(), "")
					return lk == nil || winner.program.places == 0
				})
				if res := call(t, c, cell, fn); res.Provider != peerText(other.host) {
					t.Errorf("%s answered", res.Provider)
				}
			})
		}
	}
}

// cutLinks ends the connections of calls as a restart would, but not the host's.
func (p *provider) cutLinks() {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	for c := range p.server.conns {
		go c.Close()
	}
}

// silent says nothing until the caller has given up.
func silent(in *cellproto.Inbound) {
	<-in.Context().Done()
	in.ReplyError(in.Context().Err())
}

// Providers that answer pings and are silent on the call cost a pure function some time only, be
// they two of three.
func TestSilentOnTheCall(t *testing.T) {
	cell := publish(t, testSchema())
	all := []*provider{provide(t, cell, nil), provide(t, cell, nil), provide(t, cell, nil)}
	peers := &book{}
	for _, p := range all {
		peers.add(p.host)
	}
	c := use(t, cell, peers, nil)
	call(t, c, cell, "echo")
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil { // all three are known now
		t.Fatal(err)
	}
	honest := string(c.remote(cell.id).decision.Ranking[2].Peer)
	for _, p := range all {
		if peerText(p.host) != honest {
			p.program.handle = silent
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 3 {
		res, err := c.Call(ctx, cell.id.String(), request("echo", "x"))
		if err != nil {
			t.Fatal(err)
		}
		if res.Provider != honest {
			t.Errorf("%s answered, want the only one who does", res.Provider)
		}
	}
	for _, p := range all {
		eventually(t, "nothing is in flight", func() bool { return p.server.Load().InFlight == 0 })
	}
}

// The same for an idempotent function, whose providers are not asked at the same time before half of the
// time is over. All of them get the same key.
func TestSilentOnAnIdempotentCall(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	winner := string(c.remote(cell.id).decision.Winner)
	for _, p := range all {
		if peerText(p.host) == winner {
			p.program.handle = silent
		}
	}
	const deadline = 4 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	begin := time.Now()
	res, err := c.Call(ctx, cell.id.String(), request("count", "x"))
	if err != nil || res.Provider == winner {
		t.Fatalf("%+v, %v", res, err)
	}
	if took := time.Since(begin); took < deadline/2-deadline/10 {
		t.Errorf("another one was asked after %v already", took)
	}
	keys := map[string]bool{}
	runs := 0
	for _, p := range all {
		p.program.mu.Lock()
		for _, k := range p.program.keys {
			keys[k], runs = true, runs+1
		}
		p.program.mu.Unlock()
	}
	if len(keys) != 1 || keys[""] || runs != 2 {
		t.Errorf("%d runs with the keys %v", runs, keys)
	}
	// It is not called again soon, though it answers every ping.
	for range 10 {
		if res := call(t, c, cell, "once"); res.Provider == winner {
			t.Fatal("it is called again")
		}
	}
}

// The same with a body that cannot be rewound, whether its provider takes it, or only its beginning.
func TestSilentOnABody(t *testing.T) {
	const size = cellproto.InitialWindow + 1000
	for name, silence := range map[string]func(*cellproto.Inbound){
		"reads it":  func(in *cellproto.Inbound) { _, _ = io.Copy(io.Discard, in.Body()); silent(in) },
		"leaves it": silent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, winner, err := askWithBody(t, silence, io.LimitReader(zeros{}, size))
			if err != nil || res.Provider == winner {
				t.Fatalf("%+v, %v", res, err)
			}
			if got := string(res.Reply.Payload); !strings.Contains(got, strconv.Itoa(size)) {
				t.Errorf("it has counted %s, of %d bytes", got, size)
			}
		})
	}
}

// What its caller has not sent all of is sent to nobody else: the silence is not the provider's.
func TestSilentSender(t *testing.T) {
	var asked atomic.Int64
	source, sender := io.Pipe()
	defer sender.Close()
	go sender.Write([]byte("x"))
	_, _, err := askWithBody(t, func(in *cellproto.Inbound) { asked.Add(1); _, _ = io.Copy(io.Discard, in.Body()); silent(in) }, source)
	wantKind(t, err, cellproto.Timeout)
	if n := asked.Load(); n != 1 {
		t.Errorf("%d were asked", n)
	}
}

// askWithBody calls three providers, the best of which, or with a pipe all of which, do something else than the function.
func askWithBody(t *testing.T, instead func(*cellproto.Inbound), body io.Reader) (res *Result, winner string, err error) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	winner = string(c.remote(cell.id).decision.Winner)
	_, piped := body.(*io.PipeReader)
	for _, p := range all {
		if piped || peerText(p.host) == winner {
			p.program.handle = instead
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	t.Cleanup(cancel)
	req := request("total", "")
	req.Body = body
	res, err = c.Call(ctx, cell.id.String(), req)
	return res, winner, err
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Who was silent on a call does not win the next races, though it answers every ping.
func TestSilentIsScoredDown(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 3, nil)
	mute := string(c.remote(cell.id).decision.Winner)
	for _, p := range all {
		if peerText(p.host) == mute {
			p.program.handle = silent
		}
	}
	call(t, c, cell, "echo")
	for range 5 {
		d, err := c.Race(t.Context(), cell.id.String())
		if err != nil {
			t.Fatal(err)
		}
		if last := d.Ranking[len(d.Ranking)-1]; string(last.Peer) != mute || last.Parts.Reputation == 0 {
			t.Errorf("the last one is %+v", last)
		}
		if res := call(t, c, cell, "once"); res.Provider == mute {
			t.Fatal("it is called again")
		}
	}
}

// The answer of the first counts while others are being asked, and theirs are dropped.
func TestHedgeFirstAnswers(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	winner, other := a, b
	if call(t, c, cell, "big").Provider == peerText(b.host) {
		winner, other = b, a
	}
	asked := make(chan struct{})
	winner.program.handle = func(in *cellproto.Inbound) { <-asked; answer(in) }
	other.program.handle = func(in *cellproto.Inbound) { close(asked); silent(in) }
	if res := call(t, c, cell, "big"); res.Provider != peerText(winner.host) || len(res.Reply.Payload) != 1_000_000 {
		t.Errorf("%s answered with %d bytes", res.Provider, len(res.Reply.Payload))
	}
	eventually(t, "nothing is in flight", func() bool { return other.server.Load().InFlight == 0 })
}

// An error of the function is an answer, if whoever else is asked does not say otherwise soon.
func TestHedgeFunctionError(t *testing.T) {
	cell := publish(t, testSchema())
	a, b := provide(t, cell, nil), provide(t, cell, nil)
	peers := &book{}
	peers.add(a.host, b.host)
	c := use(t, cell, peers, nil)
	winner, other := a, b
	if call(t, c, cell, "echo").Provider == peerText(b.host) {
		winner, other = b, a
	}
	asked := make(chan struct{})
	winner.program.handle = func(in *cellproto.Inbound) { <-asked; answer(in) }
	other.program.handle = func(in *cellproto.Inbound) { close(asked); silent(in) }
	_, err := try(t, c, cell.id.String(), request("fail", "x"))
	wantKind(t, err, cellproto.FuncError)
	eventually(t, "nothing is in flight", func() bool { return other.server.Load().InFlight == 0 })
}

// A description whose bytes are right and whose signature is false is false everywhere: that is said,
// not retried.
func TestFalseManifest(t *testing.T) {
	cell := publish(t, testSchema())
	block := append([]byte(nil), cell.block...)
	block[len(block)-1] ^= 1
	id := blockCID(t, cid.DagCBOR, block)
	cell.blocks[id], cell.id = block, id
	p := provide(t, cell, nil)
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	_, err := try(t, c, id.String(), request("echo", "x"))
	wantKind(t, err, cellproto.Corrupt)
	if n := p.program.begun.Load(); n != 0 {
		t.Errorf("it was called %d times", n)
	}
}

// Without a description a call is made less boldly, but it is made.
func TestNobodyHasTheManifest(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	peers := &book{}
	peers.add(p.host)
	for name, blocks := range map[string]Blocks{"not found": &published{}, "silent": silentBlocks{}} {
		t.Run(name, func(t *testing.T) {
			c := use(t, blocks, peers, nil)
			call(t, c, cell, "once")
		})
	}
}

// silentBlocks never answers.
type silentBlocks struct{}

func (silentBlocks) Block(ctx context.Context, _ cid.Cid, _ int, _ []peer.ID) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s silentBlocks) Checked(ctx context.Context, c cid.Cid, limit int, from []peer.ID, good func([]byte) error) ([]byte, error) {
	return checked(s, ctx, c, limit, from, good)
}

// An older advert than one that is known is not taken for news.
func TestOlderAdvert(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	now := time.Now()
	claim := p.claim(cell)
	claim.Seq, claim.P99 = 10, time.Second
	p.advert = func(cid.Cid) ([]byte, error) { return signed.SealAdvert(claim, p.key) }
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	if _, err := c.Race(t.Context(), cell.id.String()); err != nil {
		t.Fatal(err)
	}
	claim.Seq, claim.P99 = 9, time.Millisecond
	d, err := c.Race(t.Context(), cell.id.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Ranking[0].P99.Duration(); got != time.Second {
		t.Errorf("p99 is %v, want that of the newer advert", got)
	}
	if ad := c.newest.Get(p.host.ID(), cell.id); ad == nil || ad.Seq != 10 || ad.Issued.After(now.Add(time.Second)) {
		t.Errorf("kept %+v", ad)
	}
}

// A thousand streams that dribble their bytes cost others nothing, and are cut off.
func TestSlowLoris(t *testing.T) {
	const attackers, streams = 20, 50 // each of less than a peer may have
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	ended := make(chan error, attackers*streams)
	for range attackers {
		attacker, _ := newHost(t)
		if err := attacker.Connect(t.Context(), infoOf(p.host)); err != nil {
			t.Fatal(err)
		}
		for range streams {
			s, err := attacker.NewStream(t.Context(), p.host.ID(), cellproto.ProtocolCall)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write([]byte{0, 0, 0}) // in vain if it is one too many
			go func() {                     // ends with the stream, and that with its host
				_, err := io.Copy(io.Discard, s)
				ended <- err
			}()
		}
	}
	eventually(t, "the attackers' streams are open", func() bool { return p.calls.Load() >= attackers*streams })
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	served := 0
	for cut := 0; cut < attackers*streams; {
		call(t, c, cell, "echo") // it fails the test if it is not answered
		served++
		for more := true; more; {
			select {
			case <-ended:
				cut++
			default:
				more = false
			}
		}
	}
	t.Logf("%d calls were answered until %d streams were cut off", served, attackers*streams)
	eventually(t, "nothing is left of them", func() bool {
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		return len(p.server.peers) == 1
	})
}

// dodges is a stream to a provider that hears nothing while it dodges a call.
type dodges struct {
	network.Stream
	deaf *atomic.Bool
	over <-chan struct{}
}

func (d dodges) Read(b []byte) (int, error) {
	n, err := d.Stream.Read(b)
	for d.deaf.Load() {
		select {
		case <-d.over:
			return 0, io.EOF
		case <-time.After(time.Millisecond):
		}
	}
	return n, err
}

// Who answers pings in races, but neither calls nor the pings while these wait, does not win for good.
func TestWhoDodgesCalls(t *testing.T) {
	cell := publish(t, testSchema())
	c, all := electorate(t, cell, 2, rare)
	dodger, other := all[0], all[1]
	var deaf atomic.Bool
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	dodger.host.SetStreamHandler(cellproto.ProtocolCall, HandleStream(zap.NewNop(), func(s network.Stream) error {
		return dodger.server.ServeStream(context.Background(), dodges{s, &deaf, over})
	}))
	dodger.cutLinks()
	dodger.program.handle = func(in *cellproto.Inbound) { deaf.Store(true); <-in.Context().Done() }
	c.measured(other, 40*time.Millisecond, 0)
	const calls = 8
	caught := 0
	for range calls {
		deaf.Store(false)
		c.mustRace(t, cell)
		begun := dodger.program.begun.Load()
		call(t, c, cell, "count")
		if dodger.program.begun.Load() > begun {
			caught++
		}
	}
	if caught == 0 || caught > calls/2 {
		t.Errorf("of %d calls %d went to the one that dodges them", calls, caught)
	}
}
