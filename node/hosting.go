package node

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/mirror/offer"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// The donor's side of mirrors: the home cell's nucleus takes offers, has strangers' cells taken up, and
// says whether they may run. What they are is in their directories, so that nothing is lost with it.

const (
	// renewEvery is how often hosted mirrors are told that they may go on: three times in a lease.
	renewEvery = leaseFor / 3
	// renewTimeout bounds that, with the start of one that sleeps.
	renewTimeout = 20 * time.Second
	// yieldWait is how long one may take to give the machine back, before it is killed.
	yieldWait = 3 * time.Second
	// hostedUnused is how long a mirror is hosted that nobody calls.
	hostedUnused = 24 * time.Hour
)

// States of what is hosted, besides those of ctl.
const (
	stateTaking  = "taking up"
	stateRunning = give.StateRunning
	statePaused  = "paused"
	stateFailed  = "failed"
)

// hosting is what this machine hosts for others. It is give.Hosted and offer.Donor.
type hosting struct {
	n      *nucleus
	log    *zap.Logger
	server *offer.Server
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	kick   chan struct{} // holds one: look at all now
	intake *intake

	admission sync.Mutex // one cell is admitted at a time

	mu      sync.Mutex
	cells   map[string]*hostedCell // by CID
	running bool
	since   time.Time     // it has been running
	open    bool          // offers are taken
	paused  chan struct{} // closed while what is hosted does not run
}

// hostedCell is one of them.
type hostedCell struct {
	op  sync.Mutex // it is told one thing at a time
	row give.Row   // guarded by hosting.mu, as is what follows

	used   time.Time // when it was seen to have answered more calls than before
	served int64
	cpu    int64 // ms, as of
	disk   int64 // bytes, as of
	at     time.Time

	instead string // CID of the one that makes room for it, once it is there; ""
	leaving bool   // it makes room for another one, if that comes
	rests   bool   // it is stopped meanwhile, and not renewed
}

// newHosting finds what is hosted. Nothing of it runs before Resume.
func newHosting(n *nucleus) *hosting {
	h := &hosting{
		n: n, log: n.log.Named("hosting"), kick: make(chan struct{}, 1), cells: map[string]*hostedCell{}, paused: make(chan struct{}),
		intake: newIntake(time.Now),
	}
	close(h.paused)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.server = offer.NewServer(h, h.log)
	list, err := n.mirrors.store.List()
	if err != nil {
		h.log.Warn("what is hosted cannot be listed", zap.Error(err))
	}
	now := time.Now()
	for _, m := range list {
		if m.Hosted {
			c := &hostedCell{row: rowOfHosted(&m, statePaused), used: now} // all the same, so that the newest goes if one is too many
			if p, err := give.ReadPlacement(m.Dir); err == nil && p != nil {
				c.row.Memory = p.Memory
			}
			h.cells[m.CID] = c
		}
	}
	h.work.Go(h.keep)
	return h
}

func rowOfHosted(m *mirror.Mirror, state string) give.Row {
	return give.Row{
		CID: m.CID, Name: m.Name, Version: m.Version, Dir: m.Dir, Publisher: string(m.Owner), ForWhom: m.AskedBy, State: state, Since: m.Created,
	}
}

// stop ends the taking up; what is hosted has been paused before.
func (h *hosting) stop() {
	h.close()
	h.cancel()
	h.server.Close()
	h.work.Wait()
}

// close has offers be taken no more.
func (h *hosting) close() {
	h.mu.Lock()
	was := h.open
	h.open = false
	h.mu.Unlock()
	if was {
		h.n.host.RemoveStreamHandler(cellproto.ProtocolHost)
		h.n.dht.AnnounceDonor(false)
	}
}

// each does something with each hosted mirror that has a directory, all at once, and gives the errors.
func (h *hosting) each(do func(c *hostedCell, dir string) error) error {
	type one struct {
		c   *hostedCell
		dir string
	}
	var all []one
	h.mu.Lock()
	for _, c := range h.cells {
		if c.row.Dir != "" {
			all = append(all, one{c, c.row.Dir})
		}
	}
	h.mu.Unlock()
	errs := make([]error, len(all))
	var work sync.WaitGroup
	for i, a := range all {
		work.Go(func() {
			if !h.release(a.c, a.dir) {
				errs[i] = do(a.c, a.dir)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// release forgets a mirror that is the owner's own by now, and reports whether it is.
func (h *hosting) release(c *hostedCell, dir string) bool {
	r, err := mirror.ReadRecord(dir)
	if err != nil || r == nil || r.Hosted {
		return false
	}
	h.drop(c)
	h.log.Info("what was hosted is this machine's own copy now", zap.String("dir", dir))
	return true
}

func (h *hosting) drop(c *hostedCell) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cells[c.row.CID] == c {
		delete(h.cells, c.row.CID)
	}
}

// set notes how a hosted mirror is.
func (h *hosting) set(c *hostedCell, state string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.row.State != state {
		c.row.State, c.row.Since = state, time.Now()
	}
	c.row.Error = ""
	if err != nil {
		c.row.Error = err.Error()
	}
	if state != stateRunning {
		c.row.CPUPercent, c.row.RSS, c.row.DiskBPS = 0, 0, 0
	}
}

// Pause has all that is hosted give the machine back; what is being taken up is given up.
func (h *hosting) Pause(ctx context.Context, why string) error {
	h.mu.Lock()
	if h.running {
		h.log.Info("pausing what is hosted", zap.String("why", why), zap.Int("cells", len(h.cells)))
		h.running = false
		close(h.paused)
	}
	h.mu.Unlock()
	h.look()
	return h.each(func(c *hostedCell, dir string) error { return h.yield(ctx, c, dir, why) })
}

// look has all that is hosted be looked at soon.
func (h *hosting) look() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// yield has one give the machine back.
func (h *hosting) yield(ctx context.Context, c *hostedCell, dir, why string) error {
	c.op.Lock()
	defer c.op.Unlock()
	err := giveBack(ctx, dir, why, h.log)
	state := statePaused
	if err != nil {
		state = stateFailed
	}
	h.set(c, state, err)
	return err
}

// giveBack has the nucleus of a hosted mirror give the machine back. One that does not do as it is told is killed, and
// its program with it.
func giveBack(ctx context.Context, dir, why string, log *zap.Logger) error {
	soon, cancel := context.WithTimeout(ctx, yieldWait)
	defer cancel()
	_, err := (&ctl.Client{Dir: dir}).Yield(soon, why)
	if err == nil || errors.Is(err, ctl.ErrNotRunning) || errors.Is(err, ctl.ErrLost) {
		return nil
	}
	log.Warn("a hosted mirror does not yield, and is killed", zap.String("dir", dir), zap.Error(err))
	return killNucleus(ctx, dir)
}

// killNucleus kills the nucleus that listens in a cell's directory, whatever it is doing.
func killNucleus(ctx context.Context, dir string) error {
	conn, err := ctl.Dial(ctx, dir, ctl.ControlSocket)
	if err != nil {
		return cellproto.Errorf("kill the nucleus in "+dir, cellproto.KindOf(err), "%w", err)
	}
	defer conn.Close()
	uid, pid, ok := ctl.PeerUID(conn)
	if !ok || pid <= 1 || pid == os.Getpid() || uid != os.Getuid() {
		return cellproto.Errorf("kill the nucleus in "+dir, cellproto.Failed, "it is not known which process that is")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return cellproto.Errorf("kill the nucleus in "+dir, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// Resume lets all that is hosted run, and takes offers.
func (h *hosting) Resume(context.Context) error {
	h.mu.Lock()
	if !h.running {
		h.running, h.since, h.paused = true, time.Now(), make(chan struct{})
	}
	opened := !h.open
	h.open = true
	h.mu.Unlock()
	if opened {
		h.n.handle(cellproto.ProtocolHost, func(s network.Stream) error { return h.server.Serve(s) })
		h.n.dht.AnnounceDonor(true)
	}
	h.look()
	return nil
}

// Clear stops and removes all that is hosted.
func (h *hosting) Clear(ctx context.Context) error {
	h.close()
	err := h.Pause(ctx, "nothing is given any more")
	return errors.Join(err, h.each(func(c *hostedCell, dir string) error {
		c.op.Lock()
		defer c.op.Unlock()
		return h.remove(ctx, c)
	}))
}

// remove stops and removes a hosted mirror; c.op is held.
func (h *hosting) remove(ctx context.Context, c *hostedCell) error {
	h.mu.Lock()
	dir := c.row.Dir
	h.mu.Unlock()
	// Its calls go elsewhere first, and its program stands: what is told meanwhile that the machine is needed waits for this.
	_ = giveBack(ctx, dir, "it is removed", h.log)
	placed, _ := give.ReadPlacement(dir) // nil: it was never placed
	_, err := h.n.mirrors.store.Remove(ctx, dir)
	if err != nil && cellproto.KindOf(err) != cellproto.NotFound {
		h.set(c, stateFailed, err)
		return err
	}
	if placed != nil {
		sandbox.LeavePool(placed.Groups, filepath.Base(dir))
	}
	h.drop(c)
	return nil
}

// Rows lists what is hosted.
func (h *hosting) Rows(context.Context) []give.Row {
	h.mu.Lock()
	defer h.mu.Unlock()
	rows := make([]give.Row, 0, len(h.cells))
	for _, c := range h.cells {
		row := c.row
		row.Used, row.Idle, row.Leaving = c.used, h.idle(c, time.Now()), c.leaving
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b give.Row) int { return strings.Compare(a.CID, b.CID) })
	return rows
}

// idle is for how long a mirror could have been called, and was not. h.mu is held.
func (h *hosting) idle(c *hostedCell, now time.Time) time.Duration {
	if !h.running || c.row.State != stateRunning {
		return 0
	}
	return min(now.Sub(c.used), now.Sub(h.since), now.Sub(c.row.Since))
}

// keep renews the leases of what is hosted, while it may run.
func (h *hosting) keep() {
	if !h.n.giver.On() { // the nucleus was killed while it removed what was hosted
		ctx, cancel := context.WithTimeout(h.ctx, renewTimeout)
		if err := h.Clear(ctx); err != nil {
			h.log.Warn("what was hosted cannot be removed", zap.Error(err))
		}
		cancel()
	}
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		case <-h.kick:
		}
		if h.any() {
			h.work.Go(h.renewAll) // one that hangs is not to cost the others their leases
		}
	}
}

// any says that something is hosted.
func (h *hosting) any() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.cells) > 0
}

func (h *hosting) mayRun() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

// renewAll renews the leases of all, while they may run, but for those that are told something at the moment, and
// removes, also while they may not, what the owner of this machine does not want any more.
func (h *hosting) renewAll() {
	limited, cancel := context.WithTimeout(h.ctx, renewTimeout)
	defer cancel()
	ctx, end := h.whileRunning(limited)
	defer end()
	report, err := h.n.giver.Status(limited)
	surplus := report.Surplus()
	_ = h.each(func(c *hostedCell, dir string) error { // each row says how it went
		if !c.op.TryLock() {
			return nil // it is just being taken up, or paused, or does not answer
		}
		defer c.op.Unlock()
		tooMany := slices.ContainsFunc(surplus, func(r give.Row) bool { return r.CID == c.row.CID })
		if err == nil && (tooMany || !h.wanted(c, report.Settings.Policy)) {
			return h.remove(limited, c)
		}
		if !h.mayRun() || h.resting(c) {
			return nil
		}
		if err == nil && report.Decision.Run && elsewhere(dir, report.Groups) {
			if err := h.leave(ctx, c, dir); err != nil {
				return err
			}
		}
		return h.renew(ctx, c, dir)
	})
}

// elsewhere says that a hosted mirror was placed within other control groups than those that hold the caps now.
func elsewhere(dir string, groups map[string]string) bool {
	p, err := give.ReadPlacement(dir)
	return err == nil && p != nil && !maps.Equal(p.Groups, groups)
}

// leave has one end whose place nobody bounds any more as it should: it is started anew in today's. c.op is held.
func (h *hosting) leave(ctx context.Context, c *hostedCell, dir string) error {
	h.log.Info("a hosted mirror is started anew: the control group that holds the caps is another one", zap.String("dir", dir))
	return h.halt(ctx, c, dir, "it is started anew")
}

// halt stops one, for whoever starts it again. c.op is held.
func (h *hosting) halt(ctx context.Context, c *hostedCell, dir, why string) error {
	err := giveBack(ctx, dir, why, h.log)
	if err == nil {
		err = mirror.Stop(ctx, dir)
	}
	if err != nil {
		h.set(c, stateFailed, err)
	}
	return err
}

// renew lets one go on, starts it if it sleeps, and looks at what it uses. One that nobody calls any more
// is removed. c.op is held.
func (h *hosting) renew(ctx context.Context, c *hostedCell, dir string) error {
	if ctx.Err() != nil {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, mirror.RecordFile)); os.IsNotExist(err) {
		return h.remove(ctx, c) // its owner, or cellctl gc, has removed it
	}
	client := &ctl.Client{Dir: dir}
	_, err := client.Return(ctx, leaseFor)
	if errors.Is(err, ctl.ErrNotRunning) {
		if err = h.place(c.row.CID, dir); cellproto.KindOf(err) == cellproto.Overloaded { // what may be used may be less since
			h.set(c, statePaused, err)
			return nil
		}
		if err == nil {
			err = wake(ctx, dir)
		}
		if err == nil {
			_, err = client.Return(ctx, leaseFor)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil && !h.mayRun():
		return nil // the owner is back
	case err != nil:
		h.log.Warn("a hosted mirror does not run", zap.String("dir", dir), zap.Error(err))
		h.set(c, stateFailed, err)
		return err
	}
	h.set(c, stateRunning, nil)
	metrics, err := client.Metrics(ctx)
	if err != nil {
		return nil // the next time
	}
	disk := give.TreeUsage("/proc", []int{metrics.Nucleus.PID}).Disk
	if h.note(c, &metrics, disk, time.Now()) >= hostedUnused {
		h.log.Info("nobody calls a hosted mirror any more", zap.String("dir", dir))
		return h.remove(ctx, c)
	}
	return nil
}

// wanted says whether the owner of this machine still wants a cell hosted.
func (h *hosting) wanted(c *hostedCell, p give.Policy) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return p.Wants(c.row.CID, c.row.Publisher)
}

// note takes in what a hosted mirror has used, with how many bytes it has read from and written to disks, and gives
// for how long nobody has called it.
func (h *hosting) note(c *hostedCell, m *ctl.Metrics, disk int64, now time.Time) (unused time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cpu := m.Nucleus.CPUMS + m.Program.CPUMS
	if took := now.Sub(c.at).Milliseconds(); !c.at.IsZero() && took > 0 && cpu >= c.cpu {
		c.row.CPUPercent = 100 * float64(cpu-c.cpu) / float64(took) / float64(runtime.NumCPU())
		c.row.DiskBPS = max(disk-c.disk, 0) * 1000 / took // what has ended counts no more
	}
	c.cpu, c.disk, c.at, c.row.RSS = cpu, disk, now, m.Nucleus.RSS+m.Program.RSS
	if m.Served > c.served { // fewer: its nucleus has been started anew
		c.used = now
	}
	c.served = m.Served
	return now.Sub(c.used)
}
