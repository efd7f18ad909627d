package call

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// patience is how long a test waits for what happens by itself.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started by the init functions of libraries, for the life of the process.
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreAnyFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
	)
}

func newKeyPair(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func idOf(t testing.TB, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newHost makes a host on loopback that is closed after the test.
func newHost(t testing.TB) (host.Host, crypto.PrivKey) {
	t.Helper()
	key := newKeyPair(t)
	h, err := libp2p.New(
		libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, key
}

func infoOf(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

func peerText(h host.Host) string { return h.ID().String() }

// testSchema is what the fake program serves.
func testSchema() *cellproto.Schema {
	text := json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}`)
	return &cellproto.Schema{Cell: "fake", Functions: map[string]cellproto.Function{
		"echo":  {Input: text, Pure: true},
		"big":   {Input: text, Pure: true, BodyOut: true},
		"count": {Input: text, Idempotent: true},
		"once":  {Input: text},
		"fail":  {Input: text, Pure: true},
		"sum":   {Input: text, BodyIn: true},
		"total": {Input: text, BodyIn: true, Pure: true},
		"relay": {Input: text},
	}}
}

// published is a cell as its manifest describes it.
type published struct {
	id     cid.Cid
	block  []byte
	schema *cellproto.Schema
	blocks map[cid.Cid][]byte
	binary signed.Digest
}

func publish(t testing.TB, schema *cellproto.Schema) *published {
	t.Helper()
	p := &published{schema: schema, blocks: map[cid.Cid][]byte{}, binary: signed.Digest{1}}
	link := blockCID(t, multicodec.Json, schema.Canonical())
	key := newKeyPair(t)
	m := signed.Manifest{
		Name: "fake", Version: "1.0.0", Created: 1, Privacy: "public", Schema: signed.Link{Cid: link}, SchemaHash: schema.Hash(),
		Accepted: []cellproto.SchemaHash{schema.Hash()},
		Artefacts: []signed.Artefact{{
			OS: "linux", Arch: "amd64", CID: signed.Link{Cid: blockCID(t, multicodec.Raw, []byte("program"))}, Size: 7, BLAKE3: p.binary,
		}},
	}
	block, id, err := signed.SealManifest(m, key)
	if err != nil {
		t.Fatal(err)
	}
	p.id, p.block = id, block
	p.blocks[id], p.blocks[link] = block, schema.Canonical()
	return p
}

func blockCID(t testing.TB, codec multicodec.Code, data []byte) cid.Cid {
	t.Helper()
	id, err := cid.Prefix{Version: 1, Codec: uint64(codec), MhType: multihash.SHA2_256, MhLength: -1}.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Block makes a published cell a Blocks that has its own blocks.
func (p *published) Block(_ context.Context, c cid.Cid, _ int, _ []peer.ID) ([]byte, error) {
	if b, ok := p.blocks[c]; ok {
		return b, nil
	}
	return nil, cellproto.Errorf("get block", cellproto.NotFound, "nobody has it")
}

func (p *published) Checked(ctx context.Context, c cid.Cid, limit int, from []peer.ID, good func([]byte) error) ([]byte, error) {
	return checked(p, ctx, c, limit, from, good)
}

// checked is Blocks.Checked of blocks that are not kept anyway.
func checked(b Blocks, ctx context.Context, c cid.Cid, limit int, from []peer.ID, good func([]byte) error) ([]byte, error) {
	block, err := b.Block(ctx, c, limit, from)
	if err == nil {
		err = good(block)
	}
	return block, err
}

// book is a Finder that knows what it was told.
type book struct {
	mu    sync.Mutex
	found []Found
	hangs bool // the search does not end by itself
	names map[string]cid.Cid
}

func (b *book) add(hosts ...host.Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range hosts {
		b.found = append(b.found, Found{Info: infoOf(h), Source: "dht"})
	}
}

func (b *book) Find(ctx context.Context, _ cid.Cid) (<-chan Found, func() string) {
	b.mu.Lock()
	found, hangs := b.found, b.hangs
	b.mu.Unlock()
	out := make(chan Found)
	go func() {
		defer close(out)
		for _, f := range found {
			select {
			case out <- f:
			case <-ctx.Done():
			}
		}
		if hangs {
			<-ctx.Done()
		}
	}()
	return out, func() string { return fmt.Sprintf("the book was read, and has %d providers", len(found)) }
}

func (b *book) ResolveName(_ context.Context, name string) (cid.Cid, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if id, ok := b.names[name]; ok {
		return id, nil
	}
	return cid.Undef, cellproto.Errorf("resolve", cellproto.NotFound, "no such name")
}

// fakeProgram is a program in this process, at the far end of a connection of frames.
type fakeProgram struct {
	handle   func(in *cellproto.Inbound)             // on a goroutine of its own; nil: answer
	accept   func(*cellproto.Conn, *cellproto.Frame) // of the nucleus's end: calls to other cells
	places   int64
	starts   atomic.Int64
	begun    atomic.Int64
	inFlight atomic.Int64
	mute     atomic.Bool       // for those whose handle looks at it
	full     atomic.Bool       // there is no place
	schema   *cellproto.Schema // nil: testSchema
	wg       sync.WaitGroup

	mu     sync.Mutex
	near   *cellproto.Conn
	far    *cellproto.Conn
	keys   []string
	metas  []map[string]string
	broken error // of a start
}

func newFakeProgram(t testing.TB) *fakeProgram {
	p := &fakeProgram{places: 1000}
	t.Cleanup(p.stop)
	return p
}

func (p *fakeProgram) stop() {
	p.mu.Lock()
	near, far := p.near, p.far
	p.near, p.far = nil, nil
	p.mu.Unlock()
	if near != nil {
		near.Close()
		far.Close()
	}
	p.wg.Wait()
}

func (p *fakeProgram) Ready() *cellproto.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.near
}

func (p *fakeProgram) Conn(ctx context.Context) (*cellproto.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return nil, p.broken
	}
	if p.near != nil {
		return p.near, nil
	}
	p.starts.Add(1)
	a, b := net.Pipe()
	near, err := cellproto.NewConn(a, cellproto.Config{Opener: true, Accept: p.accept})
	if err != nil {
		return nil, err
	}
	schema := p.schema
	if schema == nil {
		schema = testSchema()
	}
	hash := schema.Hash()
	far, err := cellproto.NewConn(b, cellproto.Config{Accept: p.take, Hello: cellproto.Hello{Schema: hash[:]}})
	if err != nil {
		return nil, err
	}
	p.near, p.far = near, far
	p.wg.Go(func() { near.Run() })
	p.wg.Go(func() { far.Run() })
	return near, nil
}

func (p *fakeProgram) Begin() error {
	if p.inFlight.Add(1) > p.places || p.full.Load() {
		p.inFlight.Add(-1)
		e := cellproto.Errorf("call", cellproto.Overloaded, "all places are taken")
		e.RetryAfter = 70 * time.Millisecond
		return e
	}
	p.begun.Add(1)
	return nil
}

func (p *fakeProgram) End() { p.inFlight.Add(-1) }

func (p *fakeProgram) take(c *cellproto.Conn, f *cellproto.Frame) {
	in := c.Inbound(context.Background(), f)
	p.mu.Lock()
	p.keys = append(p.keys, string(in.Header.Key))
	p.metas = append(p.metas, in.Header.Meta)
	p.mu.Unlock()
	p.wg.Go(func() {
		if p.handle != nil {
			p.handle(in)
			return
		}
		answer(in)
	})
}

// answer is what the fake program does by itself.
func answer(in *cellproto.Inbound) {
	switch in.Header.Func {
	case "fail":
		in.ReplyError(cellproto.Errorf("", cellproto.FuncError, "it does not work"))
	case "big":
		in.ReplyBody(cellproto.Header{}, strings.NewReader(strings.Repeat("0123456789", 100_000)))
	case "sum", "total":
		n, buf := 0, make([]byte, 4<<10)
		for {
			k, err := in.Body().Read(buf)
			if n += k; err != nil {
				break
			}
		}
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Append(nil, n))
	default:
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, in.Payload)
	}
}

// provider is a host that serves a cell.
type provider struct {
	host    host.Host
	key     crypto.PrivKey
	server  *Server
	program *fakeProgram
	advert  func(cid.Cid) ([]byte, error)
	calls   atomic.Int64 // streams of the call protocol that were opened
}

// provide starts a provider of a cell. change, which may be nil, changes its configuration first.
func provide(t testing.TB, cell *published, change func(*ServerConfig)) *provider {
	t.Helper()
	h, key := newHost(t)
	p := &provider{host: h, key: key, program: newFakeProgram(t)}
	cfg := ServerConfig{Name: "fake", Agent: "test", Challenge: cellproto.AuthNone, ShowSchema: true, OwnerUID: os.Getuid()}
	if change != nil {
		change(&cfg)
	}
	p.server = NewServer(cfg, ServerDeps{
		Program: p.program, Identity: Identity{Peer: h.ID(), Host: key}, Log: zap.NewNop(),
	})
	serving, err := NewServing(cellproto.CellID(cell.id.String()), cell.schema)
	if err != nil {
		t.Fatal(err)
	}
	p.server.Set(serving)
	p.advert = func(c cid.Cid) ([]byte, error) { return signed.SealAdvert(p.claim(cell), key) }
	serve := p.serveCalls()
	h.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) { p.calls.Add(1); serve(s) })
	h.SetStreamHandler(cellproto.ProtocolAdvert, HandleStream(zap.NewNop(), func(s network.Stream) error {
		return ServeAdvert(s, p.advert)
	}))
	t.Cleanup(func() { p.stop() })
	return p
}

// serveCalls is what serves its streams of calls.
func (p *provider) serveCalls() network.StreamHandler {
	return HandleStream(zap.NewNop(), func(s network.Stream) error { return p.server.ServeStream(context.Background(), s) })
}

// claim is the provider's honest advert.
func (p *provider) claim(cell *published) signed.Advert {
	now := time.Now()
	return signed.Advert{
		Cell: cell.id, Peer: p.host.ID(), Addrs: p.host.Addrs(), Seq: signed.NextSeq(0, now), Issued: now,
		Expires: now.Add(cellproto.AdvertLifetime), Name: "fake", Version: "1.0.0", Capacity: 100, FreeSlots: 100,
		SchemasProvided: []cellproto.SchemaHash{cell.schema.Hash()}, BinaryBLAKE3: cell.binary,
	}
}

// stop ends a provider at once, as if it were killed.
func (p *provider) stop() {
	p.host.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.server.Close(ctx)
	p.program.stop()
}

// use makes a caller that finds what the book has.
func use(t testing.TB, cell Blocks, b Finder, change func(*CallerConfig, *CallerDeps)) *Caller {
	t.Helper()
	h, key := newHost(t)
	cfg := CallerConfig{Dir: t.TempDir(), Agent: "test"}
	deps := CallerDeps{
		Host: h, Finder: b, Blocks: cell, Identity: Identity{Peer: h.ID(), Host: key}, Log: zap.NewNop(),
	}
	if change != nil {
		change(&cfg, &deps)
	}
	c := NewCaller(cfg, deps)
	t.Cleanup(c.Close)
	return c
}

func request(fn, text string) *cellproto.Request {
	return &cellproto.Request{
		Header:  cellproto.Header{Func: fn, Codec: cellproto.JSON},
		Payload: fmt.Appendf(nil, `{"text":%q}`, text),
	}
}

// call makes a call that has to succeed and gives who answered.
func call(t testing.TB, c *Caller, cell *published, fn string) *Result {
	t.Helper()
	res, err := try(t, c, cell.id.String(), request(fn, "hello"))
	if err != nil {
		t.Fatalf("call %s: %v", fn, err)
	}
	return res
}

func try(t testing.TB, c *Caller, target string, req *cellproto.Request) (*Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := c.Call(ctx, target, req)
	if err != nil {
		return nil, err
	}
	payload, err := res.Reply.Bytes(4 << 20)
	if err != nil {
		return nil, err
	}
	res.Reply.Payload, res.Reply.Body = payload, nil
	return res, nil
}

func wantKind(t testing.TB, err error, kind cellproto.Kind) {
	t.Helper()
	if cellproto.KindOf(err) != kind {
		t.Fatalf("error is %v (%v), want kind %v", err, cellproto.KindOf(err), kind)
	}
}

// eventually waits until ok is true, for what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not: %s", what)
		}
	}
}

// unixPair gives two connected Unix sockets.
func unixPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}
