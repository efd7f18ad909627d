package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adrg/xdg"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/call"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/program"
)

// ErrRunning says that another nucleus has the directory: there is nothing to do.
var ErrRunning = errors.New("a nucleus runs here already")

// Config says which cell to be the nucleus of.
type Config struct {
	Dir     string              // of the cell
	Home    string              // directory of the home cell, which has the account key; "": DefaultHome
	Version string              // of celld
	Getenv  func(string) string // overrides of cell.toml; nil: none
	Ready   func()              // called once, when the nucleus answers; nil: nothing
	Stderr  bool                // the log goes to standard error too; another celld has to know
	// Inherited is what another celld has handed over; nil: the nucleus starts.
	Inherited *Inherited
	Profile   Profile
	Overdue   func() // called if it has not stopped stopLimit after it began to; nil: nothing
}

// Deps is what a nucleus needs besides.
type Deps struct {
	Log *zap.Logger
}

// DefaultHome is the directory of the home cell: $CELL_HOME, else under the user's data directory.
func DefaultHome(getenv func(string) string) string {
	if home := getenv(cellproto.EnvHome); home != "" {
		return home
	}
	return filepath.Join(xdg.DataHome, "cell", "home")
}

// gcPercent trades a little CPU time for memory: a nucleus at rest is to be small. A limit in bytes
// would do so too, until there are a few hundred callers, and then collect garbage all the time (a
// quarter of the throughput with 400 of them, measured).
const gcPercent = 50

// nucleus is the parts that run, for the control API and each other. Nobody outside receives it.
type nucleus struct {
	cfg         *celltoml.Config
	version     string
	profile     Profile
	log         *zap.Logger
	identity    call.Identity
	host        host.Host
	gater       *gater
	places      *call.Places // where peers were reached
	dht         *dht.DHT
	blocks      *content.Store
	originals   originals
	program     *program.Program // nil: headless
	patches     *patches
	server      *call.Server
	caller      *call.Caller
	accounts    *accounts
	serving     *serving
	swaps       *swaps
	mirror      *mirror.Record  // nil: the cell is the owner's own
	placed      *give.Placement // nil: it is not hosted for somebody
	cgroup      string          // of the sandboxes of a hosted cell
	mirrors     *mirrors
	placer      *placer
	lease       *lease      // nil: not hosted for others
	giver       *give.Giver // nil: not the home cell
	depends     *depends
	locked      *locked
	schemas     *schemas
	fitting     *fitting
	olds        *olds
	checks      atomic.Pointer[checks] // nil: the caller is not there yet
	friends     friends
	adverts     *adverts
	reach       *reachability
	begun       time.Time
	grantedMu   sync.Mutex
	holders     []func(time.Time) // note a call of callers whose connections the program has
	grantedSeen uint64            // calls of granted connections that server was told of
	active      atomic.Int64      // unix ns of the begin or end of the last control request
	asked       atomic.Int64      // control requests in progress
	stop        context.CancelFunc
	stopping    chan struct{}   // closed when it begins to stop
	serveCtx    context.Context // of callers, who are drained before they are cut
	taken       *Inherited      // nil: it was started
	started     time.Time       // of this celld, for the nucleus
	upgraded    *ctl.UpgradeStatus
	upgrades    *upgrades
	stderr      bool
	lock        *runLock
	cell        *door
	control     *door
	lobby       *lobby
	wasReady    bool      // it has come so far
	retired     bool      // it ends because of nucleus_timeout
	stopBy      time.Time // until then calls in flight may go on; set when the nucleus begins to stop
}

// Run is the nucleus of one cell, until ctx ends, the control API says stop, or nucleus_timeout has
// passed without a call. It returns ErrRunning when the directory has a nucleus already.
func Run(ctx context.Context, cfg Config, deps Deps) (err error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return cellproto.Errorf("start "+cfg.Dir, cellproto.Failed, "%w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var started closers
	defer func() { started.close() }()

	toml, err := loadConfig(dir, cfg.Getenv)
	if err != nil {
		return err
	}
	cfg.Profile.confine(toml)
	record, err := asMirror(toml)
	if err != nil {
		return err
	}
	lock, err := cfg.Inherited.acquire(ctx, dir)
	if err != nil {
		return err
	}
	started.add(lock.unlock)
	debug.SetGCPercent(gcPercent)
	sweepTrash(dir, deps.Log)
	n := newNucleus(ctx, toml, cfg, deps)
	n.stop, n.lock, n.mirror = cancel, lock, record
	if err := n.place(); err != nil {
		return err
	}
	started.add(n.tidy)
	n.active.Store(time.Now().UnixNano())
	if err := n.start(ctx, cfg, &started); err != nil {
		return err
	}
	return n.stay(ctx, cfg, &started)
}

// start starts all parts, and says that the nucleus is ready.
func (n *nucleus) start(ctx context.Context, cfg Config, started *closers) (err error) {
	if n.identity, err = loadIdentity(n.cfg, cfg); err != nil {
		return err
	}
	if n.mirrors, err = newMirrors(n, homeOf(cfg)); err != nil {
		return err
	}
	if err := n.startNetwork(ctx, started); err != nil {
		return err
	}
	if err := n.startHalves(ctx, started); err != nil {
		return err
	}
	n.startLease(started)
	if err := n.startGiving(cfg, started); err != nil {
		return err
	}
	if err := n.listen(ctx, started); err != nil {
		return err
	}
	n.serving.resume(ctx)
	n.adverts.keep(started)
	n.keepUsers(started)
	n.welcome()
	n.watchProgram(started)
	n.noteUse(started)
	n.retire(started)
	n.log.Info("ready", zap.String("cell", n.cfg.Cell.Name), zap.Stringer("peer", n.identity.Peer), zap.Strings("addrs", n.addrs()))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // without systemd there is nobody to tell
	n.keepWatchdog(started)
	n.trim(started)
	if cfg.Ready != nil {
		cfg.Ready()
	}
	n.wasReady = true
	return nil
}

// stay waits until the nucleus is to stop, or hands it over; what was started is closed next.
func (n *nucleus) stay(ctx context.Context, cfg Config, started *closers) (err error) {
	var next *departure
	if n.retired, next = n.waitForEnd(ctx); next != nil {
		n.log.Info("handing over", zap.String("file", next.next.path), zap.String("version", next.next.version))
		err = next.depart(n.log)
	}
	close(n.stopping)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	n.log.Info("stopping")
	if cfg.Overdue != nil {
		overdue := time.AfterFunc(stopLimit, cfg.Overdue)
		*started = append(closers{func() { overdue.Stop() }}, *started...) // the last one
	}
	n.stopBy = time.Now().Add(stopGrace)
	return err
}

// newNucleus makes a nucleus of which nothing runs.
func newNucleus(ctx context.Context, toml *celltoml.Config, cfg Config, deps Deps) *nucleus {
	now := time.Now()
	n := &nucleus{
		cfg: toml, version: cfg.Version, profile: cfg.Profile, log: deps.Log, begun: now, started: now, stderr: cfg.Stderr,
		stopping: make(chan struct{}), serveCtx: context.WithoutCancel(ctx), taken: cfg.Inherited,
	}
	if n.taken != nil {
		n.begun = n.taken.h.begun()
		n.upgraded = &ctl.UpgradeStatus{From: n.taken.h.From, At: now, Error: n.taken.h.Failed}
	}
	n.upgrades = newUpgrades(n)
	return n
}

// How long a nucleus takes to stop. Calls in flight may go on for stopGrace, and the program has
// stopProgram then to end by itself. What is past stopLimit is a bug.
const (
	stopGrace   = 5 * time.Second
	stopProgram = 2 * time.Second
	stopLimit   = 10 * time.Second
)

// grace is for what may go on for a while when the nucleus stops: until stopGrace after that began,
// and extra. What never was ready gets extra only.
func (n *nucleus) grace(extra time.Duration) (context.Context, context.CancelFunc) {
	until := n.stopBy
	if until.IsZero() {
		until = time.Now()
	}
	return context.WithDeadline(context.Background(), until.Add(extra))
}

// closers are run in reverse: what was started last is stopped first.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c *closers) close() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i]()
	}
}

func loadConfig(dir string, getenv func(string) string) (*celltoml.Config, error) {
	toml, err := celltoml.Load(dir)
	if err != nil {
		return nil, err
	}
	if getenv != nil {
		if err := toml.ApplyEnv(getenv); err != nil {
			return nil, err
		}
	}
	return toml, nil
}

// loadIdentity reads the cell's host key and the person's account key.
func loadIdentity(toml *celltoml.Config, cfg Config) (call.Identity, error) {
	key, err := loadKey(toml.Dir, hostKeyFile)
	if err != nil {
		return call.Identity{}, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return call.Identity{}, cellproto.Errorf("read "+hostKeyFile, cellproto.Corrupt, "%w", err)
	}
	account, err := loadKey(homeOf(cfg), accountKeyFile)
	if err != nil {
		return call.Identity{}, err
	}
	return call.Identity{Peer: id, Host: key, Account: personKey(homeOf(cfg), account)}, nil
}

func homeOf(cfg Config) string {
	if cfg.Home != "" {
		return cfg.Home
	}
	getenv := cfg.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	return DefaultHome(getenv)
}

// startHalves starts the program's supervisor and the two halves of node/call, and what ties them
// together: the program calls out through the caller, and the server serves the program.
func (n *nucleus) startHalves(ctx context.Context, started *closers) error {
	allowed, err := allowedKeys(n.cfg)
	if err != nil {
		return err
	}
	var caller *call.Caller
	made := make(chan struct{}) // caller: a program that was handed over calls others before that
	defer close(made)
	outgoing := func(c *cellproto.Conn, f *cellproto.Frame) {
		if <-made; caller != nil {
			caller.Accept(c, f)
		}
	}
	n.schemas = openSchemas(n.cfg.Dir, n.log.Named("schemas"))
	n.serving = newServing(n)
	n.adverts = newAdverts(n)
	n.olds = openOlds(n)
	n.fitting = newFitting(n)
	n.swaps = newSwaps(n)
	started.add(n.swaps.wait)
	var prog call.Program
	if !n.cfg.Headless() {
		if n.program, err = n.newProgram(outgoing, started); err != nil {
			return err
		}
		prog = watched{n.program, n.serving}
		n.taken.reap(n.program.State().PID)
	} else {
		n.taken.reap(0)
	}
	n.server = n.newServer(prog, outgoing, allowed)
	n.friends.know(n.server, n.mirrors.account, allowed)
	n.placer = newPlacer(n, started) // ends after the caller, which tells it
	n.depends = newDepends(n, started)
	n.locked = newLocked(n.cfg.Dir, n.log.Named("lock"))
	caller = n.newCaller()
	n.caller = caller
	n.checks.Store(newChecks(n, started))
	if n.taken != nil {
		n.server.Count(n.taken.h.Server)
	}
	shut := once(caller.Close)
	started.add(shut)
	n.upgrades.goodbye.add(shut)
	started.add(func() {
		ctx, cancel := n.grace(0)
		defer cancel()
		n.server.Close(ctx)
	})
	if err := n.startPatches(started); err != nil {
		return err
	}
	if err := n.startAccounts(started); err != nil {
		return err
	}
	n.handle(cellproto.ProtocolCall, func(s network.Stream) error { return n.server.ServeStream(n.serveCtx, s) })
	n.handle(cellproto.ProtocolAdvert, n.adverts.serve)
	n.handle(cellproto.ProtocolCallers, n.serveCallers)
	return nil
}

// newProgram makes the supervisor of the cell's program.
func (n *nucleus) newProgram(outgoing func(*cellproto.Conn, *cellproto.Frame), started *closers) (*program.Program, error) {
	out, err := program.OpenLog(filepath.Join(n.cfg.Dir, "log", "cell.log"))
	if err != nil {
		return nil, err
	}
	started.add(func() { out.Close() })
	box, err := n.sandboxOf()
	if err != nil {
		return nil, err
	}
	if box != nil {
		outgoing = nil // what it calls, it would call in the owner's name
	}
	accept, err := n.keepState(outgoing, started)
	if err != nil {
		return nil, err
	}
	cfg, deps := program.Config{
		Dir: n.cfg.Dir, Name: n.cfg.Cell.Name, Binary: n.cfg.Cell.Binary, Speaks: n.cfg.Cell.Speaks,
		FreezeAfter: n.cfg.LifeCycle.FreezeAfter, IdleTimeout: n.cfg.LifeCycle.IdleTimeout, Concurrency: n.cfg.Resources.Concurrency,
		Sandbox: box,
	}, program.Deps{Log: n.log.Named("program"), Output: out, Accept: accept, RolledBack: n.swaps.rolledBack, Proven: n.invite}
	p := n.adoptProgram(cfg, deps)
	if p == nil {
		if p, err = program.New(cfg, deps); err != nil {
			return nil, err
		}
	}
	started.add(func() {
		ctx, cancel := n.grace(stopProgram)
		defer cancel()
		_ = p.Close(ctx) // it has been killed by then
	})
	return p, nil
}

// waitForEnd returns when the nucleus is to stop, and reports whether that is because of nucleus_timeout,
// or when another celld is to take over, which it gives.
func (n *nucleus) waitForEnd(ctx context.Context) (retired bool, next *departure) {
	limit := n.cfg.LifeCycle.NucleusTimeout
	if limit == 0 {
		limit = 100 * 365 * 24 * time.Hour
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case next = <-n.upgrades.ready:
			return false, next
		case <-timer.C:
		}
		left := limit - time.Since(n.lastUsed())
		if left <= 0 && !n.gives() && n.load().InFlight == 0 && n.asked.Load() == 0 {
			n.log.Info("nobody has called for nucleus_timeout", zap.Duration("timeout", limit))
			return true, nil
		}
		timer.Reset(max(left, time.Second))
	}
}
