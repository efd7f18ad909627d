package call

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// How much is remembered of who uses which schema. The one that called least recently is forgotten first; of
// schemas, those that the cell never had before that.
const (
	maxUsedSchemas = 64
	maxUsers       = 256 // of one schema
)

// User is one caller of a schema.
type User struct {
	Who  string    `json:"who"`            // peer ID, or on this machine "uid:N", with the peer ID of a calling nucleus
	Says bool      `json:"says,omitempty"` // it has named the schema; else it is the one that it found
	Last time.Time `json:"last"`           // call

	By   string `json:"-"` // peer ID of who says so; "": this nucleus has seen it
	More int    `json:"-"` // of somebody's word: so many callers who are not named, and Who is ""
}

// Used is one schema that callers use.
type Used struct {
	Schema cellproto.SchemaHash `json:"schema"`
	Users  []User               `json:"users"` // the last to call first
}

// users remembers who calls by which schema. Its methods may be used concurrently.
type users struct {
	known func(cellproto.SchemaHash) bool // the cell has, or had, this schema

	mu sync.Mutex
	m  map[cellproto.SchemaHash]map[string]*user
}

// user is one caller of one schema. A call costs it one store.
type user struct {
	says atomic.Bool
	gone atomic.Bool  // it has not called for long, and was forgotten: it is to be looked up anew
	last atomic.Int64 // unix ns
}

func newUsers(known func(cellproto.SchemaHash) bool) *users {
	if known == nil {
		known = func(cellproto.SchemaHash) bool { return false }
	}
	return &users{known: known, m: map[cellproto.SchemaHash]map[string]*user{}}
}

// of gives the entry of a caller, and makes it.
func (u *users) of(hash cellproto.SchemaHash, who string, says bool) *user {
	u.mu.Lock()
	defer u.mu.Unlock()
	callers := u.m[hash]
	if callers == nil {
		if len(u.m) >= maxUsedSchemas {
			u.forgetSchema()
		}
		callers = map[string]*user{}
		u.m[hash] = callers
	}
	e := callers[who]
	if e == nil {
		if len(callers) >= maxUsers {
			delete(callers, oldest(callers))
		}
		e = &user{}
		callers[who] = e
	}
	if says {
		e.says.Store(true)
	}
	return e
}

// forgetSchema makes room. u.mu is held.
func (u *users) forgetSchema() {
	newest := func(callers map[string]*user) (at int64) {
		for _, e := range callers {
			at = max(at, e.last.Load())
		}
		return at
	}
	hashes := slices.SortedFunc(maps.Keys(u.m), func(a, b cellproto.SchemaHash) int {
		if x, y := u.known(a), u.known(b); x != y {
			if x {
				return 1
			}
			return -1
		}
		return cmp.Compare(newest(u.m[a]), newest(u.m[b]))
	})
	delete(u.m, hashes[0])
}

func oldest(callers map[string]*user) (who string) {
	var at int64
	for name, e := range callers {
		if last := e.last.Load(); who == "" || last < at {
			who, at = name, last
		}
	}
	return who
}

// rows gives who has called since then, the schemas that were used last first, and forgets the others.
func (u *users) rows(since time.Time) (out []Used) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for hash, callers := range u.m {
		row := Used{Schema: hash}
		for who, e := range callers {
			at := time.Unix(0, e.last.Load())
			if at.Before(since) {
				e.gone.Store(true)
				delete(callers, who)
				continue
			}
			row.Users = append(row.Users, User{Who: who, Says: e.says.Load(), Last: at})
		}
		if len(row.Users) == 0 {
			delete(u.m, hash)
			continue
		}
		slices.SortFunc(row.Users, func(a, b User) int { return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Who, b.Who)) })
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b Used) int {
		return cmp.Or(b.Users[0].Last.Compare(a.Users[0].Last), strings.Compare(a.Schema.String(), b.Schema.String()))
	})
	return out
}

// Users gives who has called since then, and by which schema. Callers that did not say one count for what
// they found.
func (s *Server) Users(since time.Time) []Used { return s.users.rows(since) }

// Remember takes up what another nucleus, or an earlier run, has noted; what lies in the future counts as now.
func (s *Server) Remember(used []Used, now time.Time) {
	for _, row := range used {
		for _, one := range row.Users {
			e := s.users.of(row.Schema, one.Who, one.Says)
			e.last.Store(max(e.last.Load(), min(one.Last.UnixNano(), now.UnixNano())))
		}
	}
}

// Holds notes that a caller who said h calls from now on, over a connection that the program has itself. touch
// is to be called when one of those has called.
func (s *Server) Holds(who Who, h *cellproto.Hello) (touch func(now time.Time)) {
	said, serving := userHello{h.MadeFor, h.Peer}, s.serving.Load()
	e := s.user(serving, who, said)
	if e == nil {
		return func(time.Time) {}
	}
	return func(now time.Time) {
		if e.gone.Load() {
			e = s.user(serving, who, said)
		}
		e.last.Store(now.UnixNano())
	}
}

// StillHolds is Holds for those callers on this machine whom an earlier run has noted, when the program has connections
// from then: whose they are it does not say.
func (s *Server) StillHolds(used []Used) (touches []func(now time.Time)) {
	for _, row := range used {
		for _, one := range row.Users {
			if strings.HasPrefix(one.Who, "uid:") {
				touches = append(touches, func(now time.Time) { s.users.of(row.Schema, one.Who, one.Says).last.Store(now.UnixNano()) })
			}
		}
	}
	return touches
}

// Dismiss has those of the owner's callers on the Unix socket come back who say that they were made for a schema of
// which gone is true, as Elsewhere does from now on. They hear which schema comes next. When it returns, what they have asked before is with the program,
// or ctx has ended.
func (s *Server) Dismiss(ctx context.Context, next cellproto.SchemaHash, gone func(made []byte) bool) {
	now, cancel := context.WithCancel(context.Background())
	cancel() // a hello that is not here yet is not waited for
	s.mu.Lock()
	var leave []*cellproto.Conn
	for c, sess := range s.conns {
		if sess.who.Peer != "" || !sess.who.Owner {
			continue
		}
		if hello, err := c.PeerHello(now); err == nil && len(hello.MadeFor) > 0 && gone(hello.MadeFor) {
			leave = append(leave, c)
		}
	}
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range leave {
		all.Go(func() {
			tellSchema(c, next)
			_ = c.Goaway(elsewhereText) // a lost connection has left
			_, _ = c.Ping(ctx)          // the answer is read after all that came before
		})
	}
	all.Wait()
}

// user gives the entry of a caller of what is served; nil if that has no schema, and the caller names none.
func (s *Server) user(serving *Serving, who Who, h userHello) *user {
	hash := serving.Hash
	if len(h.made) > 0 {
		hash = cellproto.SchemaHash(h.made)
	}
	if hash.IsZero() {
		return nil
	}
	name := who.subject()
	if who.Peer == "" && h.peer != "" { // many cells have one uid
		if id, err := peer.Decode(h.peer); err == nil {
			name += " " + id.String()
		}
	}
	return s.users.of(hash, name, len(h.made) > 0)
}

// userHello is what a caller's hello says of it: the schema that it was made for, and, unproven, its peer ID.
type userHello struct {
	made []byte
	peer string
}
