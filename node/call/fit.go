package call

import (
	"context"

	"github.com/celldnet/celld/cellproto"
)

// Whether a caller is served is looked at where its request is bound to a program, by that program's own hello:
// what is served may change after the request was taken, and while it waits. What a connection leads to does not.

// Fit is what a program is to those who call it as another schema says.
type Fit struct {
	Known  bool              // false: the program is to be asked for its schema first
	Broken map[string]string // how it breaks them, by function; empty: it does not
}

// fitted is the Fit of the program at the end of a connection, for one session.
type fitted struct {
	up  *cellproto.Conn
	fit Fit
}

// fits looks at the program at the end of up, for whose hello it waits until ctx ends: the error says that it does not
// serve this caller's calls of fn. known is false if that cannot be told yet.
func (s *session) fits(ctx context.Context, up *cellproto.Conn, fn string) (known bool, err error) {
	if s.hello.made == nil || s.s.cfg.Fit == nil {
		return true, nil
	}
	last := s.fitted.Load()
	if last == nil || last.up != up {
		now := &fitted{up, s.fitOf(ctx, up)}
		if !now.fit.Known {
			return false, nil
		}
		s.fitted.Store(now)
		last = now
	}
	what, broken := last.fit.Broken[fn]
	if !broken {
		return true, nil
	}
	if s.elsewhere() {
		return true, errElsewhere(fn)
	}
	return true, cellproto.Errorf("call "+fn, cellproto.Incompatible,
		"the cell does not serve callers any more who were made for its schema %s: %s", cellproto.SchemaHash(s.hello.made).String()[:shownHash], what).
		WithHint("Make the client anew: cellctl gen; cellctl check says what has changed.")
}

const shownHash = 12 // hex digits

func (s *session) fitOf(ctx context.Context, up *cellproto.Conn) Fit {
	hello, err := up.PeerHello(ctx)
	if err != nil {
		return Fit{}
	}
	if len(hello.Schema) == 0 || string(hello.Schema) == string(s.hello.made) { // who names none promises nothing
		return Fit{Known: true}
	}
	return s.s.cfg.Fit(cellproto.SchemaHash(s.hello.made), cellproto.SchemaHash(hello.Schema))
}

// passNow gives a request to the program if that is awake, and reports whether the call is seen to: the program has it,
// or must not have it, and the caller its error. Only the goroutine that reads the caller's connection calls it.
func (s *session) passNow(r *cellproto.Relay, f *cellproto.Frame) bool {
	up := s.s.deps.Program.Ready()
	if up == nil {
		return false
	}
	known, err := s.fits(noTime, up, f.Header.Func)
	if err != nil {
		s.turnAway(err)
		r.Fail(err)
		return true
	}
	return known && r.To(up, f, true) == nil
}

// noTime has ended already.
var noTime = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

const elsewhereText = "an older version of this cell goes on for you: come back"

func errElsewhere(fn string) error {
	return cellproto.Errorf("call "+fn, cellproto.Unavailable, elsewhereText)
}

// turnAway has a caller come back that is served elsewhere. It says so before the answer.
func (s *session) turnAway(err error) {
	if cellproto.KindOf(err) == cellproto.Unavailable {
		_ = s.conn.Queue(&cellproto.Frame{Type: cellproto.TypeGoaway, Payload: []byte(elsewhereText)}) // a lost connection has left
	}
}

// elsewhere reports that another nucleus serves this caller, which the one that it comes back to knows.
func (s *session) elsewhere() bool {
	return s.who.Owner && s.who.Peer == "" && s.hello.made != nil && s.s.cfg.Elsewhere != nil && s.s.cfg.Elsewhere(s.hello.made)
}
