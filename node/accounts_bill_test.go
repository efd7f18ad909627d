package node

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// What a caller has signed for in an earlier life of the nucleus is gone on from, once; what it has signed for in this
// one is not counted twice.
func TestDebtorHears(t *testing.T) {
	acked := func(credit uint64) *ledger.Signed { return &ledger.Signed{Receipt: ledger.Receipt{Credit: credit}} }
	d := &debtor{}
	for _, c := range []struct{ sent, acked, base uint64 }{
		{0, 50, 50},    // heard from a neighbour
		{0, 40, 50},    // an older one
		{60, 60, 50},   // a bill of this nucleus, whose answer was lost
		{0, 55, 55},    // the caller knows of one between
		{90, 200, 200}, // the caller has signed for more than was billed
	} {
		if c.sent > 0 {
			d.sent = append(d.sent, c.sent)
		}
		if d.heard(acked(c.acked)); d.base.Credit != c.base {
			t.Errorf("%d were signed for, it goes on from %d, not %d", c.acked, d.base.Credit, c.base)
		}
	}
	d.heard(nil)
}

// A line that breaks makes no caller a newcomer, who does not sign does, and so does who never answers.
func TestLineIsNoRefusal(t *testing.T) {
	broken := cellproto.Errorf("ask about the ledger", cellproto.Unavailable, "stream reset")
	busy := &gossip.Refusal{Kind: cellproto.Overloaded, Text: "there was too much to look at"}
	d := &debtor{}
	step := func(what string, err error, connected, refuses bool, pause time.Duration) {
		t.Helper()
		d.answered(time.Now(), err, connected)
		if (d.refused != nil) != refuses || d.pause() != pause {
			t.Errorf("%s: refused %v, the next bill after %v", what, d.refused, d.pause())
		}
	}
	step("it has left", broken, false, false, 0)
	step("a stream broke", broken, true, false, failEvery)
	step("it is busy", busy, true, false, failEvery)
	step("it has signed", nil, true, false, 0)
	for range maxFailed - 1 {
		step("a stream broke", broken, true, false, failEvery)
	}
	step("it never answers", broken, true, true, refuseEvery)
	step("it has left since", broken, false, true, refuseEvery)
	step("it has signed", nil, true, false, 0)
	step("it refuses", &gossip.Refusal{Kind: cellproto.Denied, Text: "no"}, true, true, refuseEvery)
	step("its answer is no receipt", cellproto.Errorf("take receipt", cellproto.BadInput, "something else"), true, true, refuseEvery)
	step("a stream broke after it refused", broken, true, true, refuseEvery)
}

// A bill that does not come with the newest receipt is answered with that.
func TestShows(t *testing.T) {
	_, consumer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	receipt := func(credit uint64) *ledger.Signed {
		s, err := ledger.SealReceipt(ledger.Receipt{
			Net: ledger.NetOf("test"), Consumer: ledger.KeyOf(consumer), Provider: ledger.Key{1}, Est: ledger.EstTable, MeterV: 1, N: credit, Credit: credit,
		}, consumer, ledger.RoleConsumer)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	newest := receipt(10)
	same, err := newest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	older, err := receipt(9).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !shows(same, newest) || shows(older, newest) || shows(nil, newest) || shows([]byte("x"), newest) {
		t.Error("the newest receipt is not told from others")
	}
}

// testAccounts gives the accounts of a host that has nothing but a ledger.
func testAccounts(t *testing.T, key ed25519.PrivateKey) *accounts {
	t.Helper()
	return accountsIn(t, key, t.TempDir())
}

// accountsIn is testAccounts with a ledger that is in dir, or comes there.
func accountsIn(t *testing.T, key ed25519.PrivateKey, dir string) *accounts {
	t.Helper()
	files, err := ledger.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return accountsOn(t, key, files)
}

// accountsOn is testAccounts with a ledger that is in these files, or comes there.
func accountsOn(t *testing.T, key ed25519.PrivateKey, files ledger.Files) *accounts {
	t.Helper()
	prices, err := ledger.LoadPrices(ledger.PriceVersion)
	if err != nil {
		t.Fatal(err)
	}
	a := &accounts{log: zap.NewNop(), lenders: map[ledger.Key]*lender{}, net: ledger.NetOf("test"), self: ledger.KeyOf(key), key: key, prices: prices, energy: newEnergy(t.TempDir(), t.TempDir(), 1, prices)}
	if a.led, _, err = ledger.Open(ledger.Config{Net: a.net, Self: a.self}, files, time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.led.Close() })
	return a
}

// receive has a host take a receipt with these signatures.
func receive(t *testing.T, a *accounts, r ledger.Receipt, consumer, provider ed25519.PrivateKey) {
	t.Helper()
	s := &ledger.Signed{Receipt: r}
	for role, key := range map[ledger.Role]ed25519.PrivateKey{ledger.RoleConsumer: consumer, ledger.RoleProvider: provider} {
		if key == nil {
			continue
		}
		half, err := ledger.SealReceipt(r, key, role)
		if err != nil {
			t.Fatal(err)
		}
		if role == ledger.RoleConsumer {
			s.ConsumerSig = half.ConsumerSig
		} else {
			s.ProviderSig = half.ProviderSig
		}
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if r := a.led.Ingest(time.Now(), data); r.Verdict != ledger.Stored {
		t.Fatalf("%v: %v", r.Verdict, r.Err)
	}
}

// A caller to whom something is owed signs for so many bytes that its register is full: nothing can be billed to it any
// more, and it waits with the newcomers.
func TestFullRegisterIsNotFree(t *testing.T) {
	_, self, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, caller, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := testAccounts(t, self)
	receive(t, a, ledger.Receipt{Net: a.net, Consumer: a.self, Provider: ledger.KeyOf(caller), Est: 4, MeterV: 1, N: 1, Credit: 1e6}, self, nil)
	d := &debtor{key: ledger.KeyOf(caller)}
	d.base = ledger.Receipt{Net: a.net, Consumer: d.key, Provider: a.self}
	rank := func() ledger.Class {
		c, _ := a.led.Standing(time.Now(), d.key, a.unbilled(d, call.Usage{Calls: 1, CPU: 1e6})).Rank()
		return c
	}
	if rank() != ledger.ClassEarned {
		t.Fatal("it is owed nothing")
	}
	const most = 1<<63 - 1
	huge := ledger.Receipt{Net: a.net, Consumer: d.key, Provider: a.self, Est: 4, MeterV: 1, N: 1, Credit: 1, Meter: ledger.Meter{In: most, Out: most}}
	receive(t, a, huge, caller, nil)
	d.base = huge // as after a restart
	if rank() != ledger.ClassStranger {
		t.Error("it is served before others, and pays nothing")
	}
}

// A provider from a backup has claimed more since than the caller had signed for, and less in one number. It takes that
// back, and its next bill is below neither, in this life and in the next.
func TestBillsAboveBoth(t *testing.T) {
	_, self, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, caller, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := testAccounts(t, self)
	a.debtors = map[string]*debtor{}
	p, err := peerOf(ledger.KeyOf(caller))
	if err != nil {
		t.Fatal(err)
	}
	total := func(m ledger.Meter, calls uint64) ledger.Receipt {
		r := ledger.Receipt{Net: a.net, Consumer: ledger.KeyOf(caller), Provider: a.self, Est: 4, N: calls, Meter: m}
		r, err := gossip.Next(r, nil, a.prices)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	bill := func(d *debtor) {
		t.Helper()
		r, _, err := a.total(d, call.Usage{Calls: 1, CPU: 1e9}, time.Now())
		if err == nil {
			_, err = a.led.SignTotal(time.Now(), r, ledger.RoleProvider, self)
		}
		if err != nil {
			t.Errorf("a bill of %d calls: %v", r.N, err)
		}
	}
	since := total(ledger.Meter{CPU: 900e9, Out: 10}, 2)
	before := total(ledger.Meter{CPU: 100e9, Out: 1 << 20}, 9)
	receive(t, a, since, nil, self)
	d := a.owes(p.String())
	bill(d)
	receive(t, a, before, caller, self)
	d.heard(a.register(before.RegKey()).Ack)
	bill(d)
	delete(a.debtors, p.String())
	bill(a.owes(p.String()))
}

// The hosts of an account wait for one turn, each with what the account is owed; and who only waits leaves nothing behind.
func TestHostsShareTurns(t *testing.T) {
	keys := make([]ed25519.PrivateKey, 4)
	for i := range keys {
		var err error
		if _, keys[i], err = ed25519.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	self, account, hosts := keys[0], keys[1], keys[2:]
	a := testAccounts(t, self)
	l, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := &nucleus{host: l, accounts: a}
	a.n, a.debtors = n, map[string]*debtor{}
	rank := func(key ed25519.PrivateKey) call.Rank {
		p, err := peerOf(ledger.KeyOf(key))
		if err != nil {
			t.Fatal(err)
		}
		return n.rank(call.Who{Peer: p})
	}
	receive(t, a, ledger.Receipt{Net: a.net, Consumer: a.self, Provider: ledger.KeyOf(hosts[0]), Est: 4, MeterV: 1, N: 1, Credit: 1e6}, self, nil)
	if one, two := rank(hosts[0]), rank(hosts[1]); one.Key == two.Key || one.Class != ledger.ClassEarned || two.Class != ledger.ClassStranger {
		t.Errorf("two strangers: %+v, %+v", one, two)
	}
	e := &ledger.KeyEntry{Net: a.net, ID: ledger.KeyOf(account), Payload: &ledger.Genesis{Next: ledger.Hash{1}}}
	for seq := range uint64(3) {
		if seq > 0 {
			d := &ledger.Delegate{Host: ledger.KeyOf(hosts[seq-1]), Cell: "cell", NotAfter: uint64(time.Now().Add(time.Hour).UnixMilli())}
			if err := d.SignConsent(a.net, ledger.KeyOf(account), hosts[seq-1]); err != nil {
				t.Fatal(err)
			}
			before, err := e.Hash()
			if err != nil {
				t.Fatal(err)
			}
			e = &ledger.KeyEntry{Net: a.net, ID: e.ID, Seq: seq, Prev: before, Payload: d}
		}
		if err := e.Sign(account, 0); err != nil {
			t.Fatal(err)
		}
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if r := a.led.Ingest(time.Now(), data); r.Verdict != ledger.Stored {
			t.Fatal(r.Err)
		}
	}
	if one, two := rank(hosts[0]), rank(hosts[1]); one != two || one.Class != ledger.ClassEarned {
		t.Errorf("two hosts of one account: %+v, %+v", one, two)
	}
	if len(a.debtors) > 0 {
		t.Errorf("%d who have used nothing are remembered", len(a.debtors))
	}
}

// One call makes nobody a partner, who is heard before others.
func TestPartners(t *testing.T) {
	keys := make([]ed25519.PrivateKey, 5)
	for i := range keys {
		var err error
		if _, keys[i], err = ed25519.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	a := testAccounts(t, keys[0])
	work := func(consumer, provider ed25519.PrivateKey, credit uint64) ledger.Receipt {
		return ledger.Receipt{Net: a.net, Consumer: ledger.KeyOf(consumer), Provider: ledger.KeyOf(provider), Est: 4, MeterV: 1, N: 1, Credit: credit}
	}
	receive(t, a, work(keys[1], keys[0], 1e9), nil, keys[0]) // has called, and signed nothing
	receive(t, a, work(keys[2], keys[0], 10), keys[2], nil)  // little
	receive(t, a, work(keys[3], keys[0], ledger.MinWindow), keys[3], nil)
	receive(t, a, work(keys[0], keys[4], 1), keys[0], nil)
	got := a.partners()
	for i, want := range []bool{false, false, false, true, true} {
		p, err := peerOf(ledger.KeyOf(keys[i]))
		if err != nil {
			t.Fatal(err)
		}
		if got[p] != want {
			t.Errorf("%d is a partner: %v", i, got[p])
		}
	}
}

// With a bill comes the newest receipt of its register, and nothing else: a provider that was called once could send whatever it likes that way, which would
// not wait behind what all others send.
func TestWhatComesWithABill(t *testing.T) {
	o := watchedHome(t)
	a := o.a
	a.n.caller = &call.Caller{}
	provider := seeded(6)
	mark(t, o, receiptOf(t, a.net, 1000)) // of two others, that matters here
	a.lenders = map[ledger.Key]*lender{ledger.KeyOf(provider): {earlier: gossip.Seen{Wall: 1}}}
	r := ledger.Receipt{Net: a.net, Consumer: a.self, Provider: ledger.KeyOf(provider), Epoch: 1, Est: 4, MeterV: 1, N: 1, Credit: 10}
	s, err := ledger.SealReceipt(r, provider, ledger.RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	bill, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	forged := receiptOf(t, a.net, 3000)
	forged[len(forged)-20] ^= 1
	stored := o.ledgerBytes(t)
	for name, before := range map[string][]byte{"of others": receiptOf(t, a.net, 2000), "forged": forged, "nonsense": []byte("x"), "the bill": bill} {
		if _, err := a.Sign(ledger.KeyOf(provider), bill, before); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o.ledgerBytes(t) != stored {
		t.Error("something of it is stored")
	}
}
