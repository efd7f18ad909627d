package gossip

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

func testKey(b byte) ed25519.PrivateKey {
	k, ok := testKeys.Load(b)
	if !ok {
		k, _ = testKeys.LoadOrStore(b, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize)))
	}
	return k.(ed25519.PrivateKey)
}

var testKeys sync.Map // byte -> ed25519.PrivateKey: what tests ask for most is made once

func prices(t testing.TB) *ledger.PriceTable {
	t.Helper()
	p, err := ledger.LoadPrices(1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Whoever was never called gets nothing signed, however little; who was called before this nucleus started
// gets what it had not billed then, but no more than was signed before.
func TestNobodySignsForStrangers(t *testing.T) {
	c, p := testKey(1), testKey(2)
	bill := func(acked *ledger.Signed, cpu uint64) ledger.Receipt {
		r, err := Next(ledger.Receipt{
			Net: ledger.NetOf("test"), Consumer: ledger.KeyOf(c), Provider: ledger.KeyOf(p), Est: 4, N: 1, Meter: ledger.Meter{CPU: cpu},
		}, acked, prices(t))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const uwh = 1_100_000 // ns of processor time
	r := bill(nil, 2*uwh)
	if err := Check(&r, nil, &ledger.Receipt{}, Seen{}); r.Credit == 0 || cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("a bill of %d µWh by a stranger: %v", r.Credit, err)
	}
	r = bill(nil, 1) // worth nothing: the register alone would stay
	if err := Check(&r, nil, &ledger.Receipt{}, Seen{}); r.Credit != 0 || cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("a bill of %d µWh by a stranger: %v", r.Credit, err)
	}
	before := bill(nil, 1000*uwh)
	acked, err := ledger.SealReceipt(before, c, ledger.RoleConsumer)
	if err != nil {
		t.Fatal(err)
	}
	for cpu, want := range map[uint64]cellproto.Kind{1500 * uwh: 0, 2500 * uwh: cellproto.Denied} {
		r := bill(acked, cpu)
		if err := Check(&r, acked, &before, Seen{}); cellproto.KindOf(err) != want {
			t.Errorf("%d µWh after %d, without a call since: %v", r.Credit, before.Credit, err)
		}
	}
	const years = 1 << 58 // ns, of calls that were on their way together: times 64 that does not have 64 bits
	r = bill(nil, 3600e9)
	if err := Check(&r, nil, &ledger.Receipt{}, Seen{Wall: years/51*50 + 100}); err != nil {
		t.Errorf("after years of calls: %v", err)
	}
	r = bill(acked, 2500*uwh)
	if err := Check(&r, acked, &before, Seen{Wall: 1}); err != nil {
		t.Errorf("%d µWh after %d, and called again: %v", r.Credit, before.Credit, err)
	}
}

// A day between two hosts: totals grow, each bill follows the receipt before it, and each is signed.
func TestBillsFollowEachOther(t *testing.T) {
	c, p := testKey(1), testKey(2)
	r := ledger.Receipt{Net: ledger.NetOf("test"), Consumer: ledger.KeyOf(c), Provider: ledger.KeyOf(p), Est: ledger.EstTable}
	var acked *ledger.Signed
	var before ledger.Receipt
	var seen Seen
	for i := range uint64(20) {
		r.N += 3
		r.Meter = Plus(r.Meter, ledger.Meter{CPU: 2e9 + i, Wall: 3e9, RAM: 1 << 20, In: 1000, Out: 5000})
		seen = Seen{Wall: seen.Wall + 3e9, Sent: seen.Sent + 1000, Got: seen.Got + 5000}
		bill, err := Next(r, acked, prices(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(&bill, acked, &before, seen); err != nil {
			t.Fatalf("bill %d: %v", i, err)
		}
		if acked, err = ledger.SealReceipt(bill, c, ledger.RoleConsumer); err != nil {
			t.Fatal(err)
		}
		// A consumer that has lost what it signed does not sign on top of nothing.
		if err := Check(&bill, nil, &before, seen); i > 0 && cellproto.KindOf(err) != cellproto.Denied {
			t.Errorf("a bill whose base is not known: %v", err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	c, p := testKey(1), testKey(2)
	honest := func() ledger.Receipt {
		return ledger.Receipt{Net: ledger.NetOf("test"), Consumer: ledger.KeyOf(c), Provider: ledger.KeyOf(p), Est: 4, N: 10,
			Meter: ledger.Meter{CPU: 1e9, Wall: 2e9, RAM: 1000, In: 1000, Out: 1000}}
	}
	seen := Seen{Wall: 2e9, Sent: 1000, Got: 1000}
	for name, test := range map[string]struct {
		change func(*ledger.Receipt)
		after  func(*ledger.Receipt)
		want   cellproto.Kind
	}{
		"honest":                  {},
		"more energy, for people": {change: func(r *ledger.Receipt) { r.Meter.Energy = 1e12 }},
		"a little too much":       {change: func(r *ledger.Receipt) { r.Meter.CPU += 10e9 }},
		"processor time":          {change: func(r *ledger.Receipt) { r.Meter.CPU += 1e6 * 1e9 }, want: cellproto.Denied},
		"memory":                  {change: func(r *ledger.Receipt) { r.Meter.RAM = 1 << 50 }, want: cellproto.Denied},
		"bytes in":                {change: func(r *ledger.Receipt) { r.Meter.In += 1 << 40 }, want: cellproto.Denied},
		"bytes out":               {change: func(r *ledger.Receipt) { r.Meter.Out += 1 << 40 }, want: cellproto.Denied},
		"a graphics processor":    {change: func(r *ledger.Receipt) { r.Meter.GPU = 1e15 }, want: cellproto.Denied},
		"another price":           {after: func(r *ledger.Receipt) { r.Credit *= 2 }, want: cellproto.BadInput},
		"an unknown table":        {after: func(r *ledger.Receipt) { r.MeterV = 9 }, want: cellproto.Unsupported},
		"another log":             {after: func(r *ledger.Receipt) { r.Log[0] ^= 1 }, want: cellproto.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			r := honest()
			if test.change != nil {
				test.change(&r)
			}
			r, err := Next(r, nil, prices(t))
			if err != nil {
				t.Fatal(err)
			}
			if test.after != nil {
				test.after(&r)
			}
			if err := Check(&r, nil, &ledger.Receipt{}, seen); cellproto.KindOf(err) != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	entry, more := bytes.Repeat([]byte{7}, 300), []byte{8, 9}
	m, err := readMessage(bytes.NewReader(packBill(entry, more)), msgBill)
	if err != nil {
		t.Fatal(err)
	}
	a, b, err := unpackBill(m.body)
	if err != nil || !bytes.Equal(a, entry) || !bytes.Equal(b, more) {
		t.Errorf("%x %x %v", a, b, err)
	}
	m, _ = readMessage(bytes.NewReader(packBill(entry, nil)), msgBill)
	if a, b, err = unpackBill(m.body); err != nil || !bytes.Equal(a, entry) || b != nil {
		t.Errorf("%x %x %v", a, b, err)
	}
	if got := fmt.Sprintf("%x", packBill([]byte{1, 2}, []byte{3})); got != "01000700020102000103" {
		t.Errorf("a bill is %s", got)
	}
	if got := fmt.Sprintf("%x", numbered(msgPull, 258)); got != "0400080000000000000102" {
		t.Errorf("a pull is %s", got)
	}
	for name, c := range map[string]struct {
		data []byte
		want cellproto.Kind
	}{
		"nothing":       {nil, cellproto.Unavailable},
		"cut off":       {[]byte{msgBill, 0, 9, 1}, cellproto.Unavailable},
		"type 0":        {[]byte{0, 0, 0}, cellproto.BadInput},
		"unknown type":  {[]byte{99, 0, 0}, cellproto.BadInput},
		"not its turn":  {[]byte{msgEnd, 0, 0}, cellproto.BadInput},
		"too long":      {[]byte{msgPull, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0}, cellproto.TooLarge},
		"bill too long": {append([]byte{msgBill, 0xff, 0xff}, make([]byte, 0xffff)...), cellproto.TooLarge},
	} {
		if _, err := readMessage(bytes.NewReader(c.data), msgBill, msgPull); cellproto.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string][]byte{
		"nothing": {}, "half a length": {0}, "empty": {0, 0}, "cut off": {0, 2, 1}, "three": {0, 1, 1, 0, 1, 1, 0, 1, 1}, "trailing": {0, 1, 1, 0},
		"past the limit": append([]byte{4, 1}, make([]byte, 1025)...),
	} {
		if _, _, err := unpackBill(body); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(packBill([]byte{1, 2}, []byte{3}))
	f.Add(numbered(msgPull, 5))
	f.Add([]byte{msgRefusal, 0, 2, 4, 'x'})
	f.Add(packLog(ledger.Key{1}, 5))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data), msgBill, msgReceipt, msgRefusal, msgPull, msgEntry, msgEnd, msgLog)
		if err != nil {
			return
		}
		if again := appendMessage(nil, m.kind, m.body); !bytes.HasPrefix(data, again) {
			t.Errorf("%x was read from %x", again, data)
		}
		switch m.kind {
		case msgBill:
			if bill, before, err := unpackBill(m.body); err == nil && !bytes.Equal(packBill(bill, before)[3:], m.body) {
				t.Errorf("%x and %x were read from %x", bill, before, m.body)
			}
		case msgLog:
			if id, at, err := unpackLog(m.body); err == nil && !bytes.Equal(packLog(id, at)[3:], m.body) {
				t.Errorf("%x and %d were read from %x", id, at, m.body)
			}
		case msgRefusal:
			if text := refusalOf(m.body).Error(); len(text) > 4*maxRefusal+100 {
				t.Errorf("%q", text)
			}
		}
	})
}

func TestLimiter(t *testing.T) {
	var l Limiter
	now := time.Unix(1000, 0)
	allowed := func(p peer.ID, n int) (ok int) {
		for range n {
			if _, let := l.Allow(now, p); let {
				ok++
			}
		}
		return ok
	}
	if n := allowed("a", 2000); n != entryBurst {
		t.Errorf("%d in a burst", n)
	}
	if n := allowed("b", 10); n != 10 {
		t.Errorf("%d of 10 of another peer", n)
	}
	now = now.Add(2 * time.Second)
	if n := allowed("a", 2000); n != 2*entryRate {
		t.Errorf("%d after two seconds", n)
	}
	// Whoever it is, looking at it takes a tenth of a processor at most.
	l.Spent(now, 2*time.Second)
	if n := allowed("c", 1); n != 0 {
		t.Error("there was too much work already")
	}
	now = now.Add(11 * time.Second)
	if n := allowed("c", 1); n != 1 {
		t.Error("the work was ten seconds ago")
	}
	for i := range 3 * maxPeers {
		l.Allow(now, peer.ID(fmt.Sprint(i)))
	}
	if n := len(l.peers); n > maxPeers {
		t.Errorf("%d peers are remembered", n)
	}
}

func TestLog(t *testing.T) {
	l := NewLog(1000)
	read := func(from uint64, room int) (out []string, next uint64) {
		entries, next := l.Since(from, room)
		for _, e := range entries {
			out = append(out, string(e))
		}
		return out, next
	}
	l.Publish("x", []byte("x1"))
	l.Publish("y", []byte("y1"))
	got, next := read(0, 100)
	if !slices.Equal(got, []string{"x1", "y1"}) {
		t.Fatalf("%q", got)
	}
	if got, _ := read(next, 100); got != nil {
		t.Errorf("nothing is new, and %q came", got)
	}
	l.Publish("x", []byte("x2"))
	if got, _ = read(next, 100); !slices.Equal(got, []string{"x2"}) {
		t.Errorf("%q", got)
	}
	if got, _ = read(0, 100); !slices.Equal(got, []string{"y1", "x2"}) {
		t.Errorf("%q", got)
	}
	// In pieces, and from a number that was never given.
	if got, next = read(1<<40, 3); !slices.Equal(got, []string{"y1"}) {
		t.Errorf("%q", got)
	}
	if got, _ = read(next, 3); !slices.Equal(got, []string{"x2"}) {
		t.Errorf("%q", got)
	}
	for i := range maxPublished + 50 {
		l.Publish(fmt.Sprint(i), []byte("z"))
		l.Publish("hot", []byte("h"))
	}
	if n, m := len(l.where), len(l.items); n > maxPublished || m > 3*maxPublished {
		t.Errorf("%d slots, %d items", n, m)
	}
}

// What a peer answers to a pull is bounded, whatever it says.
func TestServePull(t *testing.T) {
	l := NewLog(5)
	for i := range 2000 {
		l.Publish(fmt.Sprint(i), bytes.Repeat([]byte{1}, 300))
	}
	var out bytes.Buffer
	m, _ := readMessage(bytes.NewReader(numbered(msgPull, 0)), msgPull)
	if err := servePull(&out, m, shelf{l}); err != nil {
		t.Fatal(err)
	}
	if n := out.Len(); n > maxPull+maxPull/50 || n < maxPull/2 {
		t.Errorf("an answer of %d bytes", n)
	}
	if err := servePull(io.Discard, message{msgPull, []byte{1}}, shelf{l}); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

type shelf struct{ *Log }

func (shelf) Sign(ledger.Key, []byte, []byte) ([]byte, error) { return nil, nil }
func (shelf) Consents(ledger.Key) ([]*ledger.Delegate, error) { return nil, nil }
func (s shelf) Since(from uint64) ([][]byte, uint64)          { return s.Log.Since(from, maxPull) }
func (shelf) Head(ledger.Key, []byte) error                   { return nil }

func (shelf) Entries(ledger.Key, uint64, int) ([][]byte, uint64) { return nil, 0 }
