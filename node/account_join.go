package node

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// Several computers of one person. The account's key is on one of them. The cells of another one belong to the account
// when both owners have said so: here, that they want to (join), and on the computer with the key, that they may
// (admit). Nobody is admitted by asking.

const (
	followFor    = 30 * time.Second // after consents were given, for the key log
	followEvery  = 500 * time.Millisecond
	readmitEvery = time.Hour
	readmitMost  = 16 // of which each may be one that is not there
)

// elsewhere says whether the account's key is on another computer.
func (o *account) elsewhere() bool { return o.keys.joined }

func (n *nucleus) ctlJoin(_ context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	const op = "join an account"
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	if !o.atHome() {
		return nil, o.here(op)
	}
	text := r.URL.Query().Get("account")
	if text == "self" {
		err = os.Remove(o.keys.path(joinedFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		var id ledger.Key
		if id, err = keyOfText(op, text); err != nil {
			return nil, err
		}
		if id == o.id && !o.elsewhere() {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "that is the account whose key is on this computer")
		}
		err = writeID(o.keys.path(joinedFile), id)
	}
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	_, now, err := openKeyring(o.home)
	if err != nil {
		return nil, err
	}
	out := ctl.Joined{Account: textOf(now), Host: textOf(o.a.self), Changed: now != o.id, Cells: []string{}}
	for _, dir := range o.dirs.all() {
		out.Cells = append(out.Cells, dir)
	}
	slices.Sort(out.Cells)
	return out, nil
}

// want notes that a cell of this computer agrees to belong to the account.
func (o *account) want(d *ledger.Delegate) error {
	const op = "delegate a host"
	if !d.Consented(o.a.net, o.id) {
		return cellproto.Errorf(op, cellproto.Corrupt, "it agrees to belong to another account than this computer's, %s", textOf(o.id)).
			WithHint("The account was changed since the cell was started: cellctl restart DIR")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.wants[d.Host]; !known && len(o.wants) >= gossip.MaxConsents-1 {
		return cellproto.Errorf(op, cellproto.Overloaded, "%d hosts of this computer wait for the account already", len(o.wants))
	}
	o.wants[d.Host] = d
	return nil
}

// consents answers the computer with the account's key: which hosts of this one agree. See gossip.Deps.
func (o *account) consents(p peer.ID, id ledger.Key) ([]*ledger.Delegate, error) {
	if !o.elsewhere() || id != o.id || !o.delegates() {
		return nil, cellproto.Errorf("join an account", cellproto.Denied, "this computer's owner has not said that it belongs to that account")
	}
	now := time.Now()
	own, err := o.delegation(now)
	if err != nil {
		return nil, err
	}
	list := []*ledger.Delegate{own}
	hosts := o.state(o.id).Hosts
	o.mu.Lock()
	for host, d := range o.wants {
		if h, known := hosts[host]; known && (h.Revoked || lasts(h.NotAfter, now)) {
			delete(o.wants, host)
			continue
		}
		list = append(list, d)
	}
	o.mu.Unlock()
	o.follow(p)
	return list, nil
}

// follow asks a peer for the account's key log, until this host is the account's or some time has passed.
func (o *account) follow(p peer.ID) {
	if !o.following.TryLock() {
		return
	}
	o.a.running.Go(func() {
		defer o.following.Unlock()
		ctx, cancel := context.WithTimeout(o.a.ctx, followFor)
		defer cancel()
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := o.a.travel.FetchLog(ctx, p, o.id)
			if d, known := o.state(o.id).Hosts[o.a.self]; known && lasts(d.NotAfter, time.Now()) {
				return
			}
			if err != nil {
				o.a.log.Debug("the account's key log was not heard", zap.Stringer("peer", p), zap.Error(err))
			}
		}
	})
}

func (n *nucleus) ctlAdmit(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "delegate a host"
	o, err := n.signer(ctx, op, w)
	if err != nil {
		return nil, err
	}
	p, err := peer.Decode(r.URL.Query().Get("host"))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%.80q is no peer ID: %w", r.URL.Query().Get("host"), err).
			WithHint("cellctl wallet join, on the other computer, shows it.")
	}
	_ = w.Progress("asking " + p.String() + " whether it wants to") // a caller that left has ended ctx
	admitted, err := o.admit(ctx, p, time.Now(), func(ledger.Key) bool { return true })
	if err != nil {
		return nil, err
	}
	rows := o.hosts()
	return slices.DeleteFunc(rows, func(h ctl.WalletHost) bool { return !slices.Contains(admitted, h.Peer) }), nil
}

// admit makes a host of another computer the account's, and, of those that this computer speaks for and that agree,
// the ones that are wanted. It gives their peer IDs. Doing it again changes nothing.
func (o *account) admit(ctx context.Context, p peer.ID, now time.Time, wanted func(ledger.Key) bool) (admitted []string, err error) {
	const op = "delegate a host"
	host, err := gossip.KeyOf(p)
	if err != nil {
		return nil, err
	}
	if host == o.a.self {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "that is this computer's home cell")
	}
	if err := o.reach(ctx, p); err != nil {
		return nil, cellproto.Errorf(op, cellproto.Unavailable, "%s is not reached: %w", p, err).
			WithHint("It has to run meanwhile: cellctl wallet status, on that computer, starts its home cell.")
	}
	list, err := gossip.Consents(ctx, o.a.travel.Host(), p, o.id)
	var refusal *gossip.Refusal
	switch {
	case errors.As(err, &refusal):
		return nil, cellproto.Errorf(op, cellproto.Denied, "%s says: %w", p, err).WithHint("On that computer: cellctl wallet join %s", textOf(o.id))
	case err != nil:
		return nil, err
	case !slices.ContainsFunc(list, func(d *ledger.Delegate) bool { return d.Host == host }):
		return nil, cellproto.Errorf(op, cellproto.Denied, "%s does not speak for itself", p)
	}
	if err := o.begin(ctx, now); err != nil {
		return nil, err
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	for _, d := range list {
		if !wanted(d.Host) {
			continue
		}
		err := checkTerm(op, d.NotAfter, now)
		if err == nil {
			err = o.delegate(d, now)
		}
		switch {
		case err == nil:
			admitted = append(admitted, textOf(d.Host))
		case d.Host == host:
			return nil, err
		default:
			o.a.log.Warn("a host of another computer is not the account's", zap.String("host", textOf(d.Host)), zap.Error(err))
		}
	}
	return admitted, nil
}

// regains says whether another account has a host, which it would lose to a delegation until then. One that was
// revoked stays where it is.
func (o *account) regains(host ledger.Key, until time.Time) (yes bool) {
	o.a.led.View(func(b *ledger.Book) {
		if id := b.Owner(host); id != host && id != o.id {
			d := b.State(id).Hosts[host]
			yes = !d.Revoked && d.NotAfter < uint64(until.UnixMilli())
		}
	})
	return yes
}

// checkTerm refuses a delegation that has ended or lasts longer than any.
func checkTerm(op string, notAfter uint64, now time.Time) error {
	if end := time.UnixMilli(int64(min(notAfter, 1<<62))); !end.After(now) || end.After(now.Add(hostTerm+24*time.Hour)) {
		return cellproto.Errorf(op, cellproto.BadInput, "the delegation has ended already, or would last too long").
			WithHint("Do the clocks of both computers agree?")
	}
	return nil
}

// reach connects to a host.
func (o *account) reach(ctx context.Context, p peer.ID) error {
	h := o.a.n.host
	if h.Network().Connectedness(p) == network.Connected {
		return nil
	}
	info := h.Peerstore().PeerInfo(p)
	if len(info.Addrs) > 0 && h.Connect(ctx, info) == nil {
		return nil
	}
	info, err := o.a.n.dht.FindPeer(ctx, p)
	if err != nil {
		return err
	}
	return h.Connect(ctx, info)
}

// renew asks the hosts on other computers whose delegation is about to end whether they go on. Only they
// themselves are taken in again. o.keeping is held.
func (o *account) renew(ctx context.Context, now time.Time) {
	if now.Sub(o.renewed) < readmitEvery {
		return
	}
	o.renewed = now
	here := o.dirs.all()
	here[textOf(o.a.self)] = o.home
	hosts := endingSoon(o.state(o.id), here, now)
	for _, host := range hosts[:min(len(hosts), readmitMost)] { // others in an hour
		p, err := peerOf(host)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		_, err = o.admit(ctx, p, now, func(k ledger.Key) bool { return k == host })
		cancel()
		if err != nil {
			o.a.log.Info("a host of another computer was not renewed", zap.Stringer("peer", p), zap.Error(err))
		}
	}
}

// endingSoon gives the hosts whose delegation ends soon and that are not on this machine, where they ask themselves.
func endingSoon(s *ledger.KeyState, here map[string]string, now time.Time) (hosts []ledger.Key) {
	for k, d := range s.Hosts {
		_, local := here[textOf(k)]
		if !local && !d.Revoked && d.NotAfter > uint64(now.UnixMilli()) && !lasts(d.NotAfter, now) {
			hosts = append(hosts, k)
		}
	}
	return hosts
}
