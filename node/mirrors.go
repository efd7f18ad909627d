package node

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// foreignDir is where mirrors are: beside the home cell.
const foreignDir = "foreign"

// mirrors makes, lists and removes the mirrors of this machine's user, with this nucleus's network.
type mirrors struct {
	n       *nucleus
	account cellproto.PeerID // of this machine's person
	home    string           // directory of the home cell, absolute
	store   *mirror.Store

	probe  sync.Mutex
	probed time.Time // when a sandbox worked last

	mu       sync.Mutex
	starting map[cid.Cid]int // how often each is being made and started just now
}

// Dir gives the directory of a mirror that calls may go to. One that is being started is not waited for: the
// providers answer meanwhile.
func (m *mirrors) Dir(id cid.Cid) (dir string, ok bool) {
	m.mu.Lock()
	starting := m.starting[id] > 0
	m.mu.Unlock()
	if starting {
		return "", false
	}
	return m.store.Dir(id)
}

// begin notes that a mirror is being made. What it gives is for the end of that.
func (m *mirrors) begin(id cid.Cid) (end func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starting[id]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.starting[id]--; m.starting[id] == 0 {
			delete(m.starting, id)
		}
	}
}

func newMirrors(n *nucleus, home string) (*mirrors, error) {
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, cellproto.Errorf("open mirrors", cellproto.Failed, "%w", err)
	}
	account, err := peer.IDFromPrivateKey(n.identity.Account())
	if err != nil {
		return nil, cellproto.Errorf("open mirrors", cellproto.Corrupt, "%w", err)
	}
	m := &mirrors{n: n, home: home, account: cellproto.PeerID(account.String()), starting: map[cid.Cid]int{}}
	m.store, err = mirror.New(mirror.Config{
		Root: filepath.Join(filepath.Dir(home), foreignDir), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Account: m.account, FileRepos: os.Getenv(cellproto.EnvFileRepos) == "on",
	}, mirror.Deps{Fetch: m, Build: builder{n}})
	return m, err
}

// Fetch is for mirror: /cell/fetch/1 from the peers that are named, then bitswap.
func (m *mirrors) Fetch(ctx context.Context, a signed.Artefact, from []peer.AddrInfo, dst string, progress func(done, total int64)) error {
	return m.n.blocks.FetchFile(ctx, content.File{CID: a.CID.Cid, Size: a.Size, BLAKE3: a.BLAKE3}, from, dst, 0o600, progress)
}

// add makes a mirror of a target, starts it, and sees that its program runs confined. Each step says what
// it does. A mirror whose program does not run is removed again.
func (m *mirrors) add(ctx context.Context, target string, public bool, say func(string)) (ctl.MirrorRow, error) {
	if err := canConfine(ctx); err != nil {
		return ctl.MirrorRow{}, cellproto.Errorf("mirror "+target, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	say("looking for " + target)
	src, err := m.n.caller.Sources(ctx, target)
	if err != nil {
		return ctl.MirrorRow{}, err
	}
	want := mirror.Want{CID: src.CID, Block: src.Block, Schema: src.Schema, From: src.From, Public: public}
	if want.Network, err = m.network(); err != nil {
		return ctl.MirrorRow{}, err
	}
	row, _, err := m.make(ctx, want, say)
	return row, err
}

// make makes a mirror and starts it, as add does of what has been found already.
func (m *mirrors) make(ctx context.Context, want mirror.Want, say func(string)) (row ctl.MirrorRow, status ctl.Status, err error) {
	defer m.begin(want.CID)()
	made, fresh, err := m.store.Add(ctx, want, say)
	if err != nil {
		return row, status, err
	}
	if !made.Hosted {
		err = m.own(ctx, made.Dir)
	}
	if err != nil {
		return row, status, err
	}
	say("starting " + filepath.Base(made.Dir))
	status, err = m.start(ctx, made, want.Public && !fresh)
	if err != nil {
		if fresh {
			// Its time may be over: what does not run is removed all the same.
			if rerr := m.undo(context.WithoutCancel(ctx), made); rerr != nil {
				say("it cannot be removed: " + rerr.Error())
			}
		}
		return row, status, cellproto.Errorf("start the mirror of "+made.Name, cellproto.KindOf(err), "%w", err).
			WithHint("%s", cellproto.HintOf(err))
	}
	row = rowOf(made)
	row.State, row.SandboxTier, row.Made = status.State, status.SandboxTier, fresh
	return row, status, nil
}

// undo removes a mirror that does not run as it should. The program of one that is hosted for others is stopped where it
// stands first: the machine may be needed by its owner, and to end in good order takes as long as the program likes.
func (m *mirrors) undo(ctx context.Context, made *mirror.Mirror) error {
	if made.Hosted {
		if err := giveBack(ctx, made.Dir, "it did not start", m.n.log); err != nil {
			m.n.log.Warn("a hosted mirror that did not start goes on", zap.String("dir", made.Dir), zap.Error(err))
		}
	}
	_, err := m.store.Remove(ctx, made.CID)
	return err
}

// notStarted is why the program of a mirror does not run whose nucleus does.
type notStarted struct{ error }

func (e notStarted) Unwrap() error { return e.error }

// own frees a mirror that is this person's of the bounds that it had if it was hosted for others before.
func (m *mirrors) own(ctx context.Context, dir string) error {
	bounds := filepath.Join(dir, give.PlacementFile)
	if _, err := os.Lstat(bounds); os.IsNotExist(err) {
		return nil
	}
	err := mirror.Stop(ctx, dir)
	if err == nil {
		err = os.Remove(bounds)
	}
	if err != nil {
		return cellproto.Errorf("take over "+dir, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// hasOwn reports that there is a mirror of a cell that is this person's, not one that is hosted for others.
func (m *mirrors) hasOwn(id cid.Cid) bool {
	dir, ok := m.store.Dir(id)
	if !ok {
		return false
	}
	r, err := mirror.ReadRecord(dir)
	return err == nil && r != nil && !r.Hosted
}

// start has a mirror's nucleus and its program run. One that was not announced so far is started anew.
func (m *mirrors) start(ctx context.Context, made *mirror.Mirror, announce bool) (ctl.Status, error) {
	client := &ctl.Client{Dir: made.Dir}
	if status, err := client.Status(ctx); announce && err == nil && status.Network == offline {
		if err := mirror.Stop(ctx, made.Dir); err != nil {
			return ctl.Status{}, err
		}
	}
	if err := wake(ctx, made.Dir); err != nil {
		return ctl.Status{}, err
	}
	if made.Hosted {
		if _, err := client.Return(ctx, leaseFor); err != nil {
			return ctl.Status{}, fromControl("start "+made.Dir, err)
		}
	}
	status, err := client.Run(ctx)
	if err != nil {
		return status, notStarted{fromControl("start "+made.Dir, err)}
	}
	return status, nil
}

// network is what a mirror is told of this nucleus's network.
func (m *mirrors) network() (mirror.Network, error) {
	net := m.n.cfg.Network
	out := mirror.Network{Name: net.Name, Listen: anyPorts(net.Listen), Bootstrap: net.Bootstrap, MDNS: net.MDNS}
	if net.PSK == "" {
		return out, nil
	}
	psk, err := os.ReadFile(m.n.cfg.Path(net.PSK)) // it was read when this nucleus started
	if err != nil {
		return out, cellproto.Errorf("read the network's key", cellproto.KindOf(err), "%w", err)
	}
	out.PSK = psk
	return out, nil
}

var fixedPort = regexp.MustCompile(`/(tcp|udp)/[0-9]+`)

// anyPorts has addresses be listened on at whatever port is free: this nucleus has the others.
func anyPorts(listen []string) []string {
	out := make([]string, len(listen))
	for i, a := range listen {
		out[i] = fixedPort.ReplaceAllString(a, "/$1/0")
	}
	return out
}

// confinedFor is how long it is believed that strangers' programs can run here: to find out is to start a
// program, and offers come from strangers too.
const confinedFor = time.Minute

// confinable is canConfine for what may be asked often. That something works is remembered; that it does not
// is looked at anew.
func (m *mirrors) confinable(ctx context.Context) error {
	m.probe.Lock()
	defer m.probe.Unlock()
	now := time.Now()
	if now.Sub(m.probed) < confinedFor {
		return nil
	}
	err := canConfine(ctx)
	if err == nil {
		m.probed = now
	}
	return err
}

// canConfine says whether a stranger's program can run here at all.
func canConfine(ctx context.Context) error {
	launcher, err := sandbox.FindLauncher(os.Getenv)
	if err != nil {
		return err
	}
	support, err := sandbox.ProbeThrough(ctx, launcher)
	if err != nil {
		return err
	}
	if _, ok := support.Best(); !ok {
		return cellproto.Errorf("look for a sandbox", cellproto.Unavailable, "no sandbox works on this machine: %s", support).
			WithHint("cellbox --probe says what this machine lacks.")
	}
	return nil
}

func rowOf(m *mirror.Mirror) ctl.MirrorRow {
	return ctl.MirrorRow{
		CID: m.CID, Name: m.Name, Version: m.Version, Dir: m.Dir, Source: m.Source, Public: m.Public, LastUsed: m.LastUsed,
		State: ctl.Stopped, Hosted: m.Hosted, AskedBy: m.AskedBy,
	}
}

func rowsOf(list []mirror.Mirror) []ctl.MirrorRow {
	rows := []ctl.MirrorRow{}
	for _, m := range list {
		rows = append(rows, rowOf(&m))
	}
	return rows
}

func (n *nucleus) ctlMirrorAdd(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	q := r.URL.Query()
	return n.mirrors.add(ctx, q.Get("target"), q.Has("public"), func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
}

func (n *nucleus) ctlMirrors(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	list, err := n.mirrors.store.List()
	rows := rowsOf(list)
	for i := range rows {
		rows[i].State = mirror.State(ctx, rows[i].Dir)
	}
	return rows, err
}

func (n *nucleus) ctlMirrorRemove(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	_ = w.Progress("stopping the mirror")
	m, err := n.mirrors.store.Remove(ctx, r.URL.Query().Get("target"))
	if err != nil {
		return nil, err
	}
	return rowOf(m), nil
}

func (n *nucleus) ctlCollect(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	dry := r.URL.Query().Has("dry")
	list, rest, err := n.mirrors.store.Collect(ctx, dry)
	if err == nil && !dry && n.cfg.Headless() { // it publishes nothing: what it has is of others
		_, err = n.blocks.Keep(ctx)
	}
	rows := rowsOf(list)
	for _, path := range rest {
		rows = append(rows, ctl.MirrorRow{Dir: path, State: ctl.Unfinished})
	}
	return rows, err
}

// ctlRun starts the program, if there is one and it does not run, and says how the cell is then.
func (n *nucleus) ctlRun(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	if n.program != nil {
		if _, err := (watched{n.program, n.serving}).Conn(ctx); err != nil {
			return nil, err
		}
	}
	return n.status(), nil
}
