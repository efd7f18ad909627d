package call

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/race"
)

// Program is the cell's program, as the server half needs it.
type Program interface {
	// Ready gives the connection to the running program, or nil when it sleeps.
	Ready() *cellproto.Conn
	// Conn starts the program if it sleeps and waits for it.
	Conn(ctx context.Context) (*cellproto.Conn, error)
	// Begin takes one of the program's places; Overloaded when all are taken. End gives it back.
	Begin() error
	End()
}

// Serving is what the cell serves at the moment.
type Serving struct {
	Cell      cellproto.CellID   // of the published manifest; "" before the first publish
	Also      []cellproto.CellID // earlier versions whose callers this one can serve
	Schema    *cellproto.Schema  // nil when it is not known yet
	functions []string           // sorted; the numbers of hello
	specs     map[string]*cellproto.ArgSpec
}

// NewServing prepares what is served: the functions' numbers and the checks of their arguments.
func NewServing(cell cellproto.CellID, schema *cellproto.Schema) (*Serving, error) {
	s := &Serving{Cell: cell, Schema: schema, specs: map[string]*cellproto.ArgSpec{}}
	if schema == nil {
		return s, nil
	}
	for name, fn := range schema.Functions {
		spec, err := fn.Spec()
		if err != nil {
			return nil, err
		}
		s.functions = append(s.functions, name)
		s.specs[name] = spec
	}
	slices.Sort(s.functions)
	return s, nil
}

func (s *Serving) serves(wanted string) bool {
	return wanted == "" || wanted == string(s.Cell) || slices.Contains(s.Also, cellproto.CellID(wanted))
}

// ServerConfig says how calls are answered.
type ServerConfig struct {
	Name        string        // of the cell, for errors
	Agent       string        // for hello: "celld/0.1.0"
	Challenge   string        // cellproto.AuthNone, AuthSimple or AuthSig
	AllowedKeys []peer.ID     // with AuthSig
	TokenTTL    time.Duration // of a token; 0: cellproto.TokenTTL
	ShowSchema  bool          // to whoever may call
	MaxInFlight int           // in all; 0: cellproto.MaxStreams
	MaxPeer     int           // of one peer; 0: cellproto.MaxStreamsPeer
	OwnerUID    int           // callers on the Unix socket with this uid need no token
}

// ServerDeps is what the server half stands on.
type ServerDeps struct {
	Program  Program // nil: a nucleus without a program
	Identity Identity
	Outgoing func(c *cellproto.Conn, f *cellproto.Frame) // the owner's calls to other cells; see Caller.Accept
	Log      *zap.Logger
}

// Server answers the calls to one cell. Serve runs one connection; Close ends all of them.
type Server struct {
	cfg      ServerConfig
	deps     ServerDeps
	tokens   *tokens
	serving  atomic.Pointer[Serving]
	inFlight atomic.Int64
	served   atomic.Int64
	last     atomic.Int64 // unix ns of the end of the last call

	mu      sync.Mutex
	latency race.Latency
	peers   map[string]*peerLoad // by subject, those with a connection
	conns   map[*cellproto.Conn]*session
	closed  bool
	wg      sync.WaitGroup
}

// peerLoad is what one peer has in flight over all its connections.
type peerLoad struct {
	conns    int
	inFlight atomic.Int64
}

// NewServer makes the server half.
func NewServer(cfg ServerConfig, deps ServerDeps) *Server {
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = cellproto.MaxStreams
	}
	if cfg.MaxPeer == 0 {
		cfg.MaxPeer = cellproto.MaxStreamsPeer
	}
	if cfg.TokenTTL == 0 {
		cfg.TokenTTL = cellproto.TokenTTL
	}
	s := &Server{cfg: cfg, deps: deps, peers: map[string]*peerLoad{}, conns: map[*cellproto.Conn]*session{}}
	s.tokens = newTokens(cfg, deps.Identity)
	s.serving.Store(&Serving{})
	s.last.Store(time.Now().UnixNano())
	return s
}

// Set replaces what is served. Connections that asked for a version that is no longer served are
// told to leave; their calls in flight are finished.
func (s *Server) Set(serving *Serving) {
	s.serving.Store(serving)
	s.mu.Lock()
	var leave []*cellproto.Conn
	for c, sess := range s.conns {
		if wanted := sess.wanted.Load(); wanted != nil && !serving.serves(*wanted) {
			leave = append(leave, c)
		}
	}
	s.mu.Unlock()
	for _, c := range leave {
		_ = c.Goaway("this version is not served any more") // a lost connection has left
	}
}

// Serving gives what is served.
func (s *Server) Serving() *Serving { return s.serving.Load() }

// Load is the state of the server half, for adverts and status.
type Load struct {
	P50, P99  race.Micros
	InFlight  int
	Served    int64
	LastEnded time.Time // of the last call, or the start
}

// Load gives the load at the moment.
func (s *Server) Load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Load{
		P50: s.latency.P50(), P99: s.latency.P99(), InFlight: int(s.inFlight.Load()),
		Served: s.served.Load(), LastEnded: time.Unix(0, s.last.Load()),
	}
}

// Who is at the other end of a connection.
type Who struct {
	Peer  peer.ID // proven by libp2p; "" on a Unix socket
	UID   int     // on a Unix socket
	Owner bool    // the owner's own uid: may everything
}

// subject is what tokens are bound to and loads are counted by.
func (w Who) subject() string {
	if w.Peer != "" {
		return w.Peer.String()
	}
	return signed.SubjectUID(uint32(w.UID))
}

// session is one connection to the server.
type session struct {
	s       *Server
	who     Who
	subject string
	load    *peerLoad
	nonce   []byte
	meta    map[string]string // what the program is told of the caller
	wanted  atomic.Pointer[string]
	checked bool      // the peer's hello was looked at
	until   time.Time // may call until then; reading goroutine only
}

// Serve answers the calls on one connection until it ends. It returns why.
func (s *Server) Serve(ctx context.Context, t cellproto.Transport, who Who) error {
	sess := &session{s: s, who: who, subject: who.subject()}
	sess.nonce = s.tokens.challenge()
	if !who.Owner {
		sess.meta = map[string]string{"peer": sess.subject}
	}
	cfg := cellproto.Config{
		Hello:      s.hello(sess.nonce),
		Accept:     func(c *cellproto.Conn, f *cellproto.Frame) { sess.accept(ctx, c, f) },
		MaxInbound: s.cfg.MaxPeer,
	}
	if who.Owner {
		cfg.MaxInbound = s.cfg.MaxInFlight
	} else {
		cfg.IdleTimeout = cellproto.IdleTimeout
	}
	c, err := cellproto.NewConn(t, cfg)
	if err != nil {
		return err
	}
	if !s.enter(c, sess) {
		c.Close()
		return cellproto.Errorf("serve", cellproto.Unavailable, "the nucleus is stopping")
	}
	defer s.leave(c, sess)
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	return c.Run()
}

func (s *Server) hello(nonce []byte) cellproto.Hello {
	serving := s.serving.Load()
	h := cellproto.Hello{
		Agent: s.cfg.Agent, Peer: s.deps.Identity.Peer.String(), Cell: s.cellName(), Auth: s.cfg.Challenge, Nonce: nonce,
		Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}, Functions: serving.functions,
	}
	if serving.Schema != nil {
		hash := serving.Schema.Hash()
		h.Schema = hash[:]
	}
	return h
}

// cellName is what proofs and tokens are bound to, besides this host: the published version, or the
// cell's name.
func (s *Server) cellName() string {
	if id := s.serving.Load().Cell; id != "" {
		return string(id)
	}
	return s.cfg.Name
}

func (s *Server) enter(c *cellproto.Conn, sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	load := s.peers[sess.subject]
	if load == nil {
		load = &peerLoad{}
		s.peers[sess.subject] = load
	}
	load.conns++
	sess.load = load
	s.conns[c] = sess
	return true
}

func (s *Server) leave(c *cellproto.Conn, sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if sess.load.conns--; sess.load.conns == 0 {
		delete(s.peers, sess.subject)
	}
	s.wg.Done()
}

// Close lets calls in flight finish until ctx ends, then ends all connections and waits.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	conns := make([]*cellproto.Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	var drains sync.WaitGroup
	for _, c := range conns {
		drains.Go(func() { _ = c.Drain(ctx, "the nucleus is stopping") }) // cut at ctx's end, as said
	}
	drains.Wait()
	s.wg.Wait()
}

// accept takes one request, on the connection's reading goroutine: who is it, may it, is there
// room; then it is relayed to the program.
func (s *session) accept(ctx context.Context, c *cellproto.Conn, f *cellproto.Frame) {
	if err := s.admit(ctx, c, f); err != nil {
		_ = c.Queue(cellproto.ErrorReply(f.ID, err)) // a lost connection needs no answer
		c.FlushLater(c)
	}
}

func (s *session) admit(ctx context.Context, c *cellproto.Conn, f *cellproto.Frame) error {
	if f.Header.To != "" && s.who.Owner && s.s.deps.Outgoing != nil {
		s.s.deps.Outgoing(c, f)
		return nil
	}
	serving := s.s.serving.Load()
	if !s.checked {
		h, err := c.PeerHello(ctx)
		if err != nil {
			return err
		}
		s.wanted.Store(&h.Cell)
		s.checked = true
	}
	if wanted := *s.wanted.Load(); !serving.serves(wanted) {
		return cellproto.Errorf("call", cellproto.NotFound, "this peer does not serve %s", wanted)
	}
	if f.Header.Func == cellproto.FuncToken {
		return s.token(c, f)
	}
	if err := s.authorise(f); err != nil {
		return err
	}
	if strings.HasPrefix(f.Header.Func, cellproto.ReservedPrefix) {
		return s.reserved(c, f, serving)
	}
	if err := s.s.check(f, serving); err != nil {
		return err
	}
	return s.relay(ctx, c, f)
}

// reserved answers the nucleus's own functions.
func (s *session) reserved(c *cellproto.Conn, f *cellproto.Frame, serving *Serving) error {
	if f.Header.Func != cellproto.FuncSchema {
		return cellproto.Errorf("call "+f.Header.Func, cellproto.NotFound, "no such function of the nucleus")
	}
	switch {
	case !s.s.cfg.ShowSchema && !s.who.Owner:
		return cellproto.Errorf("call "+f.Header.Func, cellproto.Denied, "the cell does not show its schema")
	case serving.Schema == nil:
		return cellproto.Errorf("call "+f.Header.Func, cellproto.NotFound, "the cell has no schema yet").
			WithHint("Its owner makes one with cellctl publish, or by calling a function once.")
	}
	in := c.Inbound(context.Background(), f)
	s.s.wg.Go(func() { _ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, serving.Schema.Canonical()) }) // a lost caller needs none
	return nil
}

// check looks at the function and the arguments, so that no program is started for nothing.
func (s *Server) check(f *cellproto.Frame, serving *Serving) error {
	name := f.Header.Func
	if s.deps.Program == nil {
		return cellproto.Errorf("call "+name, cellproto.NotFound, "this nucleus has no program").
			WithHint("Set binary in cell.toml, or call another cell.")
	}
	if serving.Schema != nil {
		if _, err := serving.Schema.Function(name); err != nil {
			return err
		}
	}
	if f.Header.Codec != cellproto.JSON {
		return nil // the program's decoder is strict; only JSON comes from people
	}
	if err := cellproto.CheckJSON(f.Payload); err != nil {
		return err
	}
	if spec := serving.specs[name]; spec != nil {
		return spec.Check(f.Payload)
	}
	return nil
}

// relay takes a place and passes the request on.
func (s *session) relay(ctx context.Context, c *cellproto.Conn, f *cellproto.Frame) error {
	srv, program := s.s, s.s.deps.Program
	if err := s.take(); err != nil {
		return err
	}
	f.Header.Token, f.Header.To, f.Header.Meta = nil, "", s.metaFor(f.Header.Meta)
	begin := time.Now()
	r := cellproto.NewRelay(c, f, func(kind cellproto.Kind) { srv.done(s.load, begin, kind) })
	if up := program.Ready(); up != nil && r.To(up, f, true) == nil {
		return nil
	}
	clone := f.Clone()
	srv.wg.Go(func() { s.wake(ctx, r, &clone) })
	return nil
}

// take counts a call in, or says that there is no room.
func (s *session) take() error {
	srv := s.s
	if n := srv.inFlight.Add(1); n > int64(srv.cfg.MaxInFlight) {
		srv.inFlight.Add(-1)
		return overloaded("%d calls are in flight in this nucleus, the limit", srv.cfg.MaxInFlight)
	}
	if n := s.load.inFlight.Add(1); !s.who.Owner && n > int64(srv.cfg.MaxPeer) {
		s.load.inFlight.Add(-1)
		srv.inFlight.Add(-1)
		return overloaded("%d calls of this peer are in flight, the limit", srv.cfg.MaxPeer)
	}
	if err := srv.deps.Program.Begin(); err != nil {
		s.load.inFlight.Add(-1)
		srv.inFlight.Add(-1)
		return err
	}
	return nil
}

func overloaded(format string, args ...any) error {
	e := cellproto.Errorf("call", cellproto.Overloaded, format, args...)
	e.RetryAfter = 50 * time.Millisecond // a few times the duration of a usual call
	return e
}

func (s *Server) done(load *peerLoad, begin time.Time, kind cellproto.Kind) {
	now := time.Now()
	s.deps.Program.End()
	load.inFlight.Add(-1)
	s.inFlight.Add(-1)
	s.last.Store(now.UnixNano())
	if kind == 0 || kind == cellproto.FuncError {
		s.served.Add(1)
		s.mu.Lock()
		s.latency.Record(now.Sub(begin))
		s.mu.Unlock()
	}
}

// metaFor is what the program is told: the caller's own meta, and who it is. The owner's calls
// carry no peer.
func (s *session) metaFor(meta map[string]string) map[string]string {
	if len(meta) == 0 {
		return s.meta
	}
	delete(meta, "peer")
	for k, v := range s.meta {
		meta[k] = v
	}
	return meta
}

// wake starts the sleeping program for a request that waits. A program that leaves between being
// ready and being asked is started once more.
func (s *session) wake(ctx context.Context, r *cellproto.Relay, f *cellproto.Frame) {
	timeout := cellproto.DefaultTimeout
	if f.Header.Budget > 0 {
		timeout = f.Header.Budget
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for try := 0; ; try++ {
		up, err := s.s.deps.Program.Conn(ctx)
		if err == nil {
			if f.Header.Budget > 0 {
				f.Header.Budget = max(f.Header.Budget-time.Since(begin), time.Microsecond)
				begin = time.Now()
			}
			if err = r.To(up, f, false); err == nil {
				return
			}
		}
		if try == 2 || ctx.Err() != nil || cellproto.KindOf(err) != cellproto.Unavailable || cellproto.RetryAfterOf(err) > 0 {
			r.Fail(err)
			return
		}
	}
}
