package call

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
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

// ServerConfig says how calls are answered.
type ServerConfig struct {
	Name        string        // of the cell, for errors
	Agent       string        // for hello: "celld/0.1.0"
	Challenge   string        // cellproto.AuthNone, AuthSimple or AuthSig
	AllowedKeys []peer.ID     // with AuthSig
	TokenTTL    time.Duration // of a token; 0: cellproto.TokenTTL
	ShowSchema  bool          // to whoever may call
	CheckArgs   bool          // as deep as the schema says: the program does not do so itself
	MaxInFlight int           // in all; 0: cellproto.MaxStreams
	MaxPeer     int           // of one peer; 0: cellproto.MaxStreamsPeer
	OwnerUID    int           // callers on the Unix socket with this uid need no token
	// Elsewhere says whether a caller on the Unix socket that was made for this schema, a hash, is served by another
	// nucleus, to which it is led when it comes back; nil: nobody is.
	Elsewhere func(made []byte) bool
	// Fit says what a program with the schema live is to callers who were made for another one; nil: it serves all.
	Fit func(made, live cellproto.SchemaHash) Fit
	// Had says whether the cell has, or had, a schema; nil: nobody knows.
	Had func(cellproto.SchemaHash) bool
}

// ServerDeps is what the server half stands on.
type ServerDeps struct {
	Program  Program // nil: a nucleus without a program
	Identity Identity
	Outgoing func(c *cellproto.Conn, f *cellproto.Frame) // the owner's calls to other cells; see Caller.Accept
	Rank     func(Who) Rank                              // of a caller that has to wait, while this host is busy; nil: all are strangers
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
	keys     keys
	meter    *Meter
	queue    queue
	probers  probers
	users    *users
	streams  *shares // of callers, on the network
	unread   *shares // likewise: see fromCaller

	passed    sync.Pool    // of *passed, which no call uses
	kept      atomic.Int64 // bytes of requests that can be made again
	keyPrefix [8]byte      // of the keys that are made here
	keysMade  atomic.Uint64

	mu      sync.Mutex
	latency race.Latency
	faded   time.Time            // as of when latency stands
	peers   map[string]*peerLoad // by subject, those with a connection or a call
	conns   map[*cellproto.Conn]*session
	proven  map[peer.ID]proven // peers on the network that have proven a key
	closed  bool
	away    bool  // peers on the network are refused; see Leave
	holding bool  // callers on Unix sockets are held
	work    group // connections, and what their requests wait on
}

// peerLoad is what one peer has in flight over all its connections, those that have ended included: the
// program may still work for them.
type peerLoad struct {
	conns    int
	inFlight atomic.Int64
	use      *gauge
	left     atomic.Bool // conns is 0; set with Server.mu held
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
	s := &Server{
		cfg: cfg, deps: deps, peers: map[string]*peerLoad{}, conns: map[*cellproto.Conn]*session{}, proven: map[peer.ID]proven{},
		streams: newShares(sharedStreams), unread: newShares(sharedUnread),
	}
	s.users = newUsers(cfg.Had)
	s.keys.once = newOnce[*keyed]()
	s.meter = newMeter()
	s.queue.time = queueTime
	s.tokens = newTokens(cfg, deps.Identity)
	s.serving.Store(&Serving{})
	s.keyPrefix = newKeyPrefix()
	s.faded = time.Now()
	s.last.Store(s.faded.UnixNano())
	return s
}

// Set replaces what is served. Connections that asked for a version that is no longer served are
// told to leave; their calls in flight are finished.
func (s *Server) Set(serving *Serving) {
	before := s.serving.Swap(serving)
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := before.Schema != nil && serving.Schema != nil && before.Hash != serving.Hash
	for c, sess := range s.conns {
		if changed {
			s.work.Go(func() { tellSchema(c, serving.Hash) })
		}
		if wanted := sess.wanted.Load(); wanted != nil && !serving.serves(*wanted) {
			// Not here: a peer that does not read holds the write up.
			s.work.Go(func() { _ = c.Goaway("this version is not served any more") }) // a lost connection has left
		}
	}
}

// tellSchema tells a caller which schema is served from now on.
func tellSchema(c *cellproto.Conn, hash cellproto.SchemaHash) {
	_ = c.Send(&cellproto.Frame{Type: cellproto.TypeEvent, Header: cellproto.Header{Func: cellproto.EventSchema}, Payload: hash[:]}) // a lost connection has left
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

// claimHalf is how soon calls count half in what is told of them. Who is called a lot tells of the last thousand
// all the same; who is not, since it was slow at its start, tells so for a few minutes.
const claimHalf = 30 * time.Second

// Load gives the load at the moment.
func (s *Server) Load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faded = s.latency.Fade(time.Now(), s.faded, claimHalf, 0)
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
	cell    string // what hello called the cell; proofs and tokens on this connection name it
	load    *peerLoad
	ctx     context.Context   // ends with the connection
	meta    map[string]string // what the program is told of the caller
	over    chan struct{}     // closed when the connection is not served here any more
	begun   time.Time

	transport cellproto.Transport
	wanted    atomic.Pointer[string]
	conn      *cellproto.Conn // set before it is read
	fitted    atomic.Pointer[fitted]

	// For the goroutine that reads the connection only.
	nonce   []byte    // nil: used
	checked bool      // the peer's hello was looked at
	token   []byte    // that it gave; nil: none
	hello   userHello // what it has said of itself
	user    *user     // of what is served, or of made; nil: not looked up yet, or there is no schema
	usedOf  *Serving  // for which user was looked up
	view    *Serving  // what is served as the caller knows it; see as
	viewOf  *Serving  // of which it is one
	until   time.Time // may call until then
}

// ServeStream answers the calls on a stream of the call protocol until it ends. It returns why.
func (s *Server) ServeStream(ctx context.Context, st network.Stream) error {
	group := networkOf(st.Conn())
	if !s.streams.take(group, 1) {
		return overloaded("the streams of this network are as many as it may have now")
	}
	defer s.streams.give(group, 1)
	if err := reserve(st); err != nil {
		return err
	}
	who := Who{Peer: st.Conn().RemotePeer()}
	use := s.meter.enter(who.subject())
	defer s.meter.leave(who.subject(), use)
	return s.Serve(ctx, fromCaller{counted{stream{st}, use}, s.unread, group}, who)
}

// Serve answers the calls on one connection until it ends, and closes it. It returns why.
func (s *Server) Serve(ctx context.Context, t cellproto.Transport, who Who) error {
	run, err := s.Admit(ctx, t, who)
	if err != nil {
		return err
	}
	return run()
}

// Admit makes a connection one of the server's; run, which is due, is the rest of Serve. If it fails the
// connection is closed.
func (s *Server) Admit(ctx context.Context, t cellproto.Transport, who Who) (run func() error, err error) {
	sess := s.session(t, who, s.cellName(), s.tokens.challenge())
	return s.admit(ctx, sess, func(cfg cellproto.Config) (*cellproto.Conn, error) {
		cfg.Hello = s.hello(sess.cell, sess.nonce)
		return cellproto.NewConn(t, cfg)
	})
}

// session makes a session that is not served yet.
func (s *Server) session(t cellproto.Transport, who Who, cell string, nonce []byte) *session {
	sess := &session{s: s, transport: t, who: who, subject: who.subject(), cell: cell, nonce: nonce, over: make(chan struct{}), begun: time.Now()}
	if !who.Owner {
		sess.meta = map[string]string{metaPeer: sess.subject}
	}
	return sess
}

// admit makes the connection of a session one of the server's. run serves it until it ends, and closes
// it, or until it is suspended.
func (s *Server) admit(ctx context.Context, sess *session, connect func(cellproto.Config) (*cellproto.Conn, error)) (run func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	sess.ctx = ctx
	cfg := cellproto.Config{Accept: sess.accept, MaxInbound: s.cfg.MaxPeer}
	if sess.who.Owner {
		cfg.MaxInbound = s.cfg.MaxInFlight
	} else {
		cfg.IdleTimeout, cfg.MaxUnread = cellproto.IdleTimeout, cellproto.MaxUnread
		cfg.Memory, _ = sess.transport.(cellproto.Memory)
	}
	c, err := connect(cfg)
	if err != nil {
		cancel()
		sess.transport.Close()
		return nil, err
	}
	sess.conn = c
	if !s.enter(c, sess) {
		cancel()
		c.Close()
		return nil, cellproto.Errorf("serve", cellproto.Unavailable, "the nucleus is stopping, or about to be replaced")
	}
	return func() error {
		defer cancel()
		defer s.leave(c, sess)
		stop := context.AfterFunc(ctx, c.Close)
		defer stop()
		return c.Run()
	}, nil
}

func (s *Server) hello(cell string, nonce []byte) cellproto.Hello {
	serving := s.serving.Load()
	h := cellproto.Hello{
		Agent: s.cfg.Agent, Peer: s.deps.Identity.Peer.String(), Cell: cell, Auth: s.cfg.Challenge, Nonce: nonce,
		Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}, Functions: serving.functions,
	}
	if serving.Schema != nil {
		h.Schema = serving.Hash[:]
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

// enter counts a connection in, unless the server is closed. Else leave is due.
func (s *Server) enter(c *cellproto.Conn, sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.away && sess.who.Peer != "" || !s.work.begin() {
		return false
	}
	if s.holding && sess.who.Peer == "" {
		_ = c.Hold() // every transport of theirs can be held
	}
	load := s.peers[sess.subject]
	if load == nil {
		load = &peerLoad{use: s.meter.gauge(sess.subject)}
		s.peers[sess.subject] = load
	}
	load.conns++
	load.left.Store(false)
	sess.load = load
	s.conns[c] = sess
	return true
}

func (s *Server) leave(c *cellproto.Conn, sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if sess.load.conns--; sess.load.conns == 0 {
		sess.load.left.Store(true)
		if sess.load.inFlight.Load() == 0 { // else the last call's end does it
			delete(s.peers, sess.subject)
		}
	}
	close(sess.over)
	s.work.end()
}

// forgetLoad forgets a peer that has left, once it has no call in flight.
func (s *Server) forgetLoad(subject string, load *peerLoad) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[subject] == load && load.conns == 0 && load.inFlight.Load() == 0 {
		delete(s.peers, subject)
	}
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
		drains.Go(func() {
			stop := context.AfterFunc(ctx, c.Close) // even if the peer does not take the goaway
			defer stop()
			_ = c.Drain(ctx, "the nucleus is stopping") // cut at ctx's end, as said
		})
	}
	drains.Wait()
	s.work.wait()
}
