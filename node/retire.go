package node

import (
	"context"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/call"
)

// A newer version of a mirrored cell makes a directory of its own. The one before is told in its record, by
// whichever nucleus of this user sees the newer one serve, and retires by itself when nobody calls it.

// replacedBy notes in the records of older versions that are mirrored here that id serves, and gives them.
// Which ones are older the manifests say, by the links that their owner has signed.
func (m *mirrors) replacedBy(ctx context.Context, id cid.Cid, manifest *signed.Manifest) ([]mirror.Mirror, error) {
	others, err := m.store.Others(id, manifest)
	if err != nil || len(others) == 0 || !manifest.Prev.Defined() {
		return nil, err
	}
	versions, err := m.n.caller.History(ctx, id)
	if err != nil {
		versions = []call.Version{{CID: id, Manifest: manifest}} // its own link still counts
	}
	older := map[string]bool{}
	for _, v := range versions {
		if v.Manifest.Prev.Defined() {
			older[v.Manifest.Prev.Cid.String()] = true
		}
	}
	var out []mirror.Mirror
	for _, o := range others {
		if !older[o.CID] {
			continue
		}
		if err := mirror.Replace(o.Dir, id.String(), manifest.Accepted...); err != nil {
			return out, err
		}
		out = append(out, o)
	}
	return out, nil
}

// retireEvery is how often a mirror looks whether it was replaced.
const retireEvery = time.Minute

// retiree is a mirror that stops when a newer version serves and nobody calls it any more.
type retiree struct {
	dir   string
	load  func() call.Load
	users func() []call.Used // who counts, by retire_after
}

// look says whether it is to retire, and if not, when to look again.
func (r retiree) look(now time.Time) (retire bool, again time.Duration, err error) {
	record, err := mirror.ReadRecord(r.dir)
	if err != nil || record == nil {
		return false, retireEvery, err
	}
	load := r.load()
	if load.InFlight > 0 {
		load.LastEnded = now
	}
	d := mirror.Decide(now, mirror.Situation{
		Copy: mirror.Here, Replaced: record.ReplacedBy != "", LastCall: load.LastEnded, Placement: celltoml.PlacementPublic,
	})
	if d.Action == mirror.Retire {
		if r.needed(record) {
			return false, retireEvery, nil
		}
		return true, 0, nil
	}
	again = retireEvery
	if !d.Again.IsZero() {
		again = min(max(d.Again.Sub(now), time.Second), retireEvery)
	}
	return false, again, nil
}

// needed says whether somebody counts as a caller whom the newer version would break. The cell's owner does not know of
// those who are served here: what he publishes is not held up by them, and so they keep what they were made for.
func (r retiree) needed(record *mirror.Record) bool {
	if len(record.Accepts) == 0 {
		return false
	}
	for _, used := range r.users() {
		if !slices.Contains(record.Accepts, used.Schema) && slices.ContainsFunc(used.Users, func(u call.User) bool { return u.Says }) {
			return true
		}
	}
	return false
}

// retire stops the nucleus of a mirror that a newer version has replaced, once it is idle. cellctl gc removes
// it later.
func (n *nucleus) retire(started *closers) {
	if n.mirror == nil {
		return
	}
	r := retiree{n.cfg.Dir, n.load, n.users}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(retireEvery)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-stop:
				return
			}
			retire, again, err := r.look(time.Now())
			if err != nil {
				n.log.Warn("cannot look whether this mirror was replaced", zap.Error(err))
			}
			if retire {
				n.log.Info("a newer version serves, and nobody calls this one")
				n.stop()
				return
			}
			timer.Reset(again)
		}
	}()
	started.add(func() { close(stop); <-ended })
}
