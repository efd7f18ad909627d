package ledger

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

var testTime = time.UnixMilli(nowMS)

// Who has stolen a host that was revoked since is a stranger, at its account's hosts and at others that owe the account.
func TestRevokedHostStandsAlone(t *testing.T) {
	for _, account := range []Key{pub(1), {}} {
		l := openLedger(t, Config{Net: testNet, Self: pub(9), Account: account}, newDisk(t, 1))
		a := newAuthor(t, 1)
		a.delegate(2)
		a.delegate(3)
		take := func(data []byte) {
			t.Helper()
			if r := l.Ingest(testTime, data); r.Verdict != Stored {
				t.Fatal(r)
			}
		}
		for _, e := range a.log {
			take(wire(t, e))
		}
		take(wire(t, dual(t, testReceipt(9, 3, 1_000_000), 9, 3)))
		class := func(now time.Time, host byte) Class { c, _ := l.Standing(now, pub(host), 0).Rank(); return c }
		before := class(testTime, 2)
		a.add(&Revoke{Host: pub(2)})
		take(wire(t, a.log[len(a.log)-1]))
		if after := class(testTime, 2); before == ClassStranger || after != ClassStranger || class(testTime, 3) != before {
			t.Errorf("class %v before, %v after, the other host %v", before, after, class(testTime, 3))
		}
		if class(time.UnixMilli(maxMeter), 3) != ClassStranger {
			t.Error("a host whose delegation has ended has its account's class")
		}
	}
}

func testConfig(self, account byte) Config {
	return Config{Net: testNet, Self: pub(self), Account: pub(account)}
}

func openLedger(t testing.TB, cfg Config, files Files) *Ledger {
	t.Helper()
	l, _, err := Open(cfg, files, testTime)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *Ledger) register(k RegKey) (r Register) {
	l.View(func(b *Book) { r, _ = b.Register(k) })
	return r
}

// What was taken in is there after a restart: registers, balances, key logs, bans, what is owed.
func TestReopen(t *testing.T) {
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	a := newAuthor(t, 1)
	del := a.delegation(2)
	for _, p := range []Payload{&Genesis{Next: HashKey(pub(101))}, del} {
		if _, err := l.AppendKey(testTime, p, testKey(1)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(300) {
		r := testReceipt(7, 2, 100*(i+1))
		if _, err := l.SignTotal(testTime, r, RoleProvider, testKey(2)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if res := l.Ingest(testTime, wire(t, dual(t, r, 7, 2))); res.Verdict != Stored {
				t.Fatal(res.Verdict, res.Err)
			}
		}
	}
	l.Ingest(testTime, wire(t, dual(t, testReceipt(2, 8, 5000), 2, 8)))
	fork := []*KeyEntry{accountLog(t, 20, 21)[0], accountLog(t, 20, 21)[1], accountLog(t, 20, 22)[1]}
	for _, e := range fork {
		l.Ingest(testTime, wire(t, e))
	}
	say := func(l *Ledger) (s string) {
		l.View(func(b *Book) {
			given, taken := b.Balance(pub(1))
			s = fmt.Sprint(show(b.regs[(&Receipt{Consumer: pub(7), Provider: pub(2)}).RegKey()]), given, taken,
				b.State(pub(1)).Head, b.Banned(pub(21)), b.Banned(pub(1)))
		})
		return s + fmt.Sprint(l.Residual(pub(8)))
	}
	want := say(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, testConfig(2, 1), d)
	if got := say(l); got != want {
		t.Errorf("%s\nwas %s", got, want)
	}
	if !strings.Contains(want, "true false5000") {
		t.Errorf("the test shows little: %s", want)
	}
}

// A total that was signed once never falls, as what either side.
func TestSignedTotalsNeverFall(t *testing.T) {
	l := openLedger(t, testConfig(2, 1), newDisk(t, 1))
	sign := func(credit uint64) error {
		_, err := l.SignTotal(testTime, testReceipt(7, 2, credit), RoleProvider, testKey(2))
		return err
	}
	if err := sign(1000); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "a smaller total", sign(999), cellproto.BadInput)
	l.Ingest(testTime, wire(t, ack(t, testReceipt(7, 2, 5000), 7))) // the consumer knows of more
	wantKind(t, "a total below what the consumer has signed", sign(2000), cellproto.BadInput)
	if err := sign(5000); err != nil {
		t.Error(err)
	}
	if reg := l.register((&Receipt{Consumer: pub(7), Provider: pub(2)}).RegKey()); reg.Claimed() != 5000 {
		t.Error(show(reg))
	}
	s, err := l.SignTotal(testTime, testReceipt(7, 2, 5000), RoleProvider, testKey(2))
	if err != nil || s.ConsumerSig == nil {
		t.Errorf("the two halves of one body are not put together: %v", err)
	}
}

// Each identity that calls once leaves a claim: there is room for so many, and for those who sign.
func TestRoomForClaims(t *testing.T) {
	d := newDisk(t, 1)
	cfg := testConfig(2, 1)
	cfg.MaxForeign = 5
	l := openLedger(t, cfg, d)
	for k := byte(10); k < 40; k++ {
		if _, err := l.SignTotal(testTime, testReceipt(k, 2, 100), RoleProvider, testKey(2)); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (n int) { l.View(func(b *Book) { n = len(b.regs) }); return n }
	if n := count(); n != 5 {
		t.Errorf("%d claims are kept", n)
	}
	for _, k := range []byte{10, 30} { // one of them, and one that is not kept
		if r := l.Ingest(testTime, wire(t, dual(t, testReceipt(k, 2, 100), k, 2))); r.Verdict != Stored {
			t.Errorf("%v: %v", r.Verdict, r.Err)
		}
	}
	if _, err := l.SignTotal(testTime, testReceipt(39, 2, 100), RoleProvider, testKey(2)); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 7 {
		t.Errorf("%d registers, of which 5 are claims", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, cfg, d)
	l.View(func(b *Book) {
		if len(b.regs) != 7 || b.unpaid != 5 {
			t.Errorf("after a restart: %d registers, of which %d are claims", len(b.regs), b.unpaid)
		}
	})
}

// After a backup of its key log was restored, the owner learns what it had signed since before it signs
// anything else, and is not banned.
func TestKeyLogBackupRestored(t *testing.T) {
	write := func(l *Ledger, p Payload) *KeyEntry {
		e, err := l.AppendKey(testTime, p, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	world := newTestBook(9)
	a := newAuthor(t, 1)
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	var log []*KeyEntry
	log = append(log, write(l, &Genesis{Next: HashKey(pub(101))}), write(l, a.delegation(2)))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	backup := d.reboot()
	l = openLedger(t, testConfig(2, 1), d)
	l.Alone()
	log = append(log, write(l, a.delegation(3)), write(l, &Revoke{Host: pub(3)}))
	for _, e := range log {
		world.expect(t, Stored, wire(t, e))
	}

	l = openLedger(t, testConfig(2, 1), backup)
	_, err := l.AppendKey(testTime, &Revoke{Host: pub(2)}, testKey(1))
	wantKind(t, "before anybody was asked", err, cellproto.Unavailable)
	for n := range byte(Confirmations) {
		l.Confirm(pub(40+n), 4)
	}
	_, err = l.AppendKey(testTime, &Revoke{Host: pub(2)}, testKey(1))
	wantKind(t, "while others know more", err, cellproto.Unavailable)
	for _, e := range log {
		l.Ingest(testTime, wire(t, e))
	}
	world.expect(t, Stored, wire(t, write(l, &Heal{Host: pub(2), Epoch: 1})))
	if world.Banned(pub(1)) {
		t.Error("the owner is banned")
	}
}

// While the disk fails no signature leaves, and afterwards the same entry comes, not another one.
func TestKeyEntryWaitsForTheDisk(t *testing.T) {
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(2, 1), d)
	l.Alone()
	a := newAuthor(t, 1)
	if _, err := l.AppendKey(testTime, &Genesis{Next: HashKey(pub(101))}, testKey(1)); err != nil {
		t.Fatal(err)
	}
	d.badAt, d.badTo = d.ops+1, d.ops+1000
	if _, err := l.AppendKey(testTime, a.delegation(2), testKey(1)); cellproto.KindOf(err) != cellproto.Failed || cellproto.HintOf(err) == "" {
		t.Fatalf("%v", err)
	}
	if l.Err() == nil {
		t.Error("it does not say that the disk fails")
	}
	if r := l.Ingest(testTime, wire(t, dual(t, testReceipt(7, 2, 100), 7, 2))); r.Verdict != Stored {
		t.Errorf("usage is refused while the disk is full: %v", r.Verdict)
	}
	held := l.held
	d.badTo = 0
	e, err := l.AppendKey(testTime, a.delegation(3), testKey(1))
	if err != nil || e.Seq != held.Seq+1 {
		t.Fatalf("%v %v", e, err)
	}
	if err := l.Tick(testTime.Add(time.Minute)); err != nil || l.Err() != nil {
		t.Fatal(err)
	}
	l = openLedger(t, testConfig(2, 1), d.reboot())
	l.View(func(b *Book) {
		if s := b.State(pub(1)); s == nil || s.Len != 3 || len(b.regs) != 1 {
			t.Errorf("%+v, %d registers", s, len(b.regs))
		}
	})
}

// A member of a pool signs one entry for one place, also after a restart.
func TestPoolMemberSignsOnce(t *testing.T) {
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(20, 20), d)
	a := pool(t)
	one := a.draft(&RunnerBudget{Runner: pub(20), Budget: 10}, 21)
	two := a.draft(&RunnerBudget{Runner: pub(20), Budget: 20}, 21)
	for range 2 {
		l.change()
		if err := l.coSign(testTime, one, testKey(20), 0); err != nil {
			t.Fatal(err)
		}
		wantKind(t, "another entry for the same place", l.coSign(testTime, two, testKey(20), 0), cellproto.Denied)
		l.changed()
		l = openLedger(t, testConfig(20, 20), d.reboot())
	}
}

// The power goes at every write of a nucleus that writes its key log: what was released before is
// never contradicted, as a witness says who sees everything that was ever released.
func TestNoReleasedSignatureContradicted(t *testing.T) {
	a := newAuthor(t, 1)
	live := func(d *disk, witness *Book, round int) {
		l, _, err := Open(testConfig(2, 1), d, testTime)
		if err != nil {
			return
		}
		l.Alone()
		show := func() { // a neighbour asks for the log
			l.View(func(b *Book) {
				for _, e := range b.Log(pub(1), 0) {
					if r := witness.Ingest(nowMS, wire(t, e)); r.Verdict == Forked {
						t.Fatalf("round %d: entry %d contradicts one that was released", round, e.Seq)
					}
				}
			})
		}
		show()
		for i := range 4 {
			var p Payload = &Genesis{Next: HashKey(pub(101))}
			if l.ownState().Len > 0 {
				p = a.delegation(byte(50 + round%2*20 + i)) // another plan after each restart
			}
			l.Ingest(testTime, wire(t, ack(t, testReceipt(7, 2, uint64(100*(round*10+i+1))), 7)))
			if _, err := l.AppendKey(testTime, p, testKey(1)); err != nil {
				if d.dead {
					return
				}
				continue // the disk has failed for a moment
			}
			show()
		}
	}
	whole := newDisk(t, 1)
	live(whole, newTestBook(9), 0)
	for at := 1; at <= whole.ops+1; at++ {
		for _, cut := range []bool{true, false} {
			d, witness := newDisk(t, uint64(at)), newTestBook(9)
			for round := range 3 {
				d.cutAt, d.badAt, d.badTo = 0, 0, 0
				if cut {
					d.cutAt = d.ops + at
				} else {
					d.badAt, d.badTo = d.ops+at, d.ops+at+round
				}
				live(d, witness, round)
				d = d.reboot()
			}
		}
	}
}

// childVar names the directory in which the test's own program works as the nucleus that is killed.
const childVar = "CELL_TEST_LEDGER_DIR"

// TestKillChild is no test but the nucleus of TestKill: it prints each thing once others may rely on it.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(childVar)
	if dir == "" {
		t.Skip("a part of TestKill")
	}
	start := time.Now()
	now := func() time.Time { return testTime.Add(time.Since(start)) } // the delegations of the tests hold then
	files, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, report, err := Open(testConfig(2, 1), files, now())
	if err != nil {
		t.Fatal(err)
	}
	l.Alone()
	fmt.Println("open", report.Records)
	a := newAuthor(t, 1)
	rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	l.View(func(b *Book) { // what was on the disk and not yet told when it was killed
		for _, e := range b.Log(pub(1), 0) {
			fmt.Println("entry", hex.EncodeToString(wire(t, e)))
		}
	})
	for i := 0; ; i++ {
		c := byte(70 + rnd.IntN(20))
		r := testReceipt(c, 2, 0)
		r.Credit = l.register(r.RegKey()).Claimed() + 1 + rnd.Uint64N(50)
		r.N, r.Meter = r.Credit, Meter{CPU: r.Credit}
		s, err := l.SignTotal(now(), r, RoleProvider, testKey(2))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("entry", hex.EncodeToString(wire(t, s)))
		if i%5 == 0 {
			if res := l.Ingest(now(), wire(t, dual(t, r, c, 2))); res.Verdict != Stored {
				t.Fatal(res.Verdict, res.Err)
			}
			fmt.Println("entry", hex.EncodeToString(wire(t, dual(t, r, c, 2))))
		}
		if rnd.IntN(30) == 0 {
			var p Payload = &Genesis{Next: HashKey(pub(101))}
			if s := l.ownState(); s.Len > 0 {
				d := a.delegation(2)
				p = d
				if rnd.IntN(2) == 0 {
					p = &Checkpoint{State: s.Digest()}
				}
			}
			e, err := l.AppendKey(now(), p, testKey(1))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("entry", hex.EncodeToString(wire(t, e)))
		}
		if rnd.IntN(20) == 0 {
			c, err := l.SignCheque(now(), pub(1), pub(60+byte(rnd.IntN(3))), 1+rnd.Uint64N(50), "", testKey(1))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("entry", hex.EncodeToString(wire(t, c)))
		}
		if err := l.Tick(now()); err != nil {
			t.Fatal(err)
		}
	}
}

// A real process is killed in the middle of its work, again and again: what it had told others is there
// when it starts again, no register has gone back, and it never contradicts itself.
func TestKill(t *testing.T) {
	kills := 25
	if long() {
		kills = 500
	}
	dir := t.TempDir()
	witness := NewBook(Config{Net: testNet, Self: pub(2), Account: pub(1)})
	told := 0
	for k := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		stop := 1 + rand.IntN(60) // lines; then a moment that falls where it may
		for n := 0; lines.Scan(); n++ {
			if n == stop {
				delay := time.Duration(rand.IntN(2000)) * time.Microsecond
				go func() { time.Sleep(delay); _ = cmd.Process.Kill() }()
			}
			text, ok := strings.CutPrefix(lines.Text(), "entry ")
			data, err := hex.DecodeString(text)
			if !ok || err != nil || len(data) == 0 {
				if !strings.HasPrefix(lines.Text(), "open ") && n < stop {
					t.Fatalf("kill %d: the nucleus says %q", k, lines.Text())
				}
				continue
			}
			if r := witness.Ingest(nowMS, data); r.Verdict != Stored && r.Verdict != Stale {
				t.Fatalf("kill %d: %v: %v", k, r.Verdict, r.Err)
			}
			told++
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it was not killed")
		}
		files, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		l := openLedger(t, testConfig(2, 1), files)
		l.View(func(b *Book) {
			witness.Registers(func(key RegKey, want Register) bool {
				got := b.regs[key]
				if got.Claimed() < want.Claimed() || got.Credit() < want.Credit() {
					t.Fatalf("kill %d: a register went back from %s to %s", k, show(want), show(got))
				}
				return true
			})
			witness.Cheques(func(want *SignedCheque) bool {
				if got := b.Cheque(want.Donor, want.To); got == nil || got.Credit < want.Credit || got.N < want.N {
					t.Fatalf("kill %d: a cheque of %d is lost", k, want.Credit)
				}
				return true
			})
			for _, e := range witness.Log(pub(1), 0) {
				if log := b.Log(pub(1), e.Seq); len(log) == 0 || bodyID(log[0].body) != bodyID(e.body) {
					t.Fatalf("kill %d: entry %d of the key log is lost or another", k, e.Seq)
				}
			}
		})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d entries told, %d key entries", kills, told, len(witness.Log(pub(1), 0)))
}
