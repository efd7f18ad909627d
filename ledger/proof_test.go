package ledger

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// However often keys change, what can be in a log can be proven to have forked: what cannot is not taken into it.
func TestEveryForkIsProven(t *testing.T) {
	many := func(n, first byte) (keys []Key) {
		for k := range n {
			keys = append(keys, pub(first+k))
		}
		slices.SortFunc(keys, func(a, b Key) int { return bytes.Compare(a[:], b[:]) })
		return keys
	}
	for name, change := range map[string]func(a *author) *KeyEntry{
		"rotations": func(a *author) *KeyEntry {
			next := max(a.key, 100) + 1
			return a.draft(&Rotate{Key: pub(next), Next: HashKey(pub(next + 1))}, next)
		},
		"members": func(a *author) *KeyEntry {
			if len(a.state.Members) == 0 {
				return a.draft(&PoolMembers{Keys: many(8, 50), T: 8})
			}
			return a.draft(&PoolMembers{Keys: many(8, 50), T: 8}, 50, 51, 52, 53, 54, 55, 56, 57)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newAuthor(t, 1), newTestBook(9)
			b.expect(t, Stored, wire(t, a.log[0]))
			changes := 0
			for ; changes < 100; changes++ {
				e := change(a)
				next, err := a.state.Apply(e)
				if err != nil {
					wantKind(t, "one change too many", err, cellproto.Denied)
					break
				}
				a.state, a.log = next, append(a.log, e)
				if _, ok := e.Payload.(*Rotate); ok {
					a.key = max(a.key, 100) + 1
				}
				b.expect(t, Stored, wire(t, e))
			}
			var keys []byte
			if len(a.state.Members) > 0 {
				keys = []byte{50, 51, 52, 53, 54, 55, 56, 57}
			}
			one := a.draft(&Checkpoint{State: a.state.Digest()}, keys...)
			a.t0++
			two := a.draft(&Checkpoint{State: a.state.Digest()}, keys...)
			b.expect(t, Stored, wire(t, one))
			r := b.Ingest(nowMS, wire(t, two))
			if r.Verdict != Forked || changes == 100 || changes == 0 {
				t.Fatalf("after %d changes: %v %v", changes, r.Verdict, r.Err)
			}
			t.Log(fmt.Sprint(changes, " changes, a proof of ", len(r.Record), " bytes"))
			if other := newTestBook(8); other.IngestProof(r.Record).Verdict != Forked || !other.Banned(pub(1)) {
				t.Error("others are not convinced")
			}
		})
	}
}

// Anybody can make identities up and prove that they have forked: there is room for some of those, and for those that
// are known here always.
func TestRoomForProofs(t *testing.T) {
	fork := func(id byte) []byte {
		a := newAuthor(t, id)
		b := &KeyEntry{Net: testNet, ID: pub(id), T: 1, Payload: &Genesis{Next: Hash{id}}}
		if err := b.Sign(testKey(id), 0); err != nil {
			t.Fatal(err)
		}
		return wire(t, &ForkProof{A: a.log[0], B: b})
	}
	b := NewBook(Config{Net: testNet, Self: pub(9), MaxLogs: 5 * outcastPart})
	b.expect(t, Stored, wire(t, newAuthor(t, 7).log[0]))
	b.expect(t, Stored, wire(t, dual(t, testReceipt(8, 6, 10), 8, 6)))
	for id := byte(20); id < 60; id++ {
		want := Forked
		if id >= 25 {
			want = Beyond
		}
		if r := b.IngestProof(fork(id)); r.Verdict != want {
			t.Fatalf("%d: %v %v", id, r.Verdict, r.Err)
		}
	}
	for _, id := range []byte{6, 7, 8} {
		if r := b.IngestProof(fork(id)); r.Verdict != Forked || !b.Banned(pub(id)) {
			t.Errorf("one that is known: %v %v", r.Verdict, r.Err)
		}
	}
	if r := b.IngestProof(fork(20)); r.Verdict != Stale {
		t.Errorf("one that is here: %v", r.Verdict)
	}
}
