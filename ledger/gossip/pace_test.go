package gossip

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/ledger"
)

// Two who sign again and again for next to nothing have others check and pass on no more of that than of everybody; the
// newest comes through when it is time for it, and nobody can have it dropped by an entry of his own.
func TestRegisterHasARate(t *testing.T) {
	w := newTown(t)
	key := ledger.RegKey{Consumer: ledger.KeyOf(testKey(5)), Provider: ledger.KeyOf(testKey(6))}
	credit := func() (c uint64) {
		w.led.View(func(b *ledger.Book) { r, _ := b.Register(key); c = r.Credit() })
		return c
	}
	now := time.Now()
	take := func(p peer.ID, entry []byte) {
		if _, err := w.travel.takeAt(now, p, entry); err != nil {
			t.Error(err)
		}
	}
	const first, steps = 1_000_000, 100
	for i := range uint64(steps + 1) {
		take("a", signedReceipt(t, 5, 6, first+i))
	}
	if got := credit(); got != first+smallBurst {
		t.Errorf("of %d steps of one µWh %d were taken", steps, got-first)
	}
	if n := w.travel.Counts()[Early]; n != steps-smallBurst {
		t.Errorf("%d were put off", n)
	}
	take("a", signedReceipt(t, 5, 6, first+smallBurst-1)) // an old one is no step
	forged := signedReceipt(t, 5, 6, first+steps+1)
	forged[len(forged)-8] ^= 1
	take("b", forged)
	now = now.Add(time.Minute)
	if w.travel.takeLate(now); credit() != first+smallBurst || w.charged.Load() > 0 {
		t.Errorf("%d after a minute", credit()-first)
	}
	now = now.Add(10 * time.Minute)
	if w.travel.takeLate(now); credit() != first+steps || w.charged.Load() != 1 {
		t.Errorf("%d after ten minutes, %d were charged", credit()-first, w.charged.Load())
	}
	now = now.Add(time.Second)
	for i := range uint64(10) { // whose register grows is heard at once, however often that is
		grown := credit()
		grown += grown/10 + 1
		if take("a", signedReceipt(t, 5, 6, grown)); credit() != grown {
			t.Errorf("the %d. tenth was not taken", i)
		}
	}
	if n := len(w.travel.paces.late); n != 0 {
		t.Errorf("%d entries still wait", n)
	}
}

// Cheques have the same rate.
func TestChequesHaveARate(t *testing.T) {
	w := newTown(t)
	var taken int
	for i := range uint64(50) {
		c, err := ledger.SealCheque(ledger.Cheque{Net: testNet, Donor: ledger.KeyOf(testKey(5)), To: ledger.KeyOf(testKey(6)), N: i + 1, Credit: 1_000_000 + i}, testKey(5))
		if err != nil {
			t.Fatal(err)
		}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := w.travel.take("a", data); r.Verdict == ledger.Stored {
			taken++
		}
	}
	if taken != 1+smallBurst {
		t.Errorf("%d of 50 were taken", taken)
	}
}

// What is remembered of registers, and waits, is bounded; past that all others share a rate.
func TestPacesAreBounded(t *testing.T) {
	var p paces
	now := time.Unix(1000, 0)
	step := func(i int) ledger.Step {
		s := ledger.Step{Before: 1_000_000, Gain: 1}
		binary.BigEndian.PutUint64(s.Slot[:], uint64(i))
		return s
	}
	put := 0
	for i := range 2 * maxPaced {
		s := step(i)
		if p.early(now, s) {
			put++
		} else {
			p.taken(now, s)
		}
		p.put("a", s.Slot, []byte{1})
	}
	if len(p.regs) != maxPaced || len(p.late) != maxPutOff || put != maxPaced-othersBurst {
		t.Errorf("%d registers, %d wait, %d came too soon", len(p.regs), len(p.late), put)
	}
	now = now.Add(time.Hour)
	if p.early(now, step(3*maxPaced)) || len(p.regs) != 1 {
		t.Errorf("%d registers after an hour", len(p.regs))
	}
}
