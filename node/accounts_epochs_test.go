package node

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// pair is a provider and a caller that can be billed.
func pair(t *testing.T) (a *accounts, self, caller ed25519.PrivateKey, who string) {
	t.Helper()
	_, self, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, caller, err = ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a = testAccounts(t, self)
	a.debtors = map[string]*debtor{}
	p, err := peerOf(ledger.KeyOf(caller))
	if err != nil {
		t.Fatal(err)
	}
	return a, self, caller, p.String()
}

// A register that is full, or was counted by another price table, is gone on in the next epoch, in this life and after a
// restart: what is used is billed.
func TestRegisterEnds(t *testing.T) {
	for name, r := range map[string]ledger.Receipt{
		"full":                {MeterV: 1, Meter: ledger.Meter{In: 1<<63 - 1}},
		"another price table": {MeterV: 2},
	} {
		t.Run(name, func(t *testing.T) {
			a, self, caller, who := pair(t)
			now := time.Now()
			r.Net, r.Consumer, r.Provider, r.Est, r.N, r.Credit = a.net, ledger.KeyOf(caller), a.self, 4, 1, 1000
			receive(t, a, r, caller, self)
			used := call.Usage{Calls: 1, CPU: 5e9}
			for _, life := range []string{"first", "second"} {
				a.debtors = map[string]*debtor{}
				d := a.owes(who)
				renew(a, d, used, now)
				total, _, err := a.total(d, used, now)
				if err != nil || total.Epoch != 1 || total.Credit == 0 || d.earlier != 1000 {
					t.Fatalf("%s life: epoch %d, %d µWh, %d before: %v", life, total.Epoch, total.Credit, d.earlier, err)
				}
				if life == "first" {
					receive(t, a, total, caller, self)
				} else if prior := a.register(total.RegKey()).Credit(); total.Credit != 2*prior {
					t.Errorf("after %d it goes on to %d", prior, total.Credit)
				}
			}
		})
	}
}

func renew(a *accounts, d *debtor, u call.Usage, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renew(d, u, now)
}

// A bill that is refused for an hour keeps no other from being signed: what was used since is billed in another epoch,
// and the old one stays a debt.
func TestRefusedBillIsLeftBehind(t *testing.T) {
	a, self, caller, who := pair(t)
	now := time.Now()
	d := a.owes(who)
	total, _, err := a.total(d, call.Usage{Calls: 1, CPU: 1e9}, now)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, a, total, caller, self)
	d.signed = total.Credit
	refused := call.Usage{Calls: 2, CPU: 500e9}
	d.answered(now, &gossip.Refusal{Kind: cellproto.Denied, Text: "more than calls can have used"}, true)
	if renew(a, d, refused, now.Add(stuckAfter-time.Second)); d.base.Epoch != 0 {
		t.Fatal("it begins another epoch at once")
	}
	if renew(a, d, refused, now.Add(stuckAfter)); d.base.Epoch != 1 || d.refused != nil {
		t.Fatalf("after an hour: epoch %d, %v", d.base.Epoch, d.refused)
	}
	_, debt := served(a, d.key)
	next, _, err := a.total(d, call.Usage{Calls: 3, CPU: 501e9}, now)
	if err != nil || next.N != 1 || next.Meter.CPU != 1e9 || next.Credit != total.Credit {
		t.Errorf("the next bill is %+v, %v", next, err)
	}
	if debt < 400_000 {
		t.Errorf("what was not signed for is forgotten: %d µWh are left", debt)
	}
	if c, _ := a.led.Standing(time.Now(), d.key, 0).Rank(); c != ledger.ClassStranger {
		t.Errorf("with a debt above its window it is %v", c)
	}
	// Who never signs has no further epochs begun.
	for range 5 {
		now = now.Add(2 * stuckAfter)
		d.answered(now.Add(-stuckAfter), &gossip.Refusal{Kind: cellproto.Denied, Text: "no"}, true)
		renew(a, d, refused, now)
	}
	if d.base.Epoch != 1 {
		t.Errorf("who signs nothing is in epoch %d", d.base.Epoch)
	}
	// And who fills each register at once has so many.
	for range 3 * maxEpochs {
		d.base.Credit = fullCredit
		renew(a, d, refused, now)
	}
	if d.base.Epoch != maxEpochs-1 {
		t.Errorf("epoch %d", d.base.Epoch)
	}
}

// In the last epoch a register that has ended is billed on: what is used raises the bill, what is unbilled, and the claim.
func TestLastEpochIsBilled(t *testing.T) {
	a, self, caller, who := pair(t)
	now := time.Now()
	ended := ledger.Receipt{Net: a.net, Consumer: ledger.KeyOf(caller), Provider: a.self, Epoch: maxEpochs - 1, Est: 4, MeterV: 2, N: 1, Credit: 1000}
	receive(t, a, ended, caller, self)
	d := a.owes(who)
	if d.base.Epoch != maxEpochs-1 || a.ended(&d.base) == "" {
		t.Fatalf("it goes on from %+v", d.base)
	}
	d.sent = []uint64{1000}
	var owed, unbilled uint64
	for i := range uint64(5) {
		used := call.Usage{Calls: i + 2, CPU: (i + 2) * 10e9}
		d.answered(now.Add(-stuckAfter), &gossip.Refusal{Kind: cellproto.Denied, Text: "no"}, true)
		renew(a, d, used, now)
		total, _, err := a.total(d, used, now)
		if err != nil || total.Epoch != maxEpochs-1 || total.Credit <= owed || a.unbilled(d, used) <= unbilled {
			t.Fatalf("after %d s it owes %+v, of which %d µWh are unbilled: %v", used.CPU/1e9, total, a.unbilled(d, used), err)
		}
		owed, unbilled = total.Credit, a.unbilled(d, used)
	}
	a.mu.Lock()
	err := a.claim(d, call.Usage{Calls: 6, CPU: 60e9}, now)
	a.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if claimed := a.register(d.base.RegKey()).Claimed(); claimed != owed {
		t.Errorf("%d µWh are claimed of %d", claimed, owed)
	}
}

// A caller that signs by itself, by a price table that this host does not have, ends no register.
func TestCallerEndsNoRegister(t *testing.T) {
	a, _, caller, who := pair(t)
	now, used := time.Now(), call.Usage{Calls: 1, CPU: 5e9}
	r := ledger.Receipt{Net: a.net, Consumer: ledger.KeyOf(caller), Provider: a.self, Est: 4, MeterV: 2, N: 1, Credit: 1000}
	before := a.owes(who)
	receive(t, a, r, caller, nil)
	before.heard(a.register(r.RegKey()).Ack)
	a.debtors = map[string]*debtor{}
	for life, d := range map[string]*debtor{"this": before, "the next": a.owes(who)} {
		d.sent = []uint64{1}
		renew(a, d, used, now)
		total, _, err := a.total(d, used, now)
		if err != nil || total.Epoch != 0 || total.Meter.CPU != used.CPU || total.N != 2 {
			t.Errorf("in %s life the bill is %+v, %v", life, total, err)
		}
	}
}

// Who does not know the price table yet, or has too much to do, gets no other epoch for that; who refuses what is in a bill does.
func TestWhichRefusalEndsAnEpoch(t *testing.T) {
	for kind, want := range map[cellproto.Kind]uint32{cellproto.Unsupported: 0, cellproto.Overloaded: 0, cellproto.Denied: 1, cellproto.BadInput: 1} {
		a, _, _, who := pair(t)
		d, now := a.owes(who), time.Now()
		d.refused, d.refusedAt = &gossip.Refusal{Kind: kind, Text: "no"}, now.Add(-stuckAfter)
		if renew(a, d, call.Usage{Calls: 1, CPU: 1e9}, now); d.base.Epoch != want {
			t.Errorf("after %v it is in epoch %d", kind, d.base.Epoch)
		}
	}
}

// What was used after the last bill of a register that has ended is billed in the next one.
func TestUseOutlivesItsEpoch(t *testing.T) {
	a, _, _, who := pair(t)
	d := a.owes(who)
	d.sent, d.billed = []uint64{fullCredit}, call.Usage{Calls: 1, CPU: 5e9}
	d.base.Credit = fullCredit
	used := call.Usage{Calls: 2, CPU: 6e9}
	renew(a, d, used, time.Now())
	if total, _, err := a.total(d, used, time.Now()); err != nil || total.Epoch != 1 || total.N != 1 || total.Meter.CPU != 1e9 {
		t.Errorf("the next bill is %+v, %v", total, err)
	}
}

func served(a *accounts, k ledger.Key) (acked, unsigned uint64) {
	a.led.View(func(b *ledger.Book) { acked, unsigned = b.Served(k) })
	return acked, unsigned
}
