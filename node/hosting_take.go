package node

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/mirror/offer"
	"github.com/celldnet/celld/node/give"
)

// How a donor takes a cell up: hosting as offer.Donor.

const (
	// maxIntroduced is how many of an offer's providers are connected to before anything is asked of them.
	maxIntroduced = 3
	introduceTime = 5 * time.Second
	schemaWait    = 10 * time.Second
)

// Consider says whether a cell is taken up now.
func (h *hosting) Consider(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest) error {
	err := h.consider(ctx, from, o, m)
	h.notTaken(ctx, o, m, err)
	return err
}

// notTaken has the owner see why a cell was not taken up. That all is paused the owner sees anyway; that who asked has left, which
// ends ctx, is no reason.
func (h *hosting) notTaken(ctx context.Context, o offer.Offer, m *signed.Manifest, err error) {
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) && h.mayRun() {
		h.n.giver.Refused(o.Cell.String(), m.Name, whyOf(err))
	}
}

// whyOf gives what an error says, without what was being done.
func whyOf(err error) string {
	var e *cellproto.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

func (h *hosting) consider(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest) error {
	if m.Alone != "" { // who offers it should know; its owner has the last word
		return cellproto.Errorf("take "+m.Name+" up", cellproto.Denied, "%s", m.Alone)
	}
	if hosted, err := h.known(o); hosted || err != nil {
		return err
	}
	if _, err := h.answer(ctx, from, o, m); err != nil {
		return err
	}
	if err := h.payable(from, o, m); err != nil {
		return err
	}
	want, err := h.want(from, o)
	if err == nil {
		err = h.n.mirrors.store.Check(want)
	}
	if err != nil {
		return err
	}
	return h.n.mirrors.confinable(ctx)
}

// known says whether the cell of an offer is here already, for others too.
func (h *hosting) known(o offer.Offer) (hosted bool, err error) {
	h.mu.Lock()
	c, running := h.cells[o.Cell.String()], h.running
	h.mu.Unlock()
	if c != nil && running {
		return true, nil
	}
	dir, ok := h.n.mirrors.store.Dir(o.Cell)
	if c != nil || !ok {
		return false, nil
	}
	r, err := mirror.ReadRecord(dir)
	if err == nil && r != nil && !r.Public {
		err = cellproto.Errorf("take it up", cellproto.Denied, "this machine has a copy of its own, which is not shared")
	}
	return false, err
}

// answer asks the owner's settings and the machine.
func (h *hosting) answer(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest) (give.Answer, error) {
	_, artefact := m.Artefact(runtime.GOOS, runtime.GOARCH)
	a := h.n.giver.Take(ctx, give.Need{
		CID: o.Cell.String(), Publisher: string(m.Owner), CPU: float64(m.Resources.CPUMilli) / 1000, Memory: m.Resources.MemoryBytes,
		GPU: m.Resources.GPU != "", Source: !artefact, ForWhom: from.Peer.String(), Network: from.Group,
	})
	if a.OK {
		return a, nil
	}
	no := cellproto.Errorf("take it up", cellproto.Denied, "%s", a.Why)
	if a.When > 0 {
		no.Kind, no.RetryAfter = cellproto.Overloaded, a.When
	}
	return a, no
}

// makeRoom stops a mirror that nobody has called for long, unless somebody does now, for another that is there. It is removed
// when the other one runs, and goes on if that never does; see settle.
func (h *hosting) makeRoom(ctx context.Context, id string) error {
	h.mu.Lock()
	c := h.cells[id]
	h.mu.Unlock()
	if c == nil { // "", or its owner has removed it
		return nil
	}
	c.op.Lock()
	defer c.op.Unlock()
	h.mu.Lock()
	dir, gone := c.row.Dir, h.cells[id] != c
	h.mu.Unlock()
	if gone || h.release(c, dir) {
		return nil
	}
	m, err := (&ctl.Client{Dir: dir}).Metrics(ctx)
	if err == nil && h.note(c, &m, give.TreeUsage("/proc", []int{m.Nucleus.PID}).Disk, time.Now()) < give.IdleRoom {
		late := cellproto.Errorf("take it up", cellproto.Overloaded, "this machine hosts as many cells as it may")
		late.RetryAfter = give.IdleRoom
		return late
	}
	h.log.Info("a hosted mirror that nobody calls makes room for another", zap.String("dir", dir))
	if err := h.halt(ctx, c, dir, "it makes room for another one"); err != nil {
		return err
	}
	h.set(c, statePaused, nil)
	h.mu.Lock()
	c.rests = true
	h.mu.Unlock()
	return nil
}

// resting says that a mirror makes room for another one that is being started.
func (h *hosting) resting(c *hostedCell) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return c.rests
}

func errResting() error {
	late := cellproto.Errorf("take it up", cellproto.Overloaded, "it makes room for another cell")
	late.RetryAfter = renewTimeout
	return late
}

// hold takes c.op for who starts it. One that has begun to make room for another since it was admitted is not started.
func (h *hosting) hold(c *hostedCell) error {
	c.op.Lock()
	if h.resting(c) {
		c.op.Unlock()
		return errResting()
	}
	return nil
}

// want is the mirror that an offer asks for, but for its schema.
func (h *hosting) want(from offer.Asker, o offer.Offer) (mirror.Want, error) {
	net, err := h.n.mirrors.network()
	return mirror.Want{
		CID: o.Cell, Block: o.Block, From: o.Providers, Public: true, Hosted: true, AskedBy: from.Peer, Network: net,
		Before: func(dir string) error { return h.place(o.Cell.String(), dir) },
	}, err
}

// place has a hosted mirror keep within what there is for it now.
func (h *hosting) place(cid, dir string) error {
	h.mu.Lock()
	c := h.cells[cid]
	if c == nil {
		h.mu.Unlock()
		return cellproto.Errorf("give it a place", cellproto.Unavailable, "it is hosted no more")
	}
	row, instead := c.row, c.instead
	h.mu.Unlock()
	if err := h.makeRoom(h.ctx, instead); err != nil {
		return err
	}
	p, err := h.n.giver.Place(h.ctx, row)
	if err != nil {
		return err
	}
	return p.Write(dir)
}

// Take takes a cell up, and gives where its mirror is.
func (h *hosting) Take(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest, step func(string)) (peer.AddrInfo, error) {
	info, err := h.take(ctx, from, o, m, step)
	h.notTaken(ctx, o, m, err)
	return info, err
}

func (h *hosting) take(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest, step func(string)) (peer.AddrInfo, error) {
	c, fresh, err := h.admit(ctx, from, o, m)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	h.log.Info("taking a cell up", zap.Stringer("cell", o.Cell), zap.String("name", m.Name), zap.Stringer("for", from.Peer))
	ctx, cancel := h.whileRunning(ctx)
	defer cancel()
	row, status, err := h.make(ctx, c, from, o, m, step)
	var old *hostedCell
	h.mu.Lock()
	if fresh {
		old = h.settle(c, err == nil)
	}
	inUse := !h.running
	switch {
	case err != nil && fresh:
		delete(h.cells, o.Cell.String())
	case err == nil:
		c.row.Dir, c.row.State, c.row.Since, c.row.Error = row.Dir, stateRunning, time.Now(), ""
		if !row.Hosted { // the owner has a public mirror of it
			delete(h.cells, o.Cell.String())
		}
	}
	h.mu.Unlock()
	if err == nil && inUse && row.Hosted { // the owner came back in this very moment
		err = cellproto.Errorf("take it up", cellproto.Overloaded, "this machine is in use")
		h.yield(context.WithoutCancel(ctx), c, row.Dir, "this machine is in use")
	}
	if old != nil {
		h.replaced(old)
	}
	h.n.giver.Changed()
	if err != nil {
		h.log.Warn("cannot take a cell up", zap.Stringer("cell", o.Cell), zap.Error(err))
		if inUse {
			late := cellproto.Errorf("take it up", cellproto.Overloaded, "this machine is in use")
			late.RetryAfter = give.Quiet
			err = late
		}
		return peer.AddrInfo{}, err
	}
	info, err := reachedAt(status)
	if err == nil {
		h.log.Info("a cell is hosted", zap.Stringer("cell", o.Cell), zap.String("dir", row.Dir), zap.Stringer("mirror", info.ID))
	}
	return info, err
}

// admit gives the cell of an offer its place, which it has from now on.
func (h *hosting) admit(ctx context.Context, from offer.Asker, o offer.Offer, m *signed.Manifest) (c *hostedCell, fresh bool, err error) {
	h.admission.Lock()
	defer h.admission.Unlock()
	var answer give.Answer
	hosted, err := h.known(o)
	if err == nil && !hosted {
		if answer, err = h.answer(ctx, from, o, m); err == nil {
			err = h.payable(from, o, m)
		}
	}
	if err != nil {
		return nil, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := o.Cell.String()
	switch c := h.cells[id]; {
	case c != nil && c.rests:
		return nil, false, errResting()
	case c != nil:
		return c, false, nil
	}
	now := time.Now()
	c = &hostedCell{used: now, row: give.Row{
		CID: id, Name: m.Name, Version: m.Version, Publisher: string(m.Owner), ForWhom: from.Peer.String(), State: stateTaking, Since: now,
		Memory: answer.Memory, Network: from.Group,
	}, instead: answer.Instead}
	if old := h.cells[c.instead]; old != nil {
		old.leaving = true
	}
	h.cells[id] = c
	return c, true, nil
}

// settle ends that another mirror makes room for one. If the one runs it gives the other, which is to be removed, if it had to
// be stopped; else that stays. h.mu is held.
func (h *hosting) settle(c *hostedCell, runs bool) (replaced *hostedCell) {
	old := h.cells[c.instead]
	c.instead = ""
	switch {
	case old == nil:
	case runs && old.rests: // until it is removed
		return old
	default:
		old.leaving, old.rests = false, false
		h.look()
	}
	return nil
}

// replaced removes a mirror whose room another one has now, unless its owner has one of it by now. What cannot be removed is one too
// many, and tried again.
func (h *hosting) replaced(old *hostedCell) {
	old.op.Lock()
	defer old.op.Unlock()
	h.mu.Lock()
	dir := old.row.Dir
	h.mu.Unlock()
	if h.release(old, dir) {
		return
	}
	if err := h.remove(h.ctx, old); err != nil {
		h.log.Warn("a hosted mirror that made room for another cannot be removed", zap.Error(err))
		h.mu.Lock()
		old.leaving, old.rests = false, false
		h.mu.Unlock()
	}
}

// whileRunning gives a context that ends when the machine is needed by its owner.
func (h *hosting) whileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	h.mu.Lock()
	paused := h.paused
	h.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends with ctx
		defer close(ended)
		select {
		case <-paused:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-ended }
}

// make makes a hosted mirror and starts it.
func (h *hosting) make(ctx context.Context, c *hostedCell, from offer.Asker, o offer.Offer, m *signed.Manifest, step func(string)) (row ctl.MirrorRow, status ctl.Status, err error) {
	want, err := h.want(from, o)
	if err == nil {
		err = canConfine(ctx)
	}
	if err != nil {
		return row, status, err
	}
	in := incomingOf(o, m)
	want.Arrived = h.intake.begin(ctx, from, in, h.n.giver.Caps().Disk)
	if m.Schema.Defined() {
		step("fetching the schema")
		if want.Schema, err = h.schema(ctx, want.From, m); err != nil {
			return row, status, err
		}
	}
	if err = h.hold(c); err != nil {
		return row, status, err
	}
	defer c.op.Unlock()
	row, status, err = h.n.mirrors.make(ctx, want, step)
	var failed notStarted
	unbuilt := in.source && err != nil && cellproto.KindOf(err) != cellproto.Overloaded // for which it cannot help
	if (errors.As(err, &failed) || unbuilt) && ctx.Err() == nil {                       // else the owner came back, or who asked has left
		h.intake.notStarted(in)
	}
	return row, status, err
}

// payable says whether fetching the program of an offer is within bounds.
func (h *hosting) payable(from offer.Asker, o offer.Offer, m *signed.Manifest) error {
	return h.intake.admit(from, incomingOf(o, m), h.n.giver.Caps().Disk, roomOnDisk(h.n.mirrors.store.Root()))
}

func incomingOf(o offer.Offer, m *signed.Manifest) incoming {
	in := incoming{cell: o.Cell.String(), publisher: string(m.Owner)}
	if a, ok := m.Artefact(runtime.GOOS, runtime.GOARCH); ok {
		in.size = a.Size
	} else {
		in.size, in.source = mirror.MaxClone, true
	}
	return in
}

// schema fetches the schema of a cell from those who provide it, or from whoever has it.
func (h *hosting) schema(ctx context.Context, from []peer.AddrInfo, m *signed.Manifest) (*cellproto.Schema, error) {
	var ids []peer.ID
	near, cancel := context.WithTimeout(ctx, introduceTime)
	defer cancel()
	for _, info := range from[:min(len(from), maxIntroduced)] {
		if h.n.host.Connect(near, info) == nil { // else somebody else has it
			ids = append(ids, info.ID)
		}
	}
	ctx, done := context.WithTimeout(ctx, schemaWait)
	defer done()
	raw, err := h.n.blocks.Block(ctx, m.Schema.Cid, cellproto.MaxSchema, ids)
	if err != nil {
		return nil, err
	}
	return cellproto.ParseSchema(raw)
}

// reachedAt gives where a nucleus can be reached.
func reachedAt(s ctl.Status) (info peer.AddrInfo, err error) {
	const op = "read where a mirror is"
	if info.ID, err = peer.Decode(s.PeerID); err != nil {
		return info, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	for _, text := range s.Addrs {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			return info, cellproto.Errorf(op, cellproto.Failed, "%w", err)
		}
		if transport, _ := peer.SplitAddr(a); len(transport) > 0 {
			info.Addrs = append(info.Addrs, transport)
		}
	}
	if len(info.Addrs) == 0 {
		return info, cellproto.Errorf(op, cellproto.Unavailable, "it has no address that others can reach")
	}
	return info, nil
}
