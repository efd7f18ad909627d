package node

import (
	"context"
	"maps"
	"slices"
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
// another nucleus of this machine. If entries of the log are missing here the wait has no end, since another one in the place of one
// of them would be a fork; after lostPatience whoever wants something signed is told so. Each time that something of it has come back
// they are asked for as long again: one of them may have a part of it alone.
const (
	askEvery     = 200 * time.Millisecond
	askPatience  = 10 * time.Second
	lostPatience = time.Minute
	lostQuorum   = 2
	failedEvery  = time.Second // who was asked and could not answer is asked again
)

// asking is what has been heard of the key log so far.
type asking struct {
	begun  bool    // there was one
	mark   logMark // what is noted of it
	gone   bool    // some of it was not here, and what has come back may be a part
	length uint64  // entries that the answers are about, where it is gone
	asked  map[peer.ID]time.Time
	heard  map[peer.ID]time.Time // as asked, of cells of this machine
	agree  map[peer.ID]bool      // those who know as much as this host
	failed map[peer.ID]bool      // those who are there and have not answered, as when a line breaks
	cells  map[peer.ID]bool      // those of them that are cells of this machine, which may come from the same backup
	all    bool                  // everybody has agreed who can have the log
	filed  bool                  // it is on the disk that some of it is gone
	end    time.Time             // when few answers are enough
	lost   time.Time             // when the owner is told
}

// askable is who can be asked, and how.
type askable struct {
	near  func() []peer.ID
	fetch func(context.Context, peer.ID) (uint64, error)
	cells func() map[peer.ID]string // directories of the account's other cells on this machine
	hear  func(ctx context.Context, dir string) (uint64, error)
}

func (o *account) newAsking(now time.Time) *asking {
	q := &asking{
		begun: o.begun(), asked: map[peer.ID]time.Time{}, heard: map[peer.ID]time.Time{}, failed: map[peer.ID]bool{}, agree: map[peer.ID]bool{}, cells: map[peer.ID]bool{},
		end: now.Add(askPatience), lost: now.Add(lostPatience),
	}
	o.suspect()
	q.mark, q.length = o.keys.marked(), o.state(o.id).Len
	if q.gone = q.mark.doubt; q.gone && q.length > 0 { // a part has come back in another life
		q.end = q.lost
	}
	return q
}

// due says whether somebody is to be asked, perhaps again.
func (q *asking) due(asked map[peer.ID]time.Time, p peer.ID, now time.Time) bool {
	at, before := asked[p]
	return len(q.agree) < ledger.Confirmations &&
		(!before || q.gone && now.Sub(at) >= lostPatience || q.failed[p] && now.Sub(at) >= failedEvery)
}

// grown has all be asked anew: what they have said was about less than has come back since.
func (q *asking) grown(length uint64, now time.Time) {
	clear(q.asked)
	clear(q.heard)
	clear(q.agree)
	clear(q.cells)
	q.length, q.end, q.lost = length, now.Add(lostPatience), now.Add(lostPatience)
}

// enough says whether the key log may be written, with length entries of it here. What is noted beside the keys is the least that
// there was, whoever says otherwise.
func (q *asking) enough(length uint64, now time.Time) bool {
	switch {
	case q.gone && (length == 0 || length < q.mark.entries):
		return false
	case len(q.agree) >= ledger.Confirmations:
		return true
	case q.gone && len(q.agree) < lostQuorum && !q.all:
		return false
	}
	if len(q.failed) > 0 { // one of them may be the one who knows more
		return now.After(q.lost)
	}
	return now.After(q.end)
}

// waits gives those who were shown the log or are hosts of the account, and have not agreed; known is whether there is nobody else.
func (q *asking) waits(s *ledger.KeyState, self ledger.Key) (wait []peer.ID, known bool) {
	wait = slices.Clone(q.mark.shown)
	for host, d := range s.Hosts {
		if p, err := peerOf(host); err == nil && host != self && !d.Revoked && !slices.Contains(wait, p) {
			wait = append(wait, p)
		}
	}
	wait = slices.DeleteFunc(wait, func(p peer.ID) bool { return q.agree[p] || q.cells[p] })
	slices.Sort(wait)
	return wait, !q.mark.many
}

// says says whether somebody whose log of the account is that long says anything of one that has that many entries here:
// it does not if it knows less, unless there never was one. begun is whether there was.
func says(length, have uint64, begun bool) bool { return length >= have && (length > 0 || !begun) }

// ask has neighbours say how long the key log is, and takes what they have more of it: this one may come from a
// backup. It ends with three of them who know it, or when as many as there are were asked and askPatience
// has passed. Of a log of which entries are missing here two who agree have to come by, or all who can have it, or its owner says
// that this is all, however long that takes.
func (o *account) ask(ctx context.Context, who askable) {
	a, now := o.a, time.Now()
	q := o.newAsking(now)
	if q.gone {
		a.log.Warn("entries of the account's key log are missing here: neighbours are asked for them")
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		news := o.askAll(ctx, q, who, now)
		s := o.state(o.id)
		if q.gone && s.Len != q.length {
			a.led.Unconfirm()
			q.grown(s.Len, now)
			news = true
		}
		if q.gone && (news || o.doubts.Load() == nil) {
			q.all = o.report(q, s)
		}
		if word := o.accepted.Load(); word || q.enough(s.Len, now) {
			o.settled(q, s, word)
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

// askAll asks those who are to be asked, and says whether there was anybody. Nobody is as long as it is not on the disk that entries are missing: what comes back would
// look like all of it to the next nucleus.
func (o *account) askAll(ctx context.Context, q *asking, who askable, now time.Time) (news bool) {
	if q.gone && !q.filed {
		o.suspect()
		if q.filed = o.keys.marked().filed; !q.filed {
			return false
		}
	}
	if who.cells != nil {
		for p, dir := range who.cells() {
			if !q.due(q.heard, p, now) {
				continue
			}
			q.heard[p], news = now, true
			if length, err := who.hear(ctx, dir); err == nil && says(length, o.state(o.id).Len, q.begun) {
				q.cells[p] = true
			}
		}
	}
	near := who.near()
	maps.DeleteFunc(q.failed, func(p peer.ID, _ bool) bool { return !slices.Contains(near, p) })
	for _, p := range near {
		if !q.due(q.asked, p, now) {
			continue
		}
		q.asked[p], news = now, true
		agrees, err := o.confirm(ctx, p, q.begun, who.fetch)
		if delete(q.failed, p); err != nil {
			q.failed[p] = true
		}
		if agrees {
			q.agree[p] = true
		}
	}
	return news
}

// settled notes that the log may be written.
func (o *account) settled(q *asking, s *ledger.KeyState, word bool) {
	o.lost.Store(false)
	if q.gone && !word { // else the owner's word has done so
		if err := o.keys.resolve(s); err != nil {
			o.a.log.Warn("it is not noted that the account's key log is whole again", zap.Error(err)) // it is asked for again at the next start
		}
	}
	if len(q.agree) < ledger.Confirmations {
		o.a.log.Info("few neighbours could be asked for the account's key log", zap.Int("answers", len(q.agree)))
		o.a.led.Alone()
	}
}

// begun says whether this home cell has begun the account's key log before.
func (o *account) begun() bool { return o.state(o.id).Len > 0 || o.keys.begun() }

// mark notes how long the key log is, so that it is known whatever becomes of the ledger. fresh: see keyring.mark.
func (o *account) mark(fresh bool) {
	if err := o.keys.mark(o.state(o.id), fresh); err != nil {
		o.a.log.Warn("it is not noted how long the account's key log is", zap.Error(err))
	}
}

// suspect has the next nucleus know, too, that entries of the key log are missing here.
func (o *account) suspect() {
	if err := o.keys.suspect(o.state(o.id)); err != nil {
		o.a.log.Warn("it is not noted that entries of the account's key log are missing", zap.Error(err))
	}
}

// showed notes who gets entries of the key log from here, before they do.
func (o *account) showed(p peer.ID) {
	if err := o.keys.showed(p); err != nil {
		o.a.log.Debug("it is not noted who knows the account's key log", zap.Error(err))
	}
}

// shows is showed for gossip.Deps: of a home cell, which writes the log.
func (o *account) shows() func(peer.ID) {
	if !o.atHome() {
		return nil
	}
	return o.showed
}

// cells gives the account's other cells on this machine.
func (o *account) cells() map[peer.ID]string {
	out := map[peer.ID]string{}
	for text, dir := range o.dirs.all() {
		if p, err := peer.Decode(text); err == nil {
			out[p] = dir
		}
	}
	return out
}

// askCell has another cell on this machine tell what it has of the account, if it runs, and gives how long its key log is there.
func (o *account) askCell(ctx context.Context, dir string) (length uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	err = (&ctl.Client{Dir: dir}).Entries(ctx, 0, true, func(entry []byte) error {
		if e, err := ledger.DecodeKeyEntry(entry); err == nil && e.ID == o.id {
			length = max(length, e.Seq+1)
		}
		return o.told(entry)
	})
	return length, err
}

// confirm asks one neighbour, and says whether it knows as much as this host. The error is that it has not answered.
func (o *account) confirm(ctx context.Context, p peer.ID, begun bool, fetch func(context.Context, peer.ID) (uint64, error)) (agrees bool, err error) {
	key, err := gossip.KeyOf(p)
	if err != nil {
		return false, nil // it has no place in the ledger
	}
	length, err := fetch(ctx, p)
	if err != nil {
		o.a.log.Debug("a neighbour does not say how long the key log is", zap.Stringer("peer", p), zap.Error(err))
		return false, err
	}
	have := o.state(o.id).Len
	if !says(length, have, begun) {
		return false, nil
	}
	o.a.led.Confirm(key, have)
	return true, nil
}

// awaitAsked waits until neighbours have said how long the key log is. Kinds: Timeout; Unavailable when it is lost.
func (o *account) awaitAsked(ctx context.Context, op string, w *ctl.Writer) error {
	select {
	case <-o.asked:
		return nil
	default:
	}
	if o.lost.Load() {
		return cellproto.Errorf(op, cellproto.Unavailable, "entries of the account's key log are missing here, and too few who were asked know it: what does not follow all of it would be a fork").
			WithHint("Wait until those are connected that this account has dealt with, or restore ledger/ of the home cell from a backup. cellctl wallet recover says who is waited for, and what else can be done.")
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
