package call

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

// oneMirror is a mirror of one cell.
type oneMirror struct {
	id  cid.Cid
	dir string
}

func (m oneMirror) Dir(id cid.Cid) (string, bool) { return m.dir, id.Equals(m.id) }

// A mirror that cannot be started costs a call nothing but the attempt: the providers answer, and it is
// left alone for a while.
func TestBrokenMirror(t *testing.T) {
	for _, kind := range []cellproto.Kind{cellproto.Unavailable, cellproto.NotFound, cellproto.Failed} {
		t.Run(kind.String(), func(t *testing.T) { testBrokenMirror(t, kind) })
	}
}

func testBrokenMirror(t *testing.T, kind cellproto.Kind) {
	cell := publish(t, testSchema())
	b := &book{}
	b.add(provide(t, cell, nil).host)
	var woken atomic.Int64
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) {
		d.Mirrors = oneMirror{cell.id, t.TempDir()}
		d.Wake = func(context.Context, string) error {
			woken.Add(1)
			return cellproto.Errorf("start", kind, "no sandbox works here")
		}
	})
	if schema, err := c.Schema(t.Context(), cell.id.String()); err != nil || schema.Cell != "fake" {
		t.Errorf("its schema is %+v: %v", schema, err)
	}
	for range 3 {
		if res := call(t, c, cell, "echo"); res.Source == "mirror" {
			t.Errorf("%+v", res)
		}
	}
	if n := woken.Load(); n != 1 {
		t.Errorf("it was started %d times", n)
	}
	if id, published, err := c.Resolve(t.Context(), cell.id.String()); err != nil || !published || !id.Equals(cell.id) {
		t.Errorf("%s, %v: %v", id, published, err)
	}
}

// Without providers the error is that of the mirror.
func TestBrokenMirrorAlone(t *testing.T) {
	cell := publish(t, testSchema())
	c := use(t, cell, &book{}, func(_ *CallerConfig, d *CallerDeps) {
		d.Mirrors = oneMirror{cell.id, t.TempDir()}
		d.Wake = func(context.Context, string) error { return errors.New("no sandbox works here") }
	})
	_, err := try(t, c, cell.id.String(), request("echo", "x"))
	if err == nil || !strings.Contains(err.Error(), "no sandbox works here") {
		t.Fatalf("it says %v", err)
	}
}

// Whoever hears of the races is told the caller's own objective, for this cell before that for all, and
// has a cell raced again as soon as it wants.
func TestRaced(t *testing.T) {
	cell := publish(t, testSchema())
	b := &book{}
	b.add(provide(t, cell, nil).host)
	heard := make(chan Raced, 16)
	var dir string
	c := use(t, cell, b, func(cfg *CallerConfig, d *CallerDeps) {
		dir = cfg.Dir
		d.Raced = func(r Raced) time.Duration {
			select {
			case heard <- r:
			default: // nobody listens any more; a race that waited would never end
			}
			return time.Nanosecond
		}
		cfg.Policy = race.Policy{Keep: time.Hour}
	})
	put := func(text string, parts ...string) {
		t.Helper()
		path := filepath.Join(append([]string{dir, ".cell-cache"}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("all", "slo.json")
	next := func() Raced {
		t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			call(t, c, cell, "echo")
			select {
			case r := <-heard:
				return r
			default:
			}
		}
		t.Fatal("no race was held")
		return Raced{}
	}
	if r := next(); !r.Cell.Equals(cell.id) || r.Best <= 0 || string(r.Objective) != "all" {
		t.Errorf("%+v", r)
	}
	put("this", cellDirName(cell.id.String()), "slo.json")
	for deadline := time.Now().Add(patience); ; {
		if r := next(); string(r.Objective) == "this" && r.Manifest != nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
	}
}

// livingMirror is a mirror whose nucleus dies when it is told to, with the call that has just come.
type livingMirror struct {
	lives []*provider // one after the other: what a nucleus remembers dies with it
	life  atomic.Int64
	dir   string
	dying atomic.Bool
	gone  atomic.Bool // it does not come back
	conn  atomic.Pointer[net.Conn]
}

// keys gives those of all calls that its programs were asked for.
func (m *livingMirror) keys() (keys []string) {
	for _, p := range m.lives {
		p.program.mu.Lock()
		keys = append(keys, p.program.keys...)
		p.program.mu.Unlock()
	}
	return keys
}

func newLivingMirror(t *testing.T, cell *published) *livingMirror {
	t.Helper()
	m := &livingMirror{dir: t.TempDir()}
	for range 6 {
		p := provide(t, cell, nil)
		p.program.handle = func(in *cellproto.Inbound) {
			if m.dying.CompareAndSwap(true, false) {
				m.life.Add(1)
				(*m.conn.Load()).Close()
				return
			}
			answer(in)
		}
		m.lives = append(m.lives, p)
	}
	for name, data := range map[string][]byte{
		"run/x": nil, "published/" + cell.id.String() + ".cbor": cell.block,
		"published/" + cell.id.String() + ".schema.json": cell.schema.Canonical(),
	} {
		path := filepath.Join(m.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(m.dir, "run", "cell.sock"))
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
			if m.gone.Load() {
				conn.Close()
				continue
			}
			m.conn.Store(&conn)
			go m.lives[m.life.Load()].server.Serve(context.Background(), conn, Who{UID: 1, Owner: true})
		}
	}()
	return m
}

// What may be repeated does not fail because the mirror dies in the middle of it, whether that comes back
// or not, and goes under the same key. What must not be repeated is made once.
func TestMirrorDies(t *testing.T) {
	cell := publish(t, testSchema())
	m := newLivingMirror(t, cell)
	far := provide(t, cell, nil)
	b := &book{}
	b.add(far.host)
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	for _, fn := range []string{"count", "echo"} {
		m.dying.Store(true)
		if res := call(t, c, cell, fn); res.Source != "mirror" {
			t.Errorf("%s was answered by %s", fn, res.Source)
		}
	}
	if keys := m.keys(); len(keys) != 4 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("the keys were %q", keys)
	}
	m.dying.Store(true)
	_, err := try(t, c, cell.id.String(), request("once", "x"))
	wantKind(t, err, cellproto.MayHaveRun)
	if n := len(m.keys()) + int(far.program.begun.Load()); n != 5 {
		t.Errorf("%d calls were begun, want 5", n)
	}

	call(t, c, cell, "echo")
	m.dying.Store(true)
	m.gone.Store(true)
	if res := call(t, c, cell, "count"); res.Source == "mirror" {
		t.Error("a mirror that is gone has answered")
	}
	if keys, mine := far.program.keys, m.keys(); len(keys) != 1 || keys[0] != mine[len(mine)-1] {
		t.Errorf("the provider's keys were %q, the mirror's %q", keys, mine)
	}
}

// A mirror whose program hangs costs what may be repeated some time, once: the providers answer, under the same key, and
// it is left alone for a while.
func TestSilentMirror(t *testing.T) {
	for _, fn := range []string{"echo", "count"} {
		t.Run(fn, func(t *testing.T) {
			cell := publish(t, testSchema())
			m := newLivingMirror(t, cell)
			far := provide(t, cell, nil)
			b := &book{}
			b.add(far.host)
			c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
			if res := call(t, c, cell, fn); res.Source != "mirror" {
				t.Fatalf("%s was answered by %s", fn, res.Source)
			}
			m.lives[0].program.handle = silent
			ctx, cancel := context.WithTimeout(t.Context(), patience/10)
			defer cancel()
			for range 3 {
				res, err := c.Call(ctx, cell.id.String(), request(fn, "x"))
				if err != nil || res.Provider != peerText(far.host) {
					t.Fatalf("%+v, %v", res, err)
				}
			}
			keys := m.keys()
			if len(keys) != 2 || keys[1] != far.program.keys[0] {
				t.Errorf("the mirror was asked with the keys %q, the provider with %q", keys, far.program.keys)
			}
			eventually(t, "nothing is in flight", func() bool { return m.lives[0].server.Load().InFlight == 0 })
		})
	}
}

// lookedFor is a Finder that tells when somebody looks.
type lookedFor struct {
	book
	looked atomic.Int64
}

func (l *lookedFor) Find(ctx context.Context, c cid.Cid) (<-chan Found, func() string) {
	l.looked.Add(1)
	return l.book.Find(ctx, c)
}

// One that is only slow, and has no provider beside it, is waited for, and called again.
func TestSlowMirrorAlone(t *testing.T) {
	cell := publish(t, testSchema())
	m, b := newLivingMirror(t, cell), &lookedFor{}
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	m.lives[0].program.handle = func(in *cellproto.Inbound) {
		for b.looked.Load() == 0 && in.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		answer(in)
	}
	for range 2 {
		if res := call(t, c, cell, "echo"); res.Source != "mirror" {
			t.Errorf("it was answered by %s", res.Source)
		}
	}
}

// A mirror that refuses what may be called, or says that it cannot be answered, costs nothing but the attempt: a provider
// answers, and after a while is asked first.
func TestRefusingMirror(t *testing.T) {
	for _, kind := range []cellproto.Kind{
		cellproto.BadInput, cellproto.Denied, cellproto.NotFound, cellproto.TooLarge, cellproto.Unsupported, cellproto.Timeout,
		cellproto.Corrupt, cellproto.BadReply, cellproto.Failed,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			cell := publish(t, testSchema())
			m := newLivingMirror(t, cell)
			far := provide(t, cell, nil)
			b := &book{}
			b.add(far.host)
			c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
			m.lives[0].program.handle = says(kind)
			eventually(t, "it is not asked any more", func() bool {
				before := m.lives[0].program.begun.Load()
				if res := call(t, c, cell, "echo"); res.Provider != peerText(far.host) {
					t.Fatalf("%s answered", res.Provider)
				}
				return m.lives[0].program.begun.Load() == before
			})
			if kind.NeverRan() { // which is so for whatever must not be repeated as well
				c.mu.Lock()
				c.reputation = race.NewReputation()
				c.mu.Unlock()
				call(t, c, cell, "once")
			}
		})
	}
}

// One that blames arguments which are bad by the schema, or for a provider too, is quoted.
func TestMirrorBlamesRightly(t *testing.T) {
	for _, payload := range []string{`{"text":1}`, `{"text":"x"}`} {
		cell := publish(t, testSchema())
		m := newLivingMirror(t, cell)
		far := provide(t, cell, nil)
		b := &book{}
		b.add(far.host)
		c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
		m.lives[0].program.handle, far.program.handle = says(cellproto.BadInput), says(cellproto.BadInput)
		req := request("echo", "")
		req.Payload = []byte(payload)
		_, err := try(t, c, cell.id.String(), req)
		wantKind(t, err, cellproto.BadInput)
		if n := far.program.begun.Load(); n != int64(len(payload)/len(`{"text":"x"}`)) {
			t.Errorf("%s: the provider was asked %d times", payload, n)
		}
	}
}

// One whose program dies with each call costs few that must not be repeated; and is asked still if there is nobody else.
func TestDyingMirror(t *testing.T) {
	cell := publish(t, testSchema())
	m := newLivingMirror(t, cell)
	m.lives = append(m.lives, m.lives...) // it is started anew each time
	far := provide(t, cell, nil)
	b := &book{}
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	b.add(far.host)
	failed := 0
	eventually(t, "the provider answers", func() bool {
		m.life.Store(0)
		m.dying.Store(true)
		_, err := try(t, c, cell.id.String(), request("once", "x"))
		if err != nil {
			wantKind(t, err, cellproto.MayHaveRun)
			failed++
		}
		return err == nil
	})
	if far.program.begun.Load() != 1 || failed > 3 {
		t.Errorf("%d calls failed, and the provider was asked %d times", failed, far.program.begun.Load())
	}
	b.mu.Lock()
	b.found = nil
	b.mu.Unlock()
	far.stop()
	m.dying.Store(false)
	alone := use(t, cell, &book{}, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	for i := range 3 {
		alone.mu.Lock()
		alone.reputation.Failed(time.Now().Add(time.Duration(i-3)*time.Second), mirrorPeer(cellproto.CellID(cell.id.String())))
		alone.mu.Unlock()
	}
	if res := call(t, alone, cell, "once"); res.Source != "mirror" {
		t.Errorf("%s answered", res.Source)
	}
	if dir, failing, ok := alone.mirrorDir(cell.id, cellproto.CellID(cell.id.String())); !ok || failing || dir != m.dir {
		t.Error("it has answered, and providers are asked before it still")
	}
}

// One that has failed answers still if no provider can be reached, as on a laptop without a network.
func TestFailingMirrorOffline(t *testing.T) {
	cell := publish(t, testSchema())
	m, gone, b := newLivingMirror(t, cell), provide(t, cell, nil), &book{}
	b.add(gone.host)
	gone.stop()
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	c.mu.Lock()
	for i := range 3 {
		c.reputation.Failed(time.Now().Add(time.Duration(i-3)*time.Second), mirrorPeer(cellproto.CellID(cell.id.String())))
	}
	c.mu.Unlock()
	if res := call(t, c, cell, "once"); res.Source != "mirror" {
		t.Errorf("%s answered", res.Source)
	}
}

// One that is slow, as its machine is busy, is left alone for a while once a race shows that a provider is quicker.
func TestSlowMirror(t *testing.T) {
	cell := publish(t, testSchema())
	m := newLivingMirror(t, cell)
	far := provide(t, cell, nil)
	b := &book{}
	b.add(far.host)
	c := use(t, cell, b, func(_ *CallerConfig, d *CallerDeps) { d.Mirrors = oneMirror{cell.id, m.dir} })
	m.lives[0].program.handle = func(in *cellproto.Inbound) {
		time.Sleep(lateLeast) // so slow it is
		answer(in)
	}
	c.mu.Lock()
	for range 20 {
		c.reputation.Succeeded(time.Now(), mirrorPeer(cellproto.CellID(cell.id.String())), 10*time.Second) // slower than any busy machine
	}
	c.mu.Unlock()
	eventually(t, "a provider answers", func() bool { return call(t, c, cell, "once").Provider == peerText(far.host) })
}
