package node

import (
	"context"
	"net/http"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// What a person can do when entries of the account's key log are missing and those who know them do not come.

// report keeps what the owner can be told of a log of which entries are missing, and says whether everybody has agreed who can have it
// from here: whoever knows it from one of them knows no more of it.
func (o *account) report(q *asking, s *ledger.KeyState) (all bool) {
	r := o.describe(q, s)
	o.doubts.Store(r)
	return !r.Others && len(r.Wait) == 0 && r.Agree > 0
}

func (o *account) describe(q *asking, s *ledger.KeyState) *ctl.Recovery {
	r := &ctl.Recovery{Account: textOf(o.id), Doubt: true, Entries: s.Len, AtLeast: q.mark.entries, Agree: len(q.agree) + len(q.cells), Wait: []string{}}
	wait, known := q.waits(s, o.a.self)
	r.Others = !known
	for _, p := range wait {
		r.Wait = append(r.Wait, p.String())
	}
	return r
}

func (n *nucleus) ctlRecover(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "go on from the key log"
	o, err := n.account()
	if err == nil {
		err = o.here(op)
	}
	if err != nil {
		return nil, err
	}
	if q := r.URL.Query(); q.Has("accept") {
		if err := o.acceptLog(op, q.Has("force")); err != nil {
			return nil, err
		}
		if err := o.awaitAsked(ctx, op, w); err != nil {
			return nil, err
		}
	}
	if q := r.URL.Query(); q.Has("donation") {
		if err := o.prove(ctx, q.Get("donation"), w); err != nil {
			return nil, err
		}
	}
	out := o.recovery()
	for _, c := range o.a.led.Unproven() {
		out.Unproven = append(out.Unproven, ctl.DonationRow{
			From: textOf(c.Donor), To: textOf(c.To), UWH: c.Credit, Times: c.N, Purpose: c.Purpose, At: int64(min(c.T, 1<<62)),
		})
	}
	return out, nil
}

// prove takes a donation back that a replaced key has signed, by the owner's word, and signs it anew.
func (o *account) prove(ctx context.Context, text string, w *ctl.Writer) error {
	const op = "take a donation back"
	to, err := keyOfText(op, text)
	if err == nil {
		err = o.ready(ctx, op, w)
	}
	if err == nil {
		err = o.a.led.Prove(time.Now(), to)
	}
	if err == nil {
		o.reseal(time.Now())
	}
	return err
}

// recovery says how things are.
func (o *account) recovery() ctl.Recovery {
	select {
	case <-o.asked:
	default:
		if r := o.doubts.Load(); r != nil {
			return *r
		}
		if q := o.newAsking(time.Now()); q.gone { // nobody was asked yet
			return *o.describe(q, o.state(o.id))
		}
	}
	n := o.state(o.id).Len
	return ctl.Recovery{Account: textOf(o.id), Entries: n, AtLeast: n, Wait: []string{}}
}

// acceptLog has the home cell go on from what is here of the key log, by its owner's word. Kinds: BadInput where nothing is missing, Unavailable
// before others were asked, Denied if entries are known to be missing and it is not forced, or nothing can be begun.
func (o *account) acceptLog(op string, force bool) error {
	r := o.recovery()
	s := o.state(o.id)
	switch {
	case !r.Doubt:
		return cellproto.Errorf(op, cellproto.BadInput, "nothing of the account's key log is missing here")
	case !o.lost.Load():
		return cellproto.Errorf(op, cellproto.Unavailable, "others are still being asked for it").WithHint("Try again in a minute.")
	case s.Len < r.AtLeast && !force:
		return cellproto.Errorf(op, cellproto.Denied, "of at least %d entries %d are here: what is signed now contradicts the others, and whoever has one of those bans the account for good", r.AtLeast, s.Len).
			WithHint("Restore ledger/ of the home cell, or wait for who has them. If nobody ever can have got them: --force")
	}
	if err := o.keys.settle(s); err != nil { // a log whose key was replaced cannot be begun
		return err
	}
	if err := o.keys.resolve(s); err != nil {
		return err
	}
	o.lost.Store(false)
	o.accepted.Store(true)
	return nil
}
