package node

import (
	"crypto/ed25519"
	"encoding/binary"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
	"github.com/celldnet/celld/node/call"
)

// lives are those of one consumer's nucleus, of which each is killed, and what one provider bills to it.
type lives struct {
	t        *testing.T
	dir      string
	key      ed25519.PrivateKey
	provider ledger.Key
	a        *accounts
	spent    call.Usage // in this life
	now      time.Time
}

func newLives(t *testing.T) *lives {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, provider, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	x := &lives{t: t, dir: t.TempDir(), key: key, provider: ledger.KeyOf(provider), now: time.Now()}
	x.begin()
	return x
}

// begin begins the next life, with what the one before has written.
func (x *lives) begin() {
	x.t.Helper()
	if x.a != nil {
		if err := x.a.led.Close(); err != nil {
			x.t.Fatal(err)
		}
	}
	x.a, x.spent = accountsIn(x.t, x.key, x.dir), call.Usage{}
	x.a.recallTabs()
}

// call calls the provider for so long, for so many bytes, and lives on for a while.
func (x *lives) call(d time.Duration, bytes uint64) {
	x.t.Helper()
	p, err := peerOf(x.provider)
	if err != nil {
		x.t.Fatal(err)
	}
	x.spent.Calls, x.spent.Wall, x.spent.In = x.spent.Calls+1, x.spent.Wall+uint64(d), x.spent.In+bytes
	x.now = x.now.Add(time.Minute)
	x.a.keepTabs(x.now, map[string]call.Usage{p.String(): x.spent}, false)
}

// bill asks for a total, and gives why it is not signed.
func (x *lives) bill(epoch uint32, m ledger.Meter) error {
	x.t.Helper()
	r := ledger.Receipt{Net: x.a.net, Consumer: x.a.self, Provider: x.provider, Epoch: epoch, Est: ledger.EstTable, Meter: m}
	acked := x.a.register(r.RegKey()).Ack
	r, err := gossip.Next(r, acked, x.a.prices)
	if err != nil {
		x.t.Fatal(err)
	}
	l := x.a.lender(x.provider)
	if err := l.check(&r, acked, seenOf(x.spent)); err != nil {
		l.forget(r.RegKey())
		return err
	}
	if _, err := x.a.led.SignTotal(x.now, r, ledger.RoleConsumer, x.key); err != nil {
		x.t.Fatal(err)
	}
	l.sign(&r)
	return nil
}

func (x *lives) expect(what string, epoch uint32, m ledger.Meter, want cellproto.Kind) {
	x.t.Helper()
	if err := x.bill(epoch, m); cellproto.KindOf(err) != want {
		x.t.Errorf("%s: %v", what, err)
	}
}

// What is more than was seen by one window is signed for once, however often the consumer starts anew.
func TestRestartsGrantOneWindow(t *testing.T) {
	x := newLives(t)
	const s = uint64(time.Second)
	x.call(time.Second, 0)
	x.expect("what was used", 0, ledger.Meter{CPU: maxCoresSeen * s}, 0)
	x.begin()
	x.expect("within a window of it", 0, ledger.Meter{CPU: (maxCoresSeen + 40) * s}, 0)
	x.begin()
	x.expect("another window", 0, ledger.Meter{CPU: (maxCoresSeen + 80) * s}, cellproto.Denied)
	x.begin()
	x.expect("another window, in another register", 1, ledger.Meter{CPU: 40 * s}, cellproto.Denied)
	x.begin()
	x.call(time.Second, 0)
	x.expect("what was used since", 0, ledger.Meter{CPU: (2*maxCoresSeen + 40) * s}, 0)
	x.begin()
	x.expect("and nothing above that", 0, ledger.Meter{CPU: (2*maxCoresSeen + 80) * s}, cellproto.Denied)
}

// A consumer dies when it has used far more than a window and nobody had it sign. Its next life knows, and signs.
func TestUnsignedUseOutlivesACrash(t *testing.T) {
	x := newLives(t)
	const mib = 1 << 20
	x.call(time.Second, 900*mib) // eighteen windows
	x.begin()
	x.expect("what the life before has got", 0, ledger.Meter{CPU: uint64(time.Second), Out: 900 * mib}, 0)
	x.begin()
	x.expect("again", 0, ledger.Meter{CPU: uint64(time.Second), Out: 1800 * mib}, cellproto.Denied)
	x.call(time.Second, 900*mib)
	x.begin()
	x.expect("what two lives have got", 0, ledger.Meter{CPU: 2 * uint64(time.Second), Out: 1800 * mib}, 0)
}

// A consumer that has lost its ledger counts from then on. What it had signed for comes back in any later life, and is not
// taken for something that was seen since, whether the next bill is what shows it, or it was noted before.
func TestReceiptComesBackLate(t *testing.T) {
	for _, noted := range []bool{false, true} {
		x := newLives(t)
		const mib = 1 << 20
		x.call(time.Second, 500*mib)
		x.expect("before", 0, ledger.Meter{Out: 500 * mib}, 0)
		old := x.lose(0)
		x.call(time.Second, 300*mib)
		x.begin()
		x.hear(old)
		if noted {
			x.call(time.Second, 0)
		}
		x.expect("on top of it", 0, ledger.Meter{Out: 800 * mib}, 0)
		x.call(time.Second, 100*mib)
		x.begin()
		x.expect("and on", 0, ledger.Meter{Out: 900 * mib}, 0)
		x.expect("more than that", 0, ledger.Meter{Out: 1000 * mib}, cellproto.Denied)
	}
}

// The same, of a receipt that comes back in another register than that in which bills come now.
func TestReceiptComesBackElsewhere(t *testing.T) {
	x := newLives(t)
	const mib = 1 << 20
	x.call(time.Second, 500*mib)
	x.expect("before", 0, ledger.Meter{Out: 500 * mib}, 0)
	old := x.lose(0)
	x.call(time.Second, 300*mib)
	x.expect("in the next epoch", 1, ledger.Meter{Out: 300 * mib}, 0)
	x.hear(old)
	x.call(time.Second, 100*mib)
	x.begin()
	x.expect("and on", 1, ledger.Meter{Out: 400 * mib}, 0)
	x.expect("more than that", 1, ledger.Meter{Out: 500 * mib}, cellproto.Denied)
	x.begin()
	x.expect("more than that, in the old one", 0, ledger.Meter{Out: 600 * mib}, cellproto.Denied)
}

// lose has the consumer lose its ledger, and gives what it had signed in a register.
func (x *lives) lose(epoch uint32) *ledger.Signed {
	x.t.Helper()
	old := x.a.register(ledger.RegKey{Consumer: x.a.self, Provider: x.provider, Epoch: epoch}).Ack
	x.dir = x.t.TempDir()
	x.begin()
	return old
}

// hear has a receipt come back.
func (x *lives) hear(old *ledger.Signed) {
	x.t.Helper()
	data, err := old.Encode()
	if err != nil {
		x.t.Fatal(err)
	}
	if r := x.a.led.Ingest(x.now, data); r.Verdict != ledger.Stored {
		x.t.Fatal(r.Verdict, r.Err)
	}
}

// What is remembered of providers is not written down at each moment: it wears a router's flash.
func TestTabsAreWrittenSeldom(t *testing.T) {
	x := newLives(t)
	size := func() (n int64) {
		files, err := os.ReadDir(x.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size()
		}
		return n
	}
	p, err := peerOf(x.provider)
	if err != nil {
		t.Fatal(err)
	}
	empty := size()
	for i := range 100 {
		x.spent.Wall += uint64(time.Second)
		x.a.keepTabs(x.now.Add(time.Duration(i)*time.Second), map[string]call.Usage{p.String(): x.spent}, false)
	}
	if got := size() - empty; got == 0 || got > 10*130 {
		t.Errorf("100 s of calls to one provider have %d bytes", got)
	}
}

// What it takes to remember 50 providers that are all being called, a second: in processor time, with many other registers in
// the ledger. New ones are among them.
func TestTabsFigure(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := testAccounts(t, key)
	a.fill(t, 20_000)
	const providers, seconds = 50, 2000
	spent := map[string]call.Usage{}
	who := make([]string, seconds/10)
	for i := range who {
		pub, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := peerOf(ledger.Key(pub))
		if err != nil {
			t.Fatal(err)
		}
		if who[i] = p.String(); i < providers {
			spent[who[i]] = call.Usage{}
		}
	}
	now, begin := time.Now(), processorTime(t)
	for i := range seconds {
		now = now.Add(time.Second)
		if i%10 == 0 { // one is called that was not before, in the place of another
			delete(spent, who[i/10])
			spent[who[(i/10+providers)%len(who)]] = call.Usage{}
		}
		for who, u := range spent {
			u.Wall += uint64(time.Second)
			spent[who] = u
		}
		a.keepTabs(now, spent, false)
	}
	each := (processorTime(t) - begin) / seconds
	t.Logf("50 providers take %v a second: %.4f %% of a processor (goal 0.1)", each, 100*each.Seconds())
	if each > 3*time.Millisecond { // of a busy machine
		t.Error("more than that")
	}
}

// fill has the ledger have this many registers, each of another provider.
func (a *accounts) fill(t *testing.T, registers uint64) {
	t.Helper()
	for i := range registers {
		r := ledger.Receipt{Net: a.net, Consumer: a.self, Est: ledger.EstTable, MeterV: 1, N: 1, Credit: 1}
		binary.BigEndian.PutUint64(r.Provider[:], i+1)
		receive(t, a, r, a.key, nil)
	}
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
