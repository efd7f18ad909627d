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
				a.renew(d, used, now)
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
	if a.renew(d, refused, now.Add(stuckAfter-time.Second)); d.base.Epoch != 0 {
		t.Fatal("it begins another epoch at once")
	}
	if a.renew(d, refused, now.Add(stuckAfter)); d.base.Epoch != 1 || d.refused != nil {
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
	if c, _ := a.led.Standing(d.key, 0).Rank(); c != ledger.ClassStranger {
		t.Errorf("with a debt above its window it is %v", c)
	}
	// Who never signs has no further epochs begun.
	for range 5 {
		now = now.Add(2 * stuckAfter)
		d.answered(now.Add(-stuckAfter), &gossip.Refusal{Kind: cellproto.Denied, Text: "no"}, true)
		a.renew(d, refused, now)
	}
	if d.base.Epoch != 1 {
		t.Errorf("who signs nothing is in epoch %d", d.base.Epoch)
	}
	// And who fills each register at once has so many.
	for range 3 * maxEpochs {
		d.base.Credit = fullCredit
		a.renew(d, refused, now)
	}
	if d.base.Epoch != maxEpochs-1 {
		t.Errorf("epoch %d", d.base.Epoch)
	}
}

func served(a *accounts, k ledger.Key) (acked, unsigned uint64) {
	a.led.View(func(b *ledger.Book) { acked, unsigned = b.Served(k) })
	return acked, unsigned
}
