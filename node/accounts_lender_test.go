package node

import (
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// tab is a lender as its caller sees it, with the receipts that this has signed.
type tab struct {
	t     *testing.T
	l     lender
	acked map[ledger.RegKey]*ledger.Signed
}

func newTab(t *testing.T) *tab { return &tab{t: t, acked: map[ledger.RegKey]*ledger.Signed{}} }

// bill asks for so many seconds of one processor in all, in a register, and gives why it is not signed.
func (x *tab) bill(epoch uint32, seconds, called int) error {
	x.t.Helper()
	prices, err := ledger.LoadPrices(1)
	if err != nil {
		x.t.Fatal(err)
	}
	r := ledger.Receipt{Net: ledger.NetOf("test"), Consumer: ledger.Key{1}, Provider: ledger.Key{2}, Epoch: epoch, Est: ledger.EstTable}
	acked := x.acked[r.RegKey()]
	r.Meter.CPU = uint64(seconds) * uint64(time.Second)
	if r, err = gossip.Next(r, acked, prices); err != nil {
		x.t.Fatal(err)
	}
	if err := x.l.check(&r, acked, gossip.Seen{Wall: uint64(called) * uint64(time.Second)}); err != nil {
		x.l.forget(r.RegKey())
		return err
	}
	x.l.sign(&r)
	x.acked[r.RegKey()] = &ledger.Signed{Receipt: r}
	return nil
}

func (x *tab) expect(epoch uint32, seconds, called int, want cellproto.Kind) {
	x.t.Helper()
	if err := x.bill(epoch, seconds, called); cellproto.KindOf(err) != want {
		x.t.Errorf("%d s in epoch %d, after calls of %d s: %v", seconds, epoch, called, err)
	}
}

// A provider chooses the register of a bill: what was seen of it is signed for in one, and not once in each.
func TestWorkIsBilledOnce(t *testing.T) {
	x := newTab(t)
	const all = maxCoresSeen * 60
	x.expect(0, all, 60, 0)
	x.expect(1, all, 60, cellproto.Denied)
	x.expect(1, all, 120, 0) // it has worked as much again
	x.expect(0, all+100, 120, 0)
	x.expect(2, all, 120, cellproto.Denied)
	again := &tab{t: t, acked: x.acked} // this nucleus starts anew
	again.expect(0, 2*all, 0, cellproto.Denied)
	again.expect(3, all, 0, cellproto.Denied)
	again.expect(0, 2*all, 1, cellproto.Denied)
	var sum uint64
	for _, s := range x.acked {
		sum += s.Credit
	}
	if x.l.total != sum {
		t.Errorf("%d µWh were signed for, and it has counted %d", sum, x.l.total)
	}
}

// maxCoresSeen is how many processors a call may keep busy.
const maxCoresSeen = 64

// What is more than was seen by one window is signed for once, also when a bill that is not signed comes between.
func TestOneWindowOfALife(t *testing.T) {
	x := newTab(t)
	x.expect(0, 1000, 1000, 0)
	x = &tab{t: t, acked: x.acked}
	x.expect(0, 1060, 0, 0) // of before it started
	x.expect(7, 1060, 0, cellproto.Denied)
	x.expect(0, 1120, 0, cellproto.Denied)
}

// What was signed for in an earlier life, and came back after the first bill of this one, is not asked for again.
func TestLenderHears(t *testing.T) {
	x := newTab(t)
	x.expect(0, 100_000, 100_000, 0)
	life := newTab(t) // both have lost all
	life.expect(0, 10, 10, 0)
	life.acked = x.acked // the provider has found it
	life.expect(0, 100_020, 20, 0)
	life.expect(0, 200_000, 20, cellproto.Denied)
}

// Bills in different registers are compared with what others take as one.
func TestAsksOverRegisters(t *testing.T) {
	x := newTab(t)
	x.expect(0, 100, 100, 0)
	prices, err := ledger.LoadPrices(1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gossip.Next(ledger.Receipt{Net: ledger.NetOf("test"), Consumer: ledger.Key{1}, Provider: ledger.Key{2}, Epoch: 1, Est: 4, Meter: ledger.Meter{CPU: 1e9}}, nil, prices)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.l.check(&r, nil, gossip.Seen{Wall: 100e9}); err != nil {
		t.Fatal(err)
	}
	if got := x.l.asks(&r); got != x.l.total+r.Credit || r.Credit == 0 {
		t.Errorf("it asks for %d", got)
	}
}

// A provider cannot have a register for each bill.
func TestRegistersOfALender(t *testing.T) {
	x := newTab(t)
	for e := range uint32(gossip.MaxRegisters) {
		x.expect(e, 1, 1000, 0)
	}
	x.expect(gossip.MaxRegisters, 1, 1000, cellproto.Denied)
	x.expect(3, 2, 1000, 0)
}
