package node

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// Who the members of a pool are. A pool knows keys, not accounts: whose key was replaced has to be replaced there.

// signerOf gives the key that signs for an account as far as is known here, which is its ID if it was never rotated.
func (o *account) signerOf(id ledger.Key) ledger.Key {
	if id == o.id {
		return ledger.KeyOf(o.keys.inForce())
	}
	if s := o.state(id); s.Len > 0 && len(s.Members) == 0 {
		return s.Key
	}
	return id
}

// among says whether one of some keys is, or was, this account's.
func (o *account) among(keys ...ledger.Key) (yes bool) {
	o.a.led.View(func(b *ledger.Book) { yes = slices.ContainsFunc(keys, b.OwnKey) })
	return yes
}

func (n *nucleus) ctlPoolMembers(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "propose members"
	o, err := n.signer(ctx, op, w)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	t, err := strconv.Atoi(q.Get("threshold"))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the threshold is no number")
	}
	id, err := o.pool(op, q.Get("pool"))
	if err != nil {
		return nil, err
	}
	add, err := keysOfTexts(op, q["add"])
	if err != nil {
		return nil, err
	}
	for i, k := range add {
		add[i] = o.signerOf(k)
	}
	remove, err := keysOfTexts(op, q["remove"])
	if err != nil {
		return nil, err
	}
	p, err := changedMembers(o.state(id), add, remove, t)
	if err != nil {
		return nil, err
	}
	e, done, err := o.a.led.Draft(time.Now(), id, p, o.keys.inForce())
	if err != nil {
		return nil, err
	}
	o.a.travel.Spread(id)
	return o.poolFile(id, e, done)
}

// changedMembers gives a pool's members after a change. t is how many of them sign together; 0: as many as before, if
// that is more than half of them and not more than there are, else the least number.
func changedMembers(s *ledger.KeyState, add, remove []ledger.Key, t int) (*ledger.PoolMembers, error) {
	const op = "propose members"
	keys := slices.Clone(s.Members)
	for _, k := range remove {
		at := slices.Index(keys, k)
		if at < 0 {
			return nil, cellproto.Errorf(op, cellproto.NotFound, "%s is not a member of the pool", textOf(k)).WithHint("cellctl pool status lists them.")
		}
		keys = slices.Delete(keys, at, at+1)
	}
	for _, k := range add {
		if slices.Contains(keys, k) {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%s is a member already", textOf(k))
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b ledger.Key) int { return slices.Compare(a[:], b[:]) })
	if t == 0 {
		if t = int(s.T); 2*t <= len(keys) || t > len(keys) {
			t = len(keys)/2 + 1
		}
	}
	if err := checkMembers(op, len(keys), t); err != nil {
		return nil, err
	}
	if t == int(s.T) && slices.Equal(keys, s.Members) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "that is what the pool has: nothing would change")
	}
	return &ledger.PoolMembers{Keys: keys, T: uint8(t)}, nil
}

// checkMembers refuses numbers of members, and of those who sign together, that no pool has.
func checkMembers(op string, members, t int) error {
	if members == 0 || members > ledger.MaxMembers || 2*t <= members || t > members {
		return cellproto.Errorf(op, cellproto.BadInput, "a pool has 1 to %d members, and more than half of them sign together: of %d at least %d, not %d",
			ledger.MaxMembers, members, members/2+1, t)
	}
	return nil
}

// bound gives the pools that know the account by its key in force, and not by the one that comes next: those that stand
// still without that key, and the others, by the names that they have here.
func (o *account) bound(now, next ledger.Key) (stuck, others []string, err error) {
	ids, err := o.named()
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		s := o.state(id)
		member := slices.Contains(s.Members, now) && !slices.Contains(s.Members, next)
		switch {
		case member && int(s.T) >= len(s.Members):
			stuck = append(stuck, o.poolRow(id).Name)
		case member || s.Runner.Budget > 0 && s.Runner.Runner == now:
			others = append(others, o.poolRow(id).Name)
		}
	}
	slices.Sort(stuck)
	slices.Sort(others)
	return stuck, others, nil
}
