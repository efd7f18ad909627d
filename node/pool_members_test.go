package node

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

func keyOfSeed(seed byte) ledger.Key {
	return ledger.KeyOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func TestChangedMembers(t *testing.T) {
	keys := func(seeds ...byte) (list []ledger.Key) {
		for _, s := range seeds {
			list = append(list, keyOfSeed(s))
		}
		return list
	}
	pool := &ledger.KeyState{Members: keys(1, 2, 3), T: 2}
	slices.SortFunc(pool.Members, func(a, b ledger.Key) int { return bytes.Compare(a[:], b[:]) })
	before := slices.Clone(pool.Members)
	for name, c := range map[string]struct {
		add, remove []ledger.Key
		t           int
		members     int
		threshold   uint8
		want        cellproto.Kind
	}{
		"one more":                       {add: keys(4), members: 4, threshold: 3},
		"two more":                       {add: keys(4, 5), members: 5, threshold: 3},
		"one less":                       {remove: keys(1), members: 2, threshold: 2},
		"one for another":                {add: keys(4), remove: keys(1), members: 3, threshold: 2},
		"all sign":                       {t: 3, members: 3, threshold: 3},
		"one is left":                    {remove: keys(1, 2), members: 1, threshold: 1},
		"nobody is left":                 {remove: keys(1, 2, 3), want: cellproto.BadInput},
		"half sign":                      {add: keys(4), t: 2, want: cellproto.BadInput},
		"more than there are":            {t: 4, want: cellproto.BadInput},
		"fewer than none":                {t: -1, want: cellproto.BadInput},
		"eleven":                         {add: keys(4, 5, 6, 7, 8, 9, 10, 11), want: cellproto.BadInput},
		"a member again":                 {add: keys(1), want: cellproto.BadInput},
		"nobody's":                       {remove: keys(9), want: cellproto.NotFound},
		"nothing":                        {t: 2, want: cellproto.BadInput},
		"out and in again, so unchanged": {add: keys(1), remove: keys(1), want: cellproto.BadInput},
	} {
		p, err := changedMembers(pool, c.add, c.remove, c.t)
		if c.want != 0 {
			if cellproto.KindOf(err) != c.want {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || len(p.Keys) != c.members || p.T != c.threshold {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		for i := 1; i < len(p.Keys); i++ {
			if bytes.Compare(p.Keys[i-1][:], p.Keys[i][:]) >= 0 {
				t.Errorf("%s: not in order", name)
			}
		}
	}
	if !slices.Equal(pool.Members, before) {
		t.Error("the pool was changed")
	}
}

// A pool that needs the present key keeps it from being rotated, until the next key stands in its place; and a
// proposal that was signed is there after a crash, and the only one.
func TestRotationAndPools(t *testing.T) {
	home := t.TempDir()
	o := openHome(t, home, nil)
	o.delegated(t, 7)
	id := o.id
	pool, err := o.a.led.FoundPool(time.Now(), []ledger.Key{id, keyOfSeed(1)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.pools.set(textOf(pool), "archive"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.rotate(t.Context(), time.Now(), false); cellproto.KindOf(err) != cellproto.Denied || o.state(id).Key != id {
		t.Fatalf("a pool would stand still: %v", err)
	}
	next, err := o.keys.read(nextKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	p, err := changedMembers(o.state(pool), []ledger.Key{ledger.KeyOf(next)}, []ledger.Key{id}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := o.a.led.Draft(time.Now(), pool, p, o.keys.inForce()); err != nil || done {
		t.Fatal(done, err)
	}
	if err := o.a.led.Close(); err != nil {
		t.Fatal(err)
	}
	o = openHome(t, home, nil)
	row := o.poolRow(pool)
	if len(row.Proposals) != 1 || len(row.Proposals[0].Members) != 2 || row.Proposals[0].Threshold != 2 || row.Proposals[0].Missing != 1 {
		t.Errorf("%+v", row.Proposals)
	}
	other, err := changedMembers(o.state(pool), []ledger.Key{keyOfSeed(3)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := o.a.led.Draft(time.Now(), pool, other, o.keys.inForce()); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("two proposals for one place: %v", err)
	}
	draft, _, err := o.a.led.Draft(time.Now().Add(time.Hour), pool, p, o.keys.inForce()) // which is the same
	if err != nil {
		t.Fatal(err)
	}
	if done, err := o.a.led.SignDraft(time.Now(), draft, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))); err != nil || !done {
		t.Fatal(done, err)
	}
	r, err := o.rotate(t.Context(), time.Now(), false)
	if err != nil || len(r.Pools) != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	o.a.led.View(func(b *ledger.Book) {
		if !b.Concerns(pool) || !b.OwnKey(id) || !b.OwnKey(ledger.KeyOf(next)) || b.OwnKey(keyOfSeed(1)) || b.OwnKey(ledger.Key{}) {
			t.Error("the pool is not the account's any more")
		}
	})
	if _, _, err := o.a.led.Draft(time.Now(), pool, &ledger.RunnerBudget{Runner: o.signerOf(id), Budget: 5, NotAfter: 1 << 50}, o.keys.inForce()); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	if r, err = o.rotate(t.Context(), time.Now(), true); err != nil || len(r.Pools) != 1 || r.Pools[0] != "archive" {
		t.Errorf("%+v %v", r, err)
	}
	if files, err := filepath.Glob(filepath.Join(home, "keys", "*.key")); err != nil || len(files) != 3 {
		t.Errorf("%q %v", files, err)
	}
}

// A member is handed a file that proposes other members, or something else: it signs what it was asked to.
func TestWhatIsSignable(t *testing.T) {
	for _, c := range []struct {
		p       ledger.Payload
		members bool
		want    cellproto.Kind
	}{
		{&ledger.RunnerBudget{Budget: 1}, false, 0},
		{&ledger.RunnerBudget{Budget: 1}, true, 0},
		{&ledger.PoolMembers{Keys: []ledger.Key{{1}}, T: 1}, false, cellproto.Unsupported},
		{&ledger.PoolMembers{Keys: []ledger.Key{{1}}, T: 1}, true, 0},
		{&ledger.Delegate{Cell: "cell"}, true, cellproto.Unsupported},
		{&ledger.Checkpoint{}, true, cellproto.Unsupported},
	} {
		if err := signable(&ledger.KeyEntry{Payload: c.p}, c.members); cellproto.KindOf(err) != c.want {
			t.Errorf("%T, members %v: %v", c.p, c.members, err)
		}
	}
}
