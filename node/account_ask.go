package node

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// What neighbours know of the account's key log is asked before the home cell writes to it.

// askPatience bounds the wait for neighbours who could know more of the key log than this host does, and for
// another nucleus of this machine. If a log was begun here and is gone the wait has no end, since a second first entry
// would be a fork; after lostPatience whoever wants something signed is told so. Once something of it has come back
// they are asked for as long again: one of them may have a part of it alone, and lostQuorum have to agree.
const (
	askEvery     = 200 * time.Millisecond
	askPatience  = 10 * time.Second
	lostPatience = time.Minute
	lostQuorum   = 2
)

// asking is what has been heard of the key log so far.
type asking struct {
	begun  bool   // there was one
	gone   bool   // of which nothing was here
	length uint64 // entries that the answers are about, where it was gone
	asked  map[peer.ID]time.Time
	agree  map[peer.ID]bool // those who know as much as this host
	end    time.Time        // when few answers are enough
	lost   time.Time        // when the owner is told
}

func (o *account) newAsking(now time.Time) *asking {
	q := &asking{begun: o.begun(), asked: map[peer.ID]time.Time{}, agree: map[peer.ID]bool{}, end: now.Add(askPatience), lost: now.Add(lostPatience)}
	q.gone = q.begun && o.state(o.id).Len == 0
	return q
}

// due says whether a neighbour is to be asked, perhaps again.
func (q *asking) due(p peer.ID, now time.Time) bool {
	at, before := q.asked[p]
	return len(q.agree) < ledger.Confirmations && (!before || q.gone && now.Sub(at) >= lostPatience)
}

// grown has all be asked anew: what they have said was about less than has come back since.
func (q *asking) grown(length uint64, now time.Time) {
	clear(q.asked)
	clear(q.agree)
	q.length, q.end, q.lost = length, now.Add(lostPatience), now.Add(lostPatience)
}

// enough says whether the key log may be written, with length entries of it here.
func (q *asking) enough(length uint64, now time.Time) bool {
	switch {
	case len(q.agree) >= ledger.Confirmations:
		return true
	case q.gone && (length == 0 || len(q.agree) < lostQuorum):
		return false
	}
	return now.After(q.end)
}

// says whether a neighbour whose log of the account is that long says anything of one that has that many entries here:
// it does not if it knows less, unless there never was one. begun is whether there was.
func says(length, have uint64, begun bool) bool { return length >= have && (length > 0 || !begun) }

// ask has neighbours say how long the key log is, and takes what they have more of it: this one may come from a
// backup. fetch asks one. It ends with three of them who know it, or when as many as there are were asked and askPatience
// has passed. Of a log that was begun and is not here, two who agree have to come by, however long that takes.
func (o *account) ask(ctx context.Context, neighbours func() []peer.ID, fetch func(context.Context, peer.ID) (uint64, error)) {
	a, now := o.a, time.Now()
	q := o.newAsking(now)
	if q.gone {
		a.log.Warn("the account's key log was begun, and is not here: neighbours are asked for it")
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		for _, p := range neighbours() {
			if !q.due(p, now) {
				continue
			}
			q.asked[p] = now
			if o.confirm(ctx, p, q.begun, fetch) {
				q.agree[p] = true
			}
		}
		length := o.state(o.id).Len
		if q.gone && length != q.length {
			a.led.Unconfirm()
			q.grown(length, now)
		}
		if q.enough(length, now) {
			o.lost.Store(false)
			if len(q.agree) < ledger.Confirmations {
				a.log.Info("few neighbours could be asked for the account's key log", zap.Int("answers", len(q.agree)))
				a.led.Alone()
			}
			return
		}
		if q.gone && now.After(q.lost) && !o.lost.Swap(true) {
			a.log.Error("the account's key log is known to too few here: nothing is signed for the account until it is")
		}
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
	}
}

// begun says whether this home cell has begun the account's key log before. Who wants it forgotten removes what keyring.begun
// looks at.
func (o *account) begun() bool { return o.state(o.id).Len > 0 || o.keys.begun(o.id) }

// mark has begun be true from now on if there is a key log, whatever becomes of the ledger.
func (o *account) mark() {
	if err := o.keys.mark(o.state(o.id)); err != nil {
		o.a.log.Warn("it is not noted that the account's key log was begun", zap.Error(err))
	}
}

// confirm asks one neighbour, and says whether it knows as much as this host.
func (o *account) confirm(ctx context.Context, p peer.ID, begun bool, fetch func(context.Context, peer.ID) (uint64, error)) bool {
	key, err := gossip.KeyOf(p)
	if err != nil {
		return false
	}
	length, err := fetch(ctx, p)
	if err != nil {
		o.a.log.Debug("a neighbour does not say how long the key log is", zap.Stringer("peer", p), zap.Error(err))
		return false
	}
	have := o.state(o.id).Len
	if !says(length, have, begun) {
		return false
	}
	o.a.led.Confirm(key, have)
	return true
}

// awaitAsked waits until neighbours have said how long the key log is. Kinds: Timeout; Unavailable when it is lost.
func (o *account) awaitAsked(ctx context.Context, op string, w *ctl.Writer) error {
	select {
	case <-o.asked:
		return nil
	default:
	}
	if o.lost.Load() {
		return cellproto.Errorf(op, cellproto.Unavailable, "the account's key log was begun, was lost here, and too few who were asked know it: what does not follow all of it would be a fork").
			WithHint("Wait until two are connected that this account has dealt with, or restore ledger/ of the home cell from a backup. Only if nobody has ever seen the log: remove %s and %s, and restart the home cell.", o.keys.path(begunFile), o.keys.path(nextKeyFile))
	}
	if w != nil {
		_ = w.Progress("asking neighbours how long the account's key log is") // a caller that left has ended ctx
	}
	select {
	case <-o.asked:
		return nil
	case <-ctx.Done():
		return cellproto.Errorf(op, cellproto.Timeout, "neighbours are being asked how long the account's key log is").
			WithHint("Try again, with a longer --timeout.")
	}
}
