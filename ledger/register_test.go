package ledger

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"pgregory.net/rapid"
)

// drawSigned gives one of few receipts of one register, so that credits and bodies meet often. Merging
// does not look into signatures.
func drawSigned(t *rapid.T) *Signed {
	s := &Signed{Receipt: Receipt{Net: testNet, Consumer: pub(1), Provider: pub(2), Est: EstTDP, MeterV: 1}}
	s.Credit = rapid.Uint64Range(0, 3).Draw(t, "credit")
	s.T = rapid.Uint64Range(0, 2).Draw(t, "t")
	sigs := rapid.IntRange(1, 3).Draw(t, "sigs")
	if sigs&1 != 0 {
		s.ConsumerSig = &Signature{1}
	}
	if sigs&2 != 0 {
		s.ProviderSig = &Signature{2}
	}
	s.V, s.Kind = version, kindReceipt
	return s
}

// show says what a register says, whatever it points to.
func show(r Register) string {
	half := func(s *Signed) string {
		if s == nil {
			return "-"
		}
		return fmt.Sprintf("%d/%d by both %v", s.Credit, s.T, s.ConsumerSig != nil && s.ProviderSig != nil)
	}
	claim := "-"
	if r.Claim != nil {
		claim = fmt.Sprintf("%d/%d", r.Claim.Credit, r.Claim.T)
	}
	return half(r.Ack) + ", " + claim
}

func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := registerOf(drawSigned(t)), registerOf(drawSigned(t)), registerOf(drawSigned(t))
		for _, law := range []struct {
			name string
			x, y Register
		}{
			{"commutative", a.Merge(b), b.Merge(a)},
			{"associative", a.Merge(b).Merge(c), a.Merge(b.Merge(c))},
			{"idempotent", a.Merge(b), a.Merge(b).Merge(b).Merge(a)},
		} {
			if show(law.x) != show(law.y) {
				t.Fatalf("not %s: %s and %s", law.name, show(law.x), show(law.y))
			}
		}
		if m := a.Merge(b); m.Credit() < a.Credit() || m.Credit() < b.Credit() || m.Claimed() < a.Claimed() {
			t.Fatal("a total has fallen")
		}
	})
}

// history is what honest hosts sign over time: totals that grow, in few registers, with the consumer's
// signature now and then behind the provider's, in an order that is drawn.
func history(t *rapid.T, tb testing.TB) [][]byte {
	totals := map[RegKey]Receipt{}
	var out [][]byte
	for range rapid.IntRange(1, 12).Draw(t, "receipts") {
		c, p := rapid.ByteRange(1, 3).Draw(t, "consumer"), rapid.ByteRange(4, 5).Draw(t, "provider")
		r := testReceipt(c, p, 0)
		if rapid.Bool().Draw(t, "for a pool") {
			pool := pub(6)
			r.Beneficiary = &pool
		}
		if old, ok := totals[r.RegKey()]; ok {
			r = old
		}
		r.Credit += rapid.Uint64Range(0, 1000).Draw(t, "used") // nothing used: signed again with another time
		r.N, r.T, r.Meter.CPU = r.N+1, r.T+1, r.Meter.CPU+r.Credit
		totals[r.RegKey()] = r
		switch rapid.IntRange(0, 2).Draw(t, "signed by") {
		case 0:
			out = append(out, wire(tb, ack(tb, r, c)))
		case 1:
			out = append(out, wire(tb, claim(tb, r, p)))
		default:
			out = append(out, wire(tb, dual(tb, r, c, p)))
		}
	}
	return out
}

func dump(b *Book) map[RegKey]string {
	out := map[RegKey]string{}
	b.Registers(func(k RegKey, r Register) bool { out[k] = show(r); return true })
	return out
}

// Order and repetition do not matter, what is given is what is taken, and nothing ever falls.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		entries := history(rt, t)
		twice := make([]int, 2*len(entries))
		for i := range twice {
			twice[i] = i % len(entries)
		}
		again := rapid.Permutation(twice).Draw(rt, "order")
		{
			self := pub(rapid.SampledFrom([]byte{1, 4, 99}).Draw(rt, "self")) // a consumer, a provider, a third
			one, two := NewBook(Config{Net: testNet, Self: self}), NewBook(Config{Net: testNet, Self: self})
			for _, e := range entries {
				one.Ingest(nowMS, e)
			}
			before := map[Key]uint64{}
			for _, i := range again {
				r := two.Ingest(nowMS, entries[i])
				if r.Verdict != Stored && r.Verdict != Stale && r.Verdict != Beyond {
					rt.Fatalf("%v: %v", r.Verdict, r.Err)
				}
				var given, taken uint64
				for n := range byte(7) {
					g, x := two.Balance(pub(n))
					if given, taken = given+g, taken+x; g < before[pub(n)] {
						rt.Fatal("what was given has fallen")
					}
					before[pub(n)] = g
				}
				if given != taken {
					rt.Fatalf("given %d, taken %d", given, taken)
				}
			}
			a, b := dump(one), dump(two)
			if fmt.Sprint(a) != fmt.Sprint(b) {
				rt.Fatalf("two orders, two results:\n%v\n%v", a, b)
			}
		}
	})
}

func newTestBook(self byte) *Book { return NewBook(Config{Net: testNet, Self: pub(self)}) }

func (b *Book) expect(t *testing.T, want Verdict, data []byte) Result {
	t.Helper()
	r := b.Ingest(nowMS, data)
	if r.Verdict != want {
		t.Fatalf("%v (%v), want %v", r.Verdict, r.Err, want)
	}
	return r
}

// The predecessor believed whoever sent a record about two others.
func TestUnsignedThirdPartyRecord(t *testing.T) {
	b := newTestBook(3)
	r := testReceipt(1, 2, 1000)
	b.expect(t, Beyond, wire(t, claim(t, r, 2))) // the provider alone says so
	if g, _ := b.Balance(pub(2)); g != 0 {
		t.Errorf("a provider gave itself %d", g)
	}
	forged := ack(t, r, 1)
	*forged.ConsumerSig = Sign(testKey(3), RoleConsumer, must1[[]byte](t)(r.Body()))
	b.expect(t, Forged, wire(t, forged)) // a third signs for the consumer
	if _, err := (&Signed{Receipt: r}).Encode(); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("an entry without a signature: %v", err)
	}
	if g, _ := b.Balance(pub(2)); g != 0 || len(b.regs) != 0 {
		t.Error("something was kept")
	}
	// In its own view the provider does count what was not acknowledged.
	own := newTestBook(2)
	own.expect(t, Stored, wire(t, claim(t, r, 2)))
	if reg, _ := own.Register(r.RegKey()); reg.Claimed() != 1000 || reg.Credit() != 0 {
		t.Errorf("%s", show(reg))
	}
}

// The predecessor let an old total be shown again and took the difference for new work.
func TestOlderRecordReplayed(t *testing.T) {
	b := newTestBook(3)
	older, newer := wire(t, dual(t, testReceipt(1, 2, 1000), 1, 2)), wire(t, dual(t, testReceipt(1, 2, 2000), 1, 2))
	b.expect(t, Stored, newer)
	for range 3 {
		b.expect(t, Stale, older)
		b.expect(t, Stale, newer)
	}
	if g, _ := b.Balance(pub(2)); g != 2000 {
		t.Errorf("given %d, want 2000", g)
	}
}

// The predecessor banned those who signed one record twice, as after a crash.
func TestSameBodySignedTwice(t *testing.T) {
	b := newTestBook(3)
	r := testReceipt(1, 2, 1000)
	b.expect(t, Stored, wire(t, ack(t, r, 1)))
	b.expect(t, Stale, wire(t, ack(t, r, 1)))
	again := r
	again.T++ // the same total, signed anew later: another body
	b.expect(t, Stored, wire(t, ack(t, again, 1)))
	if g, _ := b.Balance(pub(2)); g != 1000 || b.Banned(pub(1)) {
		t.Errorf("given %d, banned %v", g, b.Banned(pub(1)))
	}
	log := sampleLog(t)
	b.expect(t, Stored, wire(t, log[0]))
	b.expect(t, Stale, wire(t, log[0]))
	twice := *log[0]
	twice.Sigs = []KeySig{{Sig: Signature{1}}} // one body, another signature, which is not even looked at
	b.expect(t, Stale, wire(t, &twice))
}

// The predecessor's balance fell while its owner only gave.
func TestBalanceWhileOnlyGiving(t *testing.T) {
	b := newTestBook(2)
	var last uint64
	for i := range uint64(50) {
		c := byte(10 + i%5)
		s := dual(t, testReceipt(c, 2, 100*(i+1)), c, 2)
		if i%7 == 6 { // old ones come late, in between
			s = dual(t, testReceipt(c, 2, 50), c, 2)
		}
		b.Ingest(nowMS, wire(t, s))
		given, taken := b.Balance(pub(2))
		if given < last || taken != 0 {
			t.Fatalf("after %d: given %d, before %d; taken %d", i, given, last, taken)
		}
		last = given
	}
	if last == 0 {
		t.Fatal("nothing was counted")
	}
}

// The predecessor took two computers of one person for one that contradicts itself.
func TestTwoProcessesOfOnePerson(t *testing.T) {
	b := newTestBook(9)
	for _, e := range accountLog(t, 1, 2, 3) {
		b.expect(t, Stored, wire(t, e))
	}
	b.expect(t, Stored, wire(t, dual(t, testReceipt(7, 2, 1000), 7, 2)))
	b.expect(t, Stored, wire(t, dual(t, testReceipt(7, 3, 500), 7, 3))) // the same moment, the other computer
	b.expect(t, Stored, wire(t, dual(t, testReceipt(3, 8, 200), 3, 8)))
	if given, taken := b.Balance(pub(1)); given != 1500 || taken != 200 || b.Banned(pub(1)) {
		t.Errorf("given %d, taken %d, banned %v", given, taken, b.Banned(pub(1)))
	}
}

// A backup of a week ago counts on, is behind what others have, and catches up.
func TestBackupRestored(t *testing.T) {
	provider, consumer := newTestBook(2), newTestBook(1)
	week := wire(t, dual(t, testReceipt(1, 2, 1000), 1, 2))
	today := wire(t, dual(t, testReceipt(1, 2, 9000), 1, 2))
	consumer.expect(t, Stored, week)
	consumer.expect(t, Stored, today)
	provider.expect(t, Stored, week)                                            // what the backup has
	provider.expect(t, Stored, wire(t, claim(t, testReceipt(1, 2, 1100), 2)))   // it counts on from there
	consumer.expect(t, Stale, wire(t, claim(t, testReceipt(1, 2, 1100), 2)))    // no gain, no harm, no ban
	provider.expect(t, Stored, today)                                           // the counterparty has it
	provider.expect(t, Stored, wire(t, claim(t, testReceipt(1, 2, 9100), 2)))   // and on it goes
	consumer.expect(t, Stored, wire(t, dual(t, testReceipt(1, 2, 9100), 1, 2))) // in one count
	if g, _ := provider.Balance(pub(2)); g != 9000 || consumer.Banned(pub(2)) {
		t.Errorf("given %d", g)
	}
}

// What was used since a backup of the provider's may be less than before in all and more in one number: its claim
// is not covered by the newest receipt, which it takes back all the same. It counts on above both.
func TestBackupClaimsOtherNumbers(t *testing.T) {
	provider := newTestBook(2)
	week, today, since := testReceipt(1, 2, 1000), testReceipt(1, 2, 9000), testReceipt(1, 2, 1100)
	since.Meter.Out = today.Meter.Out + 1
	provider.expect(t, Stored, wire(t, dual(t, week, 1, 2)))
	provider.expect(t, Stored, wire(t, claim(t, since, 2)))
	provider.expect(t, Stored, wire(t, dual(t, today, 1, 2)))
	if g, _ := provider.Balance(pub(2)); g != 9000 {
		t.Errorf("given %d", g)
	}
	less := testReceipt(1, 2, 9100)
	less.Meter.Out = today.Meter.Out - 1
	provider.expect(t, Decreasing, wire(t, claim(t, less, 2)))
	provider.expect(t, Decreasing, wire(t, ack(t, less, 1)))
	on := testReceipt(1, 2, 9100)
	on.Meter.Out = today.Meter.Out + since.Meter.Out
	provider.expect(t, Stored, wire(t, claim(t, on, 2)))
}

// A consumer signs a total with huge numbers by itself, so that others refuse what both sign after that, and do not see
// what it takes.
func TestConsumerCannotHide(t *testing.T) {
	b := newTestBook(9)
	huge := testReceipt(1, 2, 1001)
	huge.N, huge.Meter.In, huge.Meter.Out = maxMeter, maxMeter, maxMeter
	b.expect(t, Stored, wire(t, dual(t, testReceipt(1, 2, 1000), 1, 2)))
	b.expect(t, Stored, wire(t, ack(t, huge, 1)))
	b.expect(t, Stored, wire(t, dual(t, testReceipt(1, 2, 50_000), 1, 2)))
	if _, taken := b.Balance(pub(1)); taken != 50_000 {
		t.Errorf("%d of 50000 are seen", taken)
	}
	b.expect(t, Decreasing, wire(t, ack(t, func() Receipt { r := testReceipt(1, 2, 60_000); r.N = 1; return r }(), 1)))
	if Decreasing.Charged() {
		t.Error("who passes it on is to blame")
	}
}

// Both sides have come from backups and agreed on other numbers, before a neighbour shows them what they had signed:
// all keep the larger total, whatever came first.
func TestBothFromBackups(t *testing.T) {
	before, since := testReceipt(1, 2, 9000), testReceipt(1, 2, 1100)
	since.Meter.Out = before.Meter.Out + 1
	for _, order := range [][]Receipt{{before, since}, {since, before}} {
		for _, self := range []byte{1, 2, 9} {
			b := newTestBook(self)
			for _, r := range order {
				b.Ingest(nowMS, wire(t, dual(t, r, 1, 2)))
			}
			if given, taken := b.Alone(pub(2)); given != 9000 || taken != 0 {
				t.Errorf("host %d has %d", self, given)
			}
		}
	}
}

// The two signatures of one body are shown together, also when they came apart: a consumer can leave the provider's out.
func TestHalvesAreJoined(t *testing.T) {
	r := testReceipt(1, 2, 1000)
	halves := [][]byte{wire(t, ack(t, r, 1)), wire(t, claim(t, r, 2))}
	for i := range halves {
		b := newTestBook(2)
		b.expect(t, Stored, halves[i])
		res := b.Ingest(nowMS, halves[1-i])
		both := wire(t, dual(t, r, 1, 2))
		if got := b.regs[r.RegKey()]; !bytes.Equal(wire(t, got.Ack), both) || !bytes.Equal(wire(t, got.Claim), both) || !bytes.Equal(res.Record, both) {
			t.Errorf("the consumer's signature %d. is shown alone", i+1)
		}
	}
}

// Each check, and that it comes before those that cost more: entries are forged, so that whatever
// reached the signatures would be found Forged.
func TestValidationOrder(t *testing.T) {
	forge := func(r Receipt) []byte {
		return wire(t, &Signed{Receipt: r, ConsumerSig: &Signature{1}, ProviderSig: &Signature{2}})
	}
	b := NewBook(Config{Net: testNet, Self: pub(9), MaxForeign: 3, Near: func(c, _ Key) bool { return c != pub(6) }})
	b.expect(t, Stored, wire(t, dual(t, testReceipt(1, 2, 1000), 1, 2)))
	b.expect(t, TooLarge, make([]byte, cellproto.MaxLedgerEntry+1))
	b.expect(t, Malformed, forge(testReceipt(1, 2, 900))[1:])
	other := testReceipt(1, 2, 2000)
	other.Net = NetOf("other")
	b.expect(t, Foreign, forge(other))
	later := forge(testReceipt(1, 2, 2000))
	later[2] = 2
	b.expect(t, Foreign, later)
	b.expect(t, Stale, forge(testReceipt(1, 2, 900)))
	b.expect(t, Stale, forge(testReceipt(1, 2, 1000)))
	less := testReceipt(1, 2, 2000)
	less.Meter.GPU, less.Meter.CPU = 5, 1
	b.expect(t, Decreasing, wire(t, &Signed{Receipt: less, ConsumerSig: &Signature{1}}))
	b.expect(t, Beyond, forge(testReceipt(6, 2, 10)))
	b.expect(t, Forged, forge(testReceipt(1, 2, 2000)))
	halfForged := dual(t, testReceipt(1, 2, 2000), 1, 2)
	halfForged.ProviderSig = &Signature{2}
	b.expect(t, Forged, wire(t, halfForged))

	for _, e := range accountLog(t, 20, 21) {
		b.expect(t, Stored, wire(t, e))
	}
	b.expect(t, Stored, wire(t, dual(t, testReceipt(1, 21, 10), 1, 21)))
	fork := accountLog(t, 20, 22)
	if r := b.Ingest(nowMS, wire(t, fork[1])); r.Verdict != Forked || !b.Banned(pub(21)) {
		t.Fatalf("%v %v", r.Verdict, r.Err)
	}
	b.expect(t, Banned, forge(testReceipt(1, 21, 20)))
	b.expect(t, Stale, forge(testReceipt(1, 21, 10))) // not newer comes first
	b.expect(t, Stored, wire(t, dual(t, testReceipt(3, 4, 10), 3, 4)))
	b.expect(t, Beyond, forge(testReceipt(4, 5, 10))) // no room
	b.expect(t, Stored, wire(t, dual(t, testReceipt(9, 5, 10), 9, 5)))
}

// Whoever makes keys up fills the room that strangers have, and not that of what this host signs itself.
func TestRoomForStrangers(t *testing.T) {
	b := NewBook(Config{Net: testNet, Self: pub(9), Account: pub(8), MaxForeign: 5, MaxLogs: 2})
	stored := map[string]int{}
	for k := byte(10); k < 40; k++ {
		for name, data := range map[string][]byte{
			"claims": wire(t, claim(t, testReceipt(9, k, 10), k)),
			"acks":   wire(t, ack(t, testReceipt(k, 9, 10), k)),
			"others": wire(t, ack(t, testReceipt(k, k+1, 10), k)),
		} {
			if b.Ingest(nowMS, data).Verdict == Stored {
				stored["receipts"]++
			} else {
				stored["no "+name]++
			}
		}
		if c := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(k), To: pub(8), Credit: 1}, testKey(k))); b.Ingest(nowMS, wire(t, c)).Verdict == Stored {
			stored["cheques"]++
		}
		for _, e := range accountLog(t, k, 100+k, 150+k, 200+k) {
			if b.Ingest(nowMS, wire(t, e)).Verdict == Stored {
				stored["key entries"]++
			}
		}
	}
	if stored["receipts"] != 5 || stored["cheques"] != 5 || stored["key entries"] != 8 {
		t.Errorf("%v", stored)
	}
	b.expect(t, Stored, wire(t, claim(t, testReceipt(50, 9, 10), 9)))
	b.expect(t, Stored, wire(t, ack(t, testReceipt(9, 51, 10), 9)))
	b.expect(t, Stored, wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(8), To: pub(60), Credit: 1}, testKey(8)))))
	for _, e := range accountLog(t, 8, 9) {
		b.expect(t, Stored, wire(t, e))
	}
}

// Strangers who make up that they have served this host, or give to its account, leave half of the room to those near by.
func TestRoomForNeighbours(t *testing.T) {
	near := pub(2)
	b := NewBook(Config{Net: testNet, Self: pub(9), Account: pub(8), MaxForeign: 8, Near: func(c, p Key) bool { return c == near || p == near || c == pub(8) || p == pub(8) }})
	mine := pub(8)
	give := func(from byte) []byte {
		return wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(from), To: mine, Credit: 1}, testKey(from))))
	}
	for k := byte(10); k < 40; k++ {
		b.Ingest(nowMS, wire(t, claim(t, testReceipt(9, k, 10), k)))
		r := testReceipt(k, k+1, 10)
		r.Beneficiary = &mine
		b.Ingest(nowMS, wire(t, ack(t, r, k)))
		b.Ingest(nowMS, give(k))
	}
	if b.foreign != 4 || len(b.cheques) != 4 {
		t.Errorf("%d registers and %d cheques of strangers", b.foreign, len(b.cheques))
	}
	b.expect(t, Stored, wire(t, ack(t, testReceipt(2, 3, 10), 2)))
	b.expect(t, Stored, give(2))
}

// Anybody can begin key logs. Those of whom nothing else is known make room for others, on the disk too.
func TestIdleLogsMakeRoom(t *testing.T) {
	d := newDisk(t, 1)
	cfg := testConfig(2, 1)
	cfg.MaxLogs = 5
	l := openLedger(t, cfg, d)
	put := func(entries ...*KeyEntry) {
		t.Helper()
		for _, e := range entries {
			if r := l.Ingest(testTime, wire(t, e)); r.Verdict != Stored {
				t.Fatalf("%v: %v", r.Verdict, r.Err)
			}
		}
	}
	known := func(id byte) (yes bool) {
		l.View(func(b *Book) { yes = b.State(pub(id)) != nil })
		return yes
	}
	l.Ingest(testTime, wire(t, dual(t, testReceipt(2, 31, 10), 2, 31)))
	put(accountLog(t, 30, 31)...) // whose host has worked here
	for id := byte(40); id < 90; id++ {
		put(newAuthor(t, id).log...)
	}
	if !known(30) || !known(89) {
		t.Error("one that is known for its work has gone, or one that is new was not taken")
	}
	forged := *newAuthor(t, 91).log[0]
	forged.Sigs = []KeySig{{Sig: Signature{1}}}
	l.View(func(b *Book) {
		if n := len(b.logs); n != 5 || b.Ingest(nowMS, wire(t, &forged)).Verdict != Forged || len(b.logs) != n {
			t.Errorf("%d logs, and a forged one makes %d", n, len(b.logs))
		}
	})
	if n := len(l.store.index); n != 1+2+4 {
		t.Errorf("%d records are of use to the store", n)
	}
}
