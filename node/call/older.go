package call

import (
	"context"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// A name stands for the newest version of a cell, which may break a caller that was made for an older one. That is led
// to the newest version that serves it, by the links from each manifest to the one before, for as long as somebody
// provides that.

const (
	// maxOlder is how many versions are looked at for one.
	maxOlder = 16
	// olderTime bounds the search, and half of the call's time does.
	olderTime = 5 * time.Second
	// olderAgain is how long what it has found holds: that nothing was, too.
	olderAgain = time.Minute
	maxOlders  = 1024 // that are remembered
)

// olderKey is a version by name, and what a caller was made for.
type olderKey struct {
	newest cid.Cid
	made   string
}

// older is the version that serves such a caller; the newest itself if no other does.
type older struct {
	cell cid.Cid
	till time.Time
}

// versionFor gives the newest version of the cell whose newest is id that serves callers who were made for a schema.
func (c *Caller) versionFor(ctx context.Context, id cid.Cid, made string) cid.Cid {
	if len(made) != len(cellproto.SchemaHash{}) {
		return id
	}
	key, now := olderKey{id, made}, time.Now()
	c.mu.Lock()
	known, ok := c.olders[key]
	c.mu.Unlock()
	if ok && now.Before(known.till) {
		return known.cell
	}
	limit := olderTime
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, deadline.Sub(now)/2)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := c.findVersion(limited, id, cellproto.SchemaHash([]byte(made)))
	if err != nil {
		c.deps.Log.Debug("which version of a cell serves this caller is not known", zap.Stringer("newest", id), zap.Error(err))
		return id // it says itself whether it serves
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.olders) >= maxOlders {
		clear(c.olders)
	}
	c.olders[key] = older{found, now.Add(olderAgain)}
	return found
}

func (c *Caller) findVersion(ctx context.Context, id cid.Cid, made cellproto.SchemaHash) (cid.Cid, error) {
	versions, _, err := c.walk(ctx, id, maxOlder, func(v Version) bool { return !serves(v.Manifest, made) })
	for _, v := range versions {
		if serves(v.Manifest, made) {
			return v.CID, nil
		}
	}
	return id, err
}

// serves says whether a manifest promises to serve callers who were made for a schema.
func serves(m *signed.Manifest, made cellproto.SchemaHash) bool {
	return m.SchemaHash.IsZero() || m.SchemaHash == made || slices.Contains(m.Accepted, made)
}

// callNamed calls a published cell by its name.
func (c *Caller) callNamed(ctx context.Context, t resolved, req *cellproto.Request, now time.Time) (*Result, error) {
	id := c.versionFor(ctx, t.newest, t.made)
	if id.Equals(t.newest) {
		return c.callResolved(ctx, t, req, now)
	}
	old := c.published(id)
	old.made = t.made
	res, err := c.callResolved(ctx, old, req, now)
	if cellproto.KindOf(err) != cellproto.NotFound || ctx.Err() != nil || !rewind(req) {
		return res, err
	}
	// Nobody provides it any more. The newest one may serve what is called, and says so if not.
	return c.callResolved(ctx, t, req, now)
}
