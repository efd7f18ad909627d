package call

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// moving is a program that another one replaces, at the moment of the test's choosing.
type moving struct {
	old, next *fakeProgram
	moved     atomic.Bool
	begun     func() // when a call has got its place, before it has a connection
	asleep    atomic.Bool
}

func (m *moving) now() *fakeProgram {
	if m.moved.Load() {
		return m.next
	}
	return m.old
}

func (m *moving) Ready() *cellproto.Conn {
	if m.asleep.Load() {
		return nil
	}
	return m.now().Ready()
}

func (m *moving) Conn(ctx context.Context) (*cellproto.Conn, error) { return m.now().Conn(ctx) }

func (m *moving) Begin() error {
	err := m.old.Begin()
	if err == nil && m.begun != nil {
		m.begun()
	}
	return err
}

func (m *moving) End() { m.old.End() }

// otherSchema breaks the callers of testSchema, but for those of "relay".
func otherSchema() *cellproto.Schema {
	s := testSchema()
	for name, fn := range s.Functions {
		if name != "relay" {
			fn.Input = []byte(strings.ReplaceAll(string(fn.Input), `"text"`, `"words"`))
			s.Functions[name] = fn
		}
	}
	return s
}

// move serves a cell whose program is about to be replaced by one that breaks callers of the one before. An older
// version goes on for them elsewhere from then on, if there is one.
func move(t *testing.T, elsewhere bool) (s *Server, m *moving) {
	t.Helper()
	m = &moving{old: newFakeProgram(t), next: newFakeProgram(t)}
	m.next.schema = otherSchema()
	for _, p := range []*fakeProgram{m.old, m.next} {
		if _, err := p.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	old, next := testSchema(), otherSchema()
	cfg := ServerConfig{
		Name: "fake", Agent: "test", Challenge: cellproto.AuthNone, ShowSchema: true, OwnerUID: os.Getuid(),
		Elsewhere: func(made []byte) bool { return elsewhere && m.moved.Load() },
		Fit: func(made, live cellproto.SchemaHash) Fit {
			if made != old.Hash() || live != next.Hash() {
				return Fit{Known: true}
			}
			broken := map[string]string{}
			for _, c := range cellproto.Compatible(old, next) {
				broken[c.Func] = c.String()
			}
			return Fit{Known: true, Broken: broken}
		},
	}
	_, key := newHost(t)
	s = NewServer(cfg, ServerDeps{Program: m, Identity: Identity{Peer: idOf(t, key), Host: key}, Log: zap.NewNop()})
	serving, err := NewServing("", old)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(serving)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
	})
	return s, m
}

// admitMade is admit for a caller that says what it was made for.
func admitMade(t *testing.T, s *Server, who Who, made cellproto.SchemaHash) *cellproto.Conn {
	t.Helper()
	near, far := unixPair(t)
	run, err := s.Admit(context.Background(), far, who)
	if err != nil {
		t.Fatal(err)
	}
	go run() // the server's Close waits for it
	c, err := cellproto.NewConn(near, cellproto.Config{Opener: true, Hello: cellproto.Hello{MadeFor: made[:]}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); c.Run() }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func (p *fakeProgram) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.keys)
}

// Whatever way a request takes, and whenever the program is replaced: it is not given to one that its caller was not
// made for.
func TestRequestsReachNoProgramThatBreaksTheirCaller(t *testing.T) {
	fn := func(name, key string) *cellproto.Request {
		r := request(name, "x")
		r.Header.Key = []byte(key)
		return r
	}
	for _, tc := range []struct {
		name  string
		req   *cellproto.Request
		calls int
		run   func(t *testing.T, s *Server, m *moving) // before the calls; it has the program replaced
		then  func(t *testing.T, s *Server, m *moving) // when they are under way
	}{
		{"while it is passed on", fn("once", ""), 1, func(_ *testing.T, _ *Server, m *moving) {
			m.begun = func() { m.moved.Store(true) }
		}, nil},
		{"while the program sleeps", fn("once", ""), 1, func(_ *testing.T, _ *Server, m *moving) {
			m.asleep.Store(true)
			m.begun = func() { m.moved.Store(true) }
		}, nil},
		{"with a key", fn("count", "k"), 1, func(_ *testing.T, _ *Server, m *moving) {
			m.begun = func() { m.moved.Store(true) }
		}, nil},
		{"while it waits for a place", fn("once", ""), 1, func(_ *testing.T, s *Server, m *moving) {
			s.queue.time = patience
			m.old.full.Store(true)
		}, func(t *testing.T, s *Server, m *moving) {
			eventually(t, "it waits", func() bool { return s.Waiting() == 1 })
			m.moved.Store(true)
			m.old.full.Store(false)
			s.next()
		}},
		{"when the one before dies", fn("echo", ""), 1, func(_ *testing.T, _ *Server, m *moving) {
			m.old.handle = func(in *cellproto.Inbound) { <-in.Context().Done() }
		}, func(t *testing.T, _ *Server, m *moving) {
			eventually(t, "it runs", func() bool { return m.old.asked() == 1 })
			m.moved.Store(true)
			m.old.stop()
		}},
		{"while it waits for one with its key", fn("count", "k"), 2, func(_ *testing.T, _ *Server, m *moving) {
			m.old.handle = func(in *cellproto.Inbound) { <-in.Context().Done() }
		}, func(t *testing.T, s *Server, m *moving) {
			eventually(t, "both are under way", func() bool { return s.Load().InFlight == 2 && m.old.asked() == 1 })
			m.moved.Store(true)
			m.old.stop()
		}},
	} {
		for _, elsewhere := range []bool{true, false} {
			name := tc.name
			if elsewhere {
				name += ", with an older version"
			}
			t.Run(name, func(t *testing.T) {
				s, m := move(t, elsewhere)
				tc.run(t, s, m)
				c := admitMade(t, s, Who{UID: os.Getuid(), Owner: true}, testSchema().Hash())
				failed := make(chan error, tc.calls)
				for range tc.calls {
					go func() { _, err := ask(t, c, tc.req); failed <- err }()
				}
				if tc.then != nil {
					tc.then(t, s, m)
				}
				want := []cellproto.Kind{cellproto.Incompatible, cellproto.MayHaveRun} // of one that had run
				if elsewhere {
					want[0] = cellproto.Unavailable
				}
				for range tc.calls {
					if err := <-failed; !slices.Contains(want, cellproto.KindOf(err)) {
						t.Errorf("it ends with %v", err)
					}
				}
				if n := m.next.asked(); n != 0 {
					t.Errorf("%d requests have reached the new program", n)
				}
				if elsewhere != c.Leaving() {
					t.Errorf("that it is to come back was said: %v", c.Leaving())
				}
			})
		}
	}
}

// Functions that are as they were are served, and so is whoever was made for the new program, or says nothing.
func TestWhoIsNotBrokenIsServedByTheNextProgram(t *testing.T) {
	s, m := move(t, false)
	m.moved.Store(true)
	mine := Who{UID: os.Getuid(), Owner: true}
	old := admitMade(t, s, mine, testSchema().Hash())
	if _, err := ask(t, old, request("relay", "x")); err != nil {
		t.Error(err)
	}
	_, err := ask(t, old, request("echo", "x"))
	wantKind(t, err, cellproto.Incompatible)
	if !strings.Contains(err.Error(), "input.") || old.Leaving() {
		t.Errorf("%v, and leaving is %v", err, old.Leaving())
	}
	for _, c := range []*cellproto.Conn{admitMade(t, s, mine, otherSchema().Hash()), admit(t, s, mine)} {
		if _, err := ask(t, c, request("echo", "x")); err != nil {
			t.Error(err)
		}
	}
}

// A program that serves an older version as well is told which one its caller knows, and by nobody but the nucleus.
func TestProgramsOfTwoVersionsAreToldWhichIsCalled(t *testing.T) {
	s, m := move(t, false)
	old, both := testSchema(), otherSchema()
	both.Older = []*cellproto.Schema{old}
	m.moved.Store(true)
	m.next.stop()
	m.next.schema = both
	s.cfg.Fit = func(made, _ cellproto.SchemaHash) Fit {
		if made == old.Hash() {
			return Fit{Known: true, As: made}
		}
		return Fit{Known: true}
	}
	serving, err := NewServing("", both)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(serving)
	mine := Who{UID: os.Getuid(), Owner: true}
	theirs := Who{UID: 4711}
	s.cfg.Challenge = cellproto.AuthNone
	for _, tc := range []struct {
		name string
		who  Who
		made cellproto.SchemaHash
		meta map[string]string
		args string
		want map[string]string
		kind cellproto.Kind
	}{
		{"an older version's caller", mine, old.Hash(), nil, "text", map[string]string{cellproto.MetaSchema: old.Hash().String()}, 0},
		{"a stranger", theirs, old.Hash(), map[string]string{"a": "b"}, "text",
			map[string]string{cellproto.MetaSchema: old.Hash().String(), "a": "b", "peer": "uid:4711"}, 0},
		{"its own", mine, both.Hash(), map[string]string{cellproto.MetaSchema: "x", "a": "b"}, "words", map[string]string{"a": "b"}, 0},
		{"with the other's arguments", mine, old.Hash(), nil, "words", nil, cellproto.BadInput},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := admitMade(t, s, tc.who, tc.made)
			before := m.next.asked()
			r := request("once", "x")
			r.Header.Meta = tc.meta
			r.Payload = []byte(`{"` + tc.args + `":"x"}`)
			_, err := ask(t, c, r)
			if cellproto.KindOf(err) != tc.kind {
				t.Fatal(err)
			}
			if tc.kind != 0 {
				if m.next.asked() != before {
					t.Error("the program was asked")
				}
				return
			}
			m.next.mu.Lock()
			got := m.next.metas[before]
			m.next.mu.Unlock()
			if !maps.Equal(got, tc.want) {
				t.Errorf("the program was told %v", got)
			}
			text, err := ask(t, c, request(cellproto.FuncSchema, ""))
			if err != nil {
				t.Fatal(err)
			}
			want := both
			if tc.made == old.Hash() {
				want = old
			}
			if string(text) != string(want.Canonical()) {
				t.Errorf("the schema is %s", text)
			}
		})
	}
}

// A program that was just started may not have been asked for its schema yet: the first request has it met.
func TestProgramsAreMetBeforeTheyAreCompared(t *testing.T) {
	s, m := move(t, false)
	var met atomic.Bool
	fit := s.cfg.Fit
	s.cfg.Fit = func(made, live cellproto.SchemaHash) Fit {
		if !met.Swap(true) { // as if learned by the look at it
			return Fit{}
		}
		return fit(made, live)
	}
	m.moved.Store(true)
	c := admitMade(t, s, Who{UID: os.Getuid(), Owner: true}, testSchema().Hash())
	_, err := ask(t, c, request("echo", "x"))
	wantKind(t, err, cellproto.Incompatible)
}

// Who was made for what is known of a caller whose connection was handed over, too.
func TestHandedOverCallersKeepWhatTheyWereMadeFor(t *testing.T) {
	s, m := move(t, true)
	made := testSchema().Hash()
	c := admitMade(t, s, Who{UID: os.Getuid(), Owner: true}, made)
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Fatal(err)
	}
	s.Hold()
	carried, err := s.Suspend(t.Context(), false)
	if err != nil || len(carried) != 1 {
		t.Fatalf("%d carried, %v", len(carried), err)
	}
	next, after := move(t, true)
	go next.Resume(context.Background(), carried[0].Transport, carried[0].Who, carried[0].Handed)
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Fatal(err)
	}
	used := next.Users(time.Now().Add(-time.Hour))
	if len(used) != 1 || used[0].Schema != made || !used[0].Users[0].Says {
		t.Errorf("in use is %+v", used)
	}
	m.moved.Store(true)
	after.moved.Store(true)
	_, err = ask(t, c, request("echo", "x"))
	wantKind(t, err, cellproto.Unavailable)
	if n := after.next.asked(); n != 0 {
		t.Errorf("%d requests have reached the new program", n)
	}
}

// Callers whose connections the program has kept, while celld was replaced, count when those are used.
func TestUsersWhoseConnectionsAreKeptStillCount(t *testing.T) {
	s, _ := move(t, false)
	now := time.Now()
	used := []Used{{Schema: testSchema().Hash(), Users: []User{
		{Who: "uid:7 12D3", Says: true, Last: now.Add(-time.Hour)}, {Who: "12D3", Says: true, Last: now.Add(-time.Hour)},
	}}}
	s.Remember(used, now)
	for _, touch := range s.StillHolds(used) {
		touch(now)
	}
	got := s.Users(now.Add(-time.Minute))
	if len(got) != 1 || len(got[0].Users) != 1 || got[0].Users[0].Who != "uid:7 12D3" || !got[0].Users[0].Says {
		t.Errorf("in use is %+v", got)
	}
}

// A caller that was quiet for so long that it did not count any more counts again once it calls.
func TestUsersWhoComeBackCountAgain(t *testing.T) {
	s, _ := move(t, false)
	c := admitMade(t, s, Who{UID: os.Getuid(), Owner: true}, testSchema().Hash())
	holds := s.Holds(Who{UID: 4711}, &cellproto.Hello{})
	holds(time.Now())
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Fatal(err)
	}
	if used := s.Users(time.Now().Add(time.Hour)); len(used) != 0 {
		t.Fatalf("%+v are in use", used)
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Fatal(err)
	}
	holds(time.Now())
	used := s.Users(time.Now().Add(-time.Hour))
	if len(used) != 1 || len(used[0].Users) != 2 {
		t.Errorf("in use is %+v, want one schema by two callers", used)
	}
}
