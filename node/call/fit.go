package call

import (
	"context"
	"maps"

	"github.com/celldnet/celld/cellproto"
)

// Whether a caller is served is looked at where its request is bound to a program, by that program's own hello:
// what is served may change after the request was taken, and while it waits. What a connection leads to does not.

// Fit is what a program is to those who call it as another schema says.
type Fit struct {
	Known  bool              // false: the program is to be asked for its schema first
	Broken map[string]string // how it breaks them, by function; empty: it does not
	// As is the schema of the older version as which it serves them; zero: they get what everybody does.
	As cellproto.SchemaHash
}

// fitted is the Fit of the program at the end of a connection, for one session.
type fitted struct {
	up   *cellproto.Conn
	fit  Fit
	meta map[string]string // that tells the program As; nil: nothing
}

// fits looks at the program at the end of up, for whose hello it waits until ctx ends: the error says that it does not
// serve this caller's calls of fn. known is false if that cannot be told yet.
func (s *session) fits(ctx context.Context, up *cellproto.Conn, f *cellproto.Frame) (known bool, err error) {
	if s.hello.made == nil || s.s.cfg.Fit == nil {
		return true, nil
	}
	fn := f.Header.Func
	last := s.fitted.Load()
	if last == nil || last.up != up {
		now := &fitted{up: up, fit: s.fitOf(ctx, up)}
		if !now.fit.Known {
			return false, nil
		}
		if !now.fit.As.IsZero() {
			now.meta = maps.Clone(s.meta)
			if now.meta == nil {
				now.meta = map[string]string{}
			}
			now.meta[cellproto.MetaSchema] = now.fit.As.String()
		}
		s.fitted.Store(now)
		last = now
	}
	what, broken := last.fit.Broken[fn]
	if !broken {
		last.tell(f)
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

// tell has the request say which version of itself the program is called as. It is told again when it goes to
// another program.
func (x *fitted) tell(f *cellproto.Frame) {
	_, told := f.Header.Meta[cellproto.MetaSchema]
	switch {
	case x.meta == nil && !told:
	case x.meta == nil:
		f.Header.Meta = maps.Clone(f.Header.Meta)
		delete(f.Header.Meta, cellproto.MetaSchema)
	case told || len(f.Header.Meta) > 0:
		f.Header.Meta = maps.Clone(f.Header.Meta)
		maps.Copy(f.Header.Meta, x.meta)
	default:
		f.Header.Meta = x.meta
	}
}

// as gives what is served as this caller knows it; nil if that does not serve it as a whole: what it asks is not
// looked at before it comes to a program.
func (s *session) as(serving *Serving) *Serving {
	if s.hello.made == nil || s.s.cfg.Fit == nil || serving.Schema == nil || string(s.hello.made) == string(serving.Hash[:]) {
		return serving
	}
	if s.viewOf == serving {
		return s.view
	}
	fit := s.s.cfg.Fit(cellproto.SchemaHash(s.hello.made), serving.Hash)
	if !fit.Known {
		return nil
	}
	s.view, s.viewOf = serving, serving
	if !fit.As.IsZero() {
		s.view = serving.older[fit.As]
	}
	if len(fit.Broken) > 0 {
		s.view = nil
	}
	return s.view
}

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
	known, err := s.fits(noTime, up, f)
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
