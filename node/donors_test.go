package node

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/ledger"
)

// Who has worked for those whom the root owes something is ranked; who has only signed for friends is not.
func TestDonors(t *testing.T) {
	key := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
	}
	id := func(b byte) ledger.Key { return ledger.KeyOf(key(b)) }
	net := ledger.NetOf("test")
	book := ledger.NewBook(ledger.Config{Net: net, Self: id(1)})
	signs := func(consumer, provider byte, credit uint64) {
		t.Helper()
		s, err := ledger.SealReceipt(ledger.Receipt{
			Net: net, Consumer: id(consumer), Provider: id(provider), N: 1, Credit: credit, Est: 4, MeterV: 1,
		}, key(consumer), ledger.RoleConsumer)
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if r := book.Ingest(1, data); r.Verdict != ledger.Stored {
			t.Fatalf("%v: %v", r.Verdict, r.Err)
		}
	}
	signs(1, 2, 1000)      // 2 has worked for the root
	signs(2, 3, 400)       // and 3 for 2, who pays with that
	signs(8, 9, 1_000_000) // two who sign for each other
	signs(9, 8, 400_000)
	owed := map[string]uint64{}
	var order []string
	for _, r := range donors(book, id(1)) {
		owed[r.Peer] = r.Owed
		order = append(order, r.Peer)
	}
	text := func(b byte) string {
		p, err := peerOf(id(b))
		if err != nil {
			t.Fatal(err)
		}
		return p.String()
	}
	if len(order) != 4 || order[0] != text(2) || order[1] != text(3) {
		t.Errorf("the order is %v", order)
	}
	if owed[text(2)] != 600 || owed[text(3)] != 400 || owed[text(8)] != 0 || owed[text(9)] != 0 {
		t.Errorf("owed are %v", owed)
	}
	if rows := donors(book, id(8)); rows[0].Peer != text(9) || rows[0].Owed != 600_000 {
		t.Errorf("seen from 8: %+v", rows)
	}
}

func TestDiverseNeighbours(t *testing.T) {
	group := map[peer.ID]string{"a": "1", "b": "1", "c": "1", "d": "2", "e": "3", "f": "3"}
	all := []peer.ID{"a", "b", "c", "d", "e", "f"}
	groups := func(n int) map[string]int {
		seen := map[string]int{}
		for _, p := range diverse(all, group, n) {
			seen[group[p]]++
		}
		return seen
	}
	if g := groups(3); len(g) != 3 {
		t.Errorf("three neighbours are in the groups %v", g)
	}
	if g := groups(5); g["1"] != 2 || g["2"] != 1 || g["3"] != 2 {
		t.Errorf("five neighbours are in the groups %v", g)
	}
	if n := len(diverse(all, group, 100)); n != len(all) {
		t.Errorf("%d of %d", n, len(all))
	}
}
