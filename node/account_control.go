package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// What cellctl and the other nuclei of this person ask of the account.

func (n *nucleus) accountRoutes() map[string]handler {
	return map[string]handler{
		"GET " + ctl.RouteWallet:       n.ctlWallet,
		"GET " + ctl.RouteWalletExport: n.ctlWalletExport,
		"GET " + ctl.RouteDonors:       n.ctlDonors,

		"GET " + ctl.RouteEntries:   n.ctlEntries,
		"POST " + ctl.RouteDelegate: n.ctlDelegate,
		"POST " + ctl.RouteRevoke:   n.ctlRevoke,
		"POST " + ctl.RouteDonate:   n.ctlDonate,
		"POST " + ctl.RouteRotate:   n.ctlRotate,
		"POST " + ctl.RouteRecover:  n.ctlRecover,
		"POST " + ctl.RouteJoin:     n.ctlJoin,
		"POST " + ctl.RouteAdmit:    n.ctlAdmit,

		"GET " + ctl.RoutePools:       n.ctlPools,
		"POST " + ctl.RoutePoolCreate: n.ctlPoolCreate,
		"POST " + ctl.RoutePoolBudget: n.ctlPoolBudget,
		"POST " + ctl.RoutePoolTake:   n.ctlPoolTake,

		"POST " + ctl.RoutePoolMembers: n.ctlPoolMembers,
	}
}

// ill gives why there is no ledger.
func (a *accounts) ill() error {
	return cellproto.Errorf("read the ledger", cellproto.Failed, "%w", a.trouble()).
		WithHint("cellctl doctor %s", quote(a.n.cfg.Dir))
}

func notRunning(err error) bool {
	return errors.Is(err, ctl.ErrNotRunning) || errors.Is(err, ctl.ErrLost)
}

// account gives the account for a request, or why there is none.
func (n *nucleus) account() (*account, error) {
	if n.accounts.led == nil {
		return nil, n.accounts.ill()
	}
	return n.accounts.own, nil
}

// signer is account for what signs: it waits until the key log may be written.
func (n *nucleus) signer(ctx context.Context, op string, w *ctl.Writer) (*account, error) {
	o, err := n.account()
	if err == nil {
		err = o.ready(ctx, op, w)
	}
	return o, err
}

// amount reads how many µWh a request names, least or more.
func amount(op string, q url.Values, least uint64) (uint64, error) {
	uwh, err := strconv.ParseUint(q.Get("uwh"), 10, 53)
	if err != nil || uwh < least {
		return 0, cellproto.Errorf(op, cellproto.BadInput, "%.40q is no amount in µWh", q.Get("uwh"))
	}
	return uwh, nil
}

func (n *nucleus) ctlEntries(_ context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	from, err := strconv.ParseUint(r.URL.Query().Get("log"), 10, 64)
	if err != nil {
		return nil, cellproto.Errorf("read request", cellproto.BadInput, "log is no number")
	}
	for _, e := range o.entries(from, r.URL.Query().Has("own")) {
		if err := w.Item(ctl.Exported{Bytes: e}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// entries gives what the other nuclei of this person are told.
func (o *account) entries(from uint64, own bool) (list [][]byte) {
	put := func(e interface{ Encode() ([]byte, error) }) {
		if data, err := e.Encode(); err == nil {
			list = append(list, data)
		}
	}
	o.a.led.View(func(b *ledger.Book) {
		for _, e := range b.Log(o.id, from) {
			put(e)
		}
		b.Cheques(func(c *ledger.SignedCheque) bool {
			if c.Donor == o.id || own && b.Owner(c.To) == o.id {
				put(c)
			}
			return true
		})
		if !own {
			return
		}
		b.Registers(func(k ledger.RegKey, r ledger.Register) bool {
			mine := b.Owner(k.Consumer) == o.id || b.Owner(k.Provider) == o.id || k.Beneficiary == o.id
			if mine = mine || k.Consumer == o.a.self || k.Provider == o.a.self; mine && r.Ack != nil {
				put(r.Ack)
			}
			return true
		})
	})
	return list
}

func (n *nucleus) ctlDelegate(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "delegate a host"
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, ctl.MaxDelegation+1))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	var d ctl.Delegation
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil || len(data) > ctl.MaxDelegation {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "that is no delegation: %w", err)
	}
	if err := o.accept(ctx, &d); err != nil {
		return nil, err
	}
	if p, err := peer.Decode(d.Host); err == nil {
		o.showed(p)
	}
	for _, e := range o.entries(0, false) {
		if err := w.Item(ctl.Exported{Bytes: e}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// accept makes the host of another cell of this person the account's. Without a consent it only notes where that
// cell is.
func (o *account) accept(ctx context.Context, d *ctl.Delegation) error {
	const op = "delegate a host"
	if err := checkDir(op, d.Dir); err != nil {
		return err
	}
	host, err := keyOfText(op, d.Host)
	if err != nil {
		return err
	}
	if len(d.Consent) == 0 {
		o.dirs.note(d.Host, d.Dir)
		return nil
	}
	now := time.Now()
	if len(d.Consent) != len(ledger.Signature{}) || d.NotAfter < 0 {
		return cellproto.Errorf(op, cellproto.BadInput, "the consent is no signature")
	}
	if err := checkTerm(op, uint64(d.NotAfter), now); err != nil {
		return err
	}
	entry := &ledger.Delegate{Host: host, Cell: d.Cell, NotAfter: uint64(d.NotAfter), Consent: ledger.Signature(d.Consent)}
	if err := o.takeIn(ctx, entry, now); err != nil {
		return err
	}
	o.dirs.note(d.Host, d.Dir)
	return nil
}

// takeIn makes a host of this computer the account's, or has it wait until that of the account's key does.
func (o *account) takeIn(ctx context.Context, d *ledger.Delegate, now time.Time) error {
	if o.elsewhere() {
		return o.want(d)
	}
	if err := o.begin(ctx, now); err != nil {
		return err
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	return o.delegate(d, now)
}

// keyOfText reads a peer ID.
func keyOfText(op, text string) (k ledger.Key, err error) {
	p, err := peer.Decode(text)
	if err != nil {
		return k, cellproto.Errorf(op, cellproto.BadInput, "%.80q is no peer ID: %w", text, err)
	}
	return gossip.KeyOf(p)
}

// keysOfTexts reads peer IDs.
func keysOfTexts(op string, texts []string) ([]ledger.Key, error) {
	keys := make([]ledger.Key, len(texts))
	for i, text := range texts {
		var err error
		if keys[i], err = keyOfText(op, text); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (n *nucleus) ctlRevoke(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "revoke a host"
	o, err := n.signer(ctx, op, w)
	if err != nil {
		return nil, err
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	host, err := o.hostNamed(op, r.URL.Query().Get("host"))
	if err != nil {
		return nil, err
	}
	if o.state(o.id).Hosts[host].Revoked {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "that host was revoked before")
	}
	if err := o.append(time.Now(), &ledger.Revoke{Host: host}); err != nil {
		return nil, err
	}
	for _, h := range o.hosts() {
		if h.Peer == textOf(host) {
			o.dirs.forget(h.Peer)
			return h, nil
		}
	}
	return ctl.WalletHost{}, nil
}

// hostNamed finds a host of the account by its peer ID, or by the name of its cell.
func (o *account) hostNamed(op, text string) (ledger.Key, error) {
	hosts := o.state(o.id).Hosts
	if p, err := peer.Decode(text); err == nil {
		k, err := gossip.KeyOf(p)
		if _, ok := hosts[k]; err == nil && !ok {
			err = cellproto.Errorf(op, cellproto.NotFound, "%s is not a host of this account", text).WithHint("cellctl wallet status lists them.")
		}
		return k, err
	}
	var named []ledger.Key
	for k, d := range hosts {
		if d.Cell == text && !d.Revoked {
			named = append(named, k)
		}
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return ledger.Key{}, cellproto.Errorf(op, cellproto.NotFound, "no host of this account has the cell %.80q", text).
			WithHint("cellctl wallet status lists them.")
	}
	return ledger.Key{}, cellproto.Errorf(op, cellproto.BadInput, "%d hosts of this account have a cell %.80q", len(named), text).
		WithHint("Name the host: cellctl wallet status lists them.")
}

// textOf gives a key as people have it, a peer ID; hexadecimal for what is none.
func textOf(k ledger.Key) string {
	if p, err := peerOf(k); err == nil {
		return p.String()
	}
	return k.String()
}

// hosts gives the hosts of the account, those that have given most first.
func (o *account) hosts() []ctl.WalletHost {
	rows := []ctl.WalletHost{}
	o.a.led.View(func(b *ledger.Book) {
		s := b.State(o.id)
		if s == nil {
			return
		}
		for k, d := range s.Hosts {
			if b.Owner(k) != o.id {
				continue
			}
			row := ctl.WalletHost{Peer: textOf(k), Cell: d.Cell, Until: int64(min(d.NotAfter, 1<<62)), Revoked: d.Revoked}
			row.GivenUWH, row.TakenUWH = b.Alone(k)
			rows = append(rows, row)
		}
	})
	slices.SortFunc(rows, func(x, y ctl.WalletHost) int {
		return cmp.Or(-cmp.Compare(x.GivenUWH, y.GivenUWH), -cmp.Compare(x.TakenUWH, y.TakenUWH), strings.Compare(x.Peer, y.Peer))
	})
	return rows
}

func (n *nucleus) ctlDonate(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "donate"
	o, err := n.signer(ctx, op, w)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	uwh, err := amount(op, q, 1)
	if err != nil {
		return nil, err
	}
	to, err := o.resolve(op, q.Get("to"))
	if err != nil {
		return nil, err
	}
	from := o.id
	if text := q.Get("from"); text != "" {
		if from, err = o.pool(op, text); err != nil {
			return nil, err
		}
	}
	return o.donate(ctx, from, o.a.owner(to), uwh, q.Get("purpose"))
}

// donate signs a cheque of the account or of a pool, and tells of it.
func (o *account) donate(ctx context.Context, from, to ledger.Key, uwh uint64, purpose string) (out ctl.Donated, err error) {
	const op = "donate"
	if from == to {
		return out, cellproto.Errorf(op, cellproto.BadInput, "that would be a gift to oneself").
			WithHint("cellctl wallet status shows which hosts are your account's.")
	}
	now := time.Now()
	if from == o.id { // whose hosts owe it is what the key log says
		if err := o.begin(ctx, now); err != nil {
			return out, err
		}
	}
	c, err := o.a.led.SignCheque(now, from, to, uwh, purpose, o.keys.inForce())
	if err != nil {
		return out, err
	}
	o.a.publishCheque(c)
	o.meet(to)
	out = ctl.Donated{From: textOf(from), To: textOf(to), UWH: uwh, TotalUWH: c.Credit, Times: c.N, Purpose: c.Purpose}
	o.a.led.View(func(b *ledger.Book) {
		given, taken := b.Balance(from)
		out.Covered = given >= taken
		if s := b.State(from); s != nil && len(s.Members) > 0 {
			out.Left = s.Runner.Budget - min(taken, s.Runner.Budget)
		}
	})
	return out, nil
}

// meet connects to hosts of whom something was given to, if they can be found: they hear of it within a minute
// then, and else from those who are near both.
func (o *account) meet(to ledger.Key) {
	const most, patience = 4, 20 * time.Second
	var hosts []ledger.Key
	o.a.led.View(func(b *ledger.Book) {
		for _, id := range append(b.Members(to), to) {
			s := b.State(id)
			if s == nil {
				hosts = append(hosts, id)
				continue
			}
			for h, d := range s.Hosts {
				if !d.Revoked {
					hosts = append(hosts, h)
				}
			}
		}
	})
	for _, k := range hosts[:min(most, len(hosts))] {
		p, err := peerOf(k)
		if err != nil || k == o.a.self {
			continue
		}
		o.a.running.Go(func() {
			ctx, cancel := context.WithTimeout(o.a.ctx, patience)
			defer cancel()
			_ = o.reach(ctx, p) // it may not be there now
		})
	}
}
