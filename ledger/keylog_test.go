package ledger

import (
	"bytes"
	"slices"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"pgregory.net/rapid"
)

// author writes the key log of one identity, as its nucleus would.
type author struct {
	t     testing.TB
	state *KeyState
	key   byte // in force
	t0    uint64
	log   []*KeyEntry
}

func newAuthor(t testing.TB, id byte) *author {
	a := &author{t: t, state: &KeyState{Net: testNet, ID: pub(id)}, key: id}
	a.add(&Genesis{Next: HashKey(pub(id + 100))})
	return a
}

// draft makes the next entry without adding it.
func (a *author) draft(p Payload, keys ...byte) *KeyEntry {
	a.t.Helper()
	e := &KeyEntry{Net: testNet, ID: a.state.ID, Seq: a.state.Len, Prev: a.state.Head, T: nowMS + a.t0, Payload: p}
	if len(keys) == 0 {
		keys = []byte{a.key}
	}
	for _, k := range keys {
		i := max(0, slices.Index(a.state.Members, pub(k)))
		if err := e.Sign(testKey(k), uint8(i)); err != nil {
			a.t.Fatal(err)
		}
	}
	return e
}

func (a *author) add(p Payload, keys ...byte) *KeyEntry {
	a.t.Helper()
	e := a.draft(p, keys...)
	next, err := a.state.Apply(e)
	if err != nil {
		a.t.Fatalf("%T: %v", p, err)
	}
	a.state, a.log = next, append(a.log, e)
	return e
}

func (a *author) delegate(host byte) *KeyEntry { return a.add(a.delegation(host)) }

func (a *author) delegation(host byte) *Delegate {
	d := &Delegate{Host: pub(host), Cell: "cell", NotAfter: nowMS + 1e9}
	if err := d.SignConsent(testNet, a.state.ID, testKey(host)); err != nil {
		a.t.Fatal(err)
	}
	return d
}

func (a *author) rotate() *KeyEntry {
	next := a.key + 100
	if a.key >= 100 {
		next = a.key + 1
	}
	e := a.draft(&Rotate{Key: pub(next), Next: HashKey(pub(next + 1))}, next)
	state, err := a.state.Apply(e)
	if err != nil {
		a.t.Fatal(err)
	}
	a.state, a.log, a.key = state, append(a.log, e), next
	return e
}

// accountLog is the log of an account with these hosts.
func accountLog(t testing.TB, id byte, hosts ...byte) []*KeyEntry {
	a := newAuthor(t, id)
	for _, h := range hosts {
		a.delegate(h)
	}
	return a.log
}

func TestKeyLog(t *testing.T) {
	a := newAuthor(t, 1)
	a.delegate(2)
	a.delegate(3)
	a.rotate()
	a.rotate()
	a.add(&Revoke{Host: pub(3)})
	a.add(&Heal{Host: pub(2), Epoch: 4})
	a.add(&Checkpoint{State: a.state.Digest()})
	if d := a.state.Hosts[pub(2)]; d.Revoked || d.Epoch != 4 || !a.state.Hosts[pub(3)].Revoked {
		t.Errorf("%+v", a.state.Hosts)
	}
	for _, c := range []struct {
		name string
		e    *KeyEntry
		kind cellproto.Kind
	}{
		{"the first key, which was replaced", a.draft(&Revoke{Host: pub(2)}, 1), cellproto.Corrupt},
		{"a stranger", a.draft(&Revoke{Host: pub(2)}, 9), cellproto.Corrupt},
		{"a rotation to a key that was not announced", a.draft(&Rotate{Key: pub(9), Next: Hash{1}}, 9), cellproto.Corrupt},
		{"a rotation signed by the old key", a.draft(&Rotate{Key: pub(103), Next: Hash{1}}), cellproto.Corrupt},
		{"a host that has not agreed", a.draft(&Delegate{Host: pub(9), Cell: "x", NotAfter: nowMS}), cellproto.BadInput},
		{"a host's consent for another account", a.draft(newAuthor(t, 7).delegation(9)), cellproto.BadInput},
		{"a host that was revoked", a.draft(a.delegation(3)), cellproto.BadInput},
		{"revoking a stranger's host", a.draft(&Revoke{Host: pub(9)}), cellproto.BadInput},
		{"a false checkpoint", a.draft(&Checkpoint{State: Hash{1}}), cellproto.BadInput},
		{"an epoch that falls", a.draft(&Heal{Host: pub(2), Epoch: 4}), cellproto.BadInput},
		{"a runner of no pool", a.draft(&RunnerBudget{Runner: pub(2), Budget: 1}), cellproto.BadInput},
		{"an entry out of order", a.log[2], cellproto.BadInput},
	} {
		_, err := a.state.Apply(c.e)
		wantKind(t, c.name, err, c.kind)
	}
}

func TestRevokedHost(t *testing.T) {
	b, a := newTestBook(9), newAuthor(t, 1)
	a.delegate(2)
	b.expect(t, Stored, wire(t, a.log[0]))
	b.expect(t, Stored, wire(t, a.log[1]))
	b.expect(t, Stored, wire(t, dual(t, testReceipt(7, 2, 1000), 7, 2)))
	b.expect(t, Stored, wire(t, a.add(&Revoke{Host: pub(2)})))
	b.expect(t, Banned, wire(t, dual(t, testReceipt(7, 2, 2000), 7, 2)))
	b.expect(t, Banned, wire(t, dual(t, testReceipt(2, 7, 2000), 2, 7))) // the thief calls in the owner's name
	if given, taken := b.Balance(pub(1)); given != 1000 || taken != 0 {
		t.Errorf("given %d, taken %d: what was earned before stays", given, taken)
	}
	late := NewBook(Config{Net: testNet, Self: pub(9)})
	late.Ingest(nowMS, wire(t, a.log[0]))
	late.Ingest(nowMS, wire(t, a.log[1]))
	if r := late.Ingest(nowMS+2e9, wire(t, dual(t, testReceipt(7, 2, 1000), 7, 2))); r.Verdict != Banned {
		t.Errorf("after the end of the delegation: %v", r.Verdict)
	}
}

// Nobody takes over another's host, and a host that agreed to two belongs to one, whatever came first.
func TestHostOfTwo(t *testing.T) {
	x, y := newAuthor(t, 1), newAuthor(t, 4)
	x.delegate(2)
	d := &Delegate{Host: pub(2), Cell: "cell", NotAfter: nowMS + 2e9}
	if err := d.SignConsent(testNet, pub(4), testKey(2)); err != nil {
		t.Fatal(err)
	}
	y.add(d)
	for _, order := range [][]*KeyEntry{slices.Concat(x.log, y.log), slices.Concat(y.log, x.log)} {
		b := newTestBook(9)
		for _, e := range order {
			b.expect(t, Stored, wire(t, e))
		}
		if b.Owner(pub(2)) != pub(4) {
			t.Errorf("the shorter delegation won")
		}
	}
}

// The thief of a host that was revoked makes it his own account's, for longer: it stays revoked, whatever came first.
func TestRevokedHostOfTwo(t *testing.T) {
	owner, thief := newAuthor(t, 1), newAuthor(t, 4)
	owner.delegate(2)
	owner.add(&Revoke{Host: pub(2)})
	d := &Delegate{Host: pub(2), Cell: "cell", NotAfter: maxMeter}
	if err := d.SignConsent(testNet, pub(4), testKey(2)); err != nil {
		t.Fatal(err)
	}
	thief.add(d)
	for _, order := range [][]*KeyEntry{slices.Concat(owner.log, thief.log), slices.Concat(thief.log, owner.log), slices.Concat(owner.log[:2], thief.log, owner.log[2:])} {
		b := newTestBook(9)
		for _, e := range order {
			b.expect(t, Stored, wire(t, e))
		}
		b.expect(t, Banned, wire(t, dual(t, testReceipt(2, 7, 2000), 2, 7)))
		if b.Owner(pub(2)) != pub(1) {
			t.Error("it is the thief's")
		}
	}
}

// A delegation that is renewed before its end counts on; one that is not does not.
func TestDelegationIsRenewed(t *testing.T) {
	b, a := newTestBook(9), newAuthor(t, 1)
	a.delegate(2)
	later := &Delegate{Host: pub(2), Cell: "cell", NotAfter: nowMS + 5e9}
	if err := later.SignConsent(testNet, pub(1), testKey(2)); err != nil {
		t.Fatal(err)
	}
	a.add(later)
	for _, e := range a.log {
		b.expect(t, Stored, wire(t, e))
	}
	if r := b.Ingest(nowMS+2e9, wire(t, dual(t, testReceipt(7, 2, 1000), 7, 2))); r.Verdict != Stored {
		t.Errorf("after the end of the first delegation: %v", r.Verdict)
	}
	if r := b.Ingest(nowMS+6e9, wire(t, dual(t, testReceipt(7, 2, 2000), 7, 2))); r.Verdict != Banned {
		t.Errorf("after the end of both: %v", r.Verdict)
	}
	if given, _ := b.Balance(pub(1)); given != 1000 {
		t.Errorf("given %d", given)
	}
}

// pool makes a pool whose log says that keys 20 to 24 are members, of whom 3 sign.
func pool(t testing.TB) *author {
	a := newAuthor(t, 5)
	var members []Key
	for k := byte(20); k < 25; k++ {
		members = append(members, pub(k))
	}
	slices.SortFunc(members, func(a, b Key) int { return bytes.Compare(a[:], b[:]) })
	a.add(&PoolMembers{Keys: members, T: 3})
	return a
}

func TestPool(t *testing.T) {
	a := pool(t)
	budget := &RunnerBudget{Runner: pub(20), Budget: 1000, NotAfter: nowMS + 1000}
	for _, c := range []struct {
		name string
		keys []byte
	}{{"two of five", []byte{20, 21}}, {"the founder", []byte{5}}, {"two and a stranger", []byte{20, 21, 9}}} {
		if _, err := a.state.Apply(a.draft(budget, c.keys...)); cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := a.state.Apply(a.draft(&Rotate{Key: pub(105), Next: Hash{}}, 105)); err == nil {
		t.Error("the founder took the pool back by rotating")
	}
	a.add(budget, 20, 22, 24)

	b := newTestBook(9)
	for _, e := range a.log {
		b.expect(t, Stored, wire(t, e))
	}
	give := func(donor, to, key byte, credit uint64) []byte {
		return wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(donor), To: pub(to), N: credit, Credit: credit}, testKey(key))))
	}
	b.expect(t, Stored, give(21, 5, 21, 700))  // a member donates
	b.expect(t, Stored, give(5, 30, 20, 600))  // the runner spends
	b.expect(t, Forged, give(5, 31, 21, 100))  // another member cannot
	b.expect(t, Missing, give(5, 31, 20, 500)) // 600 + 500 is past the budget that is known
	b.expect(t, Stored, give(5, 30, 20, 1000)) // the same cheque, grown: 1000 in all
	if given, taken := b.Balance(pub(5)); given != 700 || taken != 1000 {
		t.Errorf("given %d, taken %d", given, taken)
	}
	if r := b.Ingest(nowMS+2000, give(5, 30, 20, 1000)); r.Verdict != Stale {
		t.Errorf("%v", r.Verdict)
	}

	// The pool goes on with another runner: what the first has signed holds, and nobody is to blame who tells of it late.
	b.expect(t, Stored, wire(t, a.add(&RunnerBudget{Runner: pub(22), Budget: 1500, NotAfter: nowMS + 1000}, 20, 22, 24)))
	b.expect(t, Banned, give(5, 31, 20, 100))
	b.expect(t, Stored, give(5, 31, 22, 500))
	late := newTestBook(8)
	for _, e := range a.log {
		late.expect(t, Stored, wire(t, e))
	}
	late.expect(t, Banned, give(5, 30, 20, 1000))
	after := must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(5), To: pub(31), N: 1, Credit: 500, T: nowMS + 1001}, testKey(22)))
	if r := late.Ingest(nowMS, wire(t, after)); r.Verdict != Missing || r.Verdict.Charged() {
		t.Errorf("written after the end of the budget: %v", r.Verdict)
	}
	var file bytes.Buffer
	if err := b.Export(&file); err != nil {
		t.Fatal(err)
	}
	if c, findings, err := Check(&file, testNet, 0); err != nil || len(findings) > 0 {
		t.Errorf("an export with two runners does not hold: %v %v", findings, err)
	} else if given, taken := c.Balance(pub(5)); given != 700 || taken != 1500 {
		t.Errorf("by the export given %d, taken %d", given, taken)
	}
}

func TestCheques(t *testing.T) {
	b, a := newTestBook(9), newAuthor(t, 1)
	give := func(key byte, credit uint64) []byte {
		return wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: 1, Credit: credit}, testKey(key))))
	}
	b.expect(t, Stored, give(1, 100)) // without a log the identity is the key
	b.expect(t, Stale, give(1, 50))
	b.expect(t, Missing, give(2, 200)) // perhaps a key that came later
	a.rotate()
	for _, e := range a.log {
		b.expect(t, Stored, wire(t, e))
	}
	b.expect(t, Banned, give(1, 200)) // replaced; who passes it on may have had it before that
	b.expect(t, Forged, give(2, 200))
	b.expect(t, Stored, give(101, 200))
	if given, taken := b.Balance(pub(5)); given != 200 || taken != 0 {
		t.Errorf("given %d taken %d", given, taken)
	}
}

// A donor from a backup has counted fewer donations, and given more since: its total is what counts.
func TestDonorFromBackup(t *testing.T) {
	b := newTestBook(9)
	give := func(n, credit uint64) []byte {
		return wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: n, Credit: credit}, testKey(1))))
	}
	b.expect(t, Stored, give(10, 100))
	b.expect(t, Stored, give(6, 150))
	b.expect(t, Stale, give(11, 140))
	if given, _ := b.Balance(pub(5)); given != 150 {
		t.Errorf("given %d", given)
	}
}

// drawLog is an honest log: whatever its owner does, one entry for one place.
func drawLog(rt *rapid.T, t testing.TB) *author {
	a := newAuthor(t, 1)
	for i := range rapid.IntRange(0, 8).Draw(rt, "entries") {
		a.t0 = uint64(i)
		switch rapid.IntRange(0, 3).Draw(rt, "payload") {
		case 0:
			a.delegate(2 + byte(i))
		case 1:
			a.rotate()
		case 2:
			a.add(&Checkpoint{State: a.state.Digest()})
		default:
			if len(a.state.Hosts) == 0 {
				a.delegate(50)
			}
			for h := range a.state.Hosts {
				a.add(&Revoke{Host: h})
				break
			}
		}
	}
	return a
}

// No honest history makes a proof, in whatever order and however often it is told, and with crashes
// after which the owner signs its last entry again.
func TestHonestLogNeverForks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := drawLog(rt, t)
		b := newTestBook(9)
		told := rapid.SliceOfN(rapid.SampledFrom(a.log), 0, 30).Draw(rt, "told")
		for _, e := range append(told, a.log...) {
			if rapid.Bool().Draw(rt, "signed again") {
				again := *e
				again.Sigs, again.body = nil, nil
				key := byte(1)
				for _, old := range a.log[:e.Seq+1] {
					if r, ok := old.Payload.(*Rotate); ok {
						for k := byte(101); ; k++ {
							if pub(k) == r.Key {
								key = k
								break
							}
						}
					}
				}
				if err := again.Sign(testKey(key), 0); err != nil {
					rt.Fatal(err)
				}
				e = &again
			}
			if r := b.Ingest(nowMS, wire(t, e)); r.Verdict != Stored && r.Verdict != Stale && r.Verdict != Missing {
				rt.Fatalf("%v: %v", r.Verdict, r.Err)
			}
		}
		if b.Banned(pub(1)) || b.State(pub(1)).Len != a.state.Len {
			rt.Fatalf("banned %v, %d of %d entries", b.Banned(pub(1)), b.State(pub(1)).Len, a.state.Len)
		}
	})
}

// Wherever a log forks, whoever sees both branches bans it, and its proof convinces who saw none.
func TestForkIsProven(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := drawLog(rt, t)
		at := rapid.IntRange(1, len(a.log)).Draw(rt, "fork at")
		other := &author{t: t, state: &KeyState{Net: testNet, ID: pub(1)}, key: 1}
		for _, e := range a.log[:at] {
			next, err := other.state.Apply(e)
			if err != nil {
				rt.Fatal(err)
			}
			other.state, other.log = next, append(other.log, e)
			if r, ok := e.Payload.(*Rotate); ok {
				for other.key = 101; pub(other.key) != r.Key; other.key++ {
				}
			}
		}
		if at == len(a.log) { // the other branch has something there too
			a.delegate(60)
		}
		other.t0 = 1000
		for range rapid.IntRange(1, 3).Draw(rt, "more") {
			if rapid.Bool().Draw(rt, "rotate") {
				other.rotate()
			} else {
				other.add(&Checkpoint{State: other.state.Digest()})
			}
		}
		one, two := newTestBook(8), newTestBook(9)
		tell := func(b *Book, log []*KeyEntry) (proof []byte) {
			for range log { // entries that are missing are asked for: here, told again
				for _, e := range rapid.Permutation(log).Draw(rt, "order") {
					r := b.Ingest(nowMS, wire(t, e))
					if r.Verdict == Forked {
						proof = r.Record
					} else if r.Verdict != Stored && r.Verdict != Stale && r.Verdict != Missing {
						rt.Fatalf("%v: %v", r.Verdict, r.Err)
					}
				}
			}
			return proof
		}
		if tell(one, a.log) != nil || tell(two, other.log) != nil {
			rt.Fatal("one branch alone is no fork")
		}
		x, y := tell(one, other.log), tell(two, a.log)
		if x == nil || !bytes.Equal(x, y) {
			rt.Fatal("two who have seen both branches do not have one proof")
		}
		third := newTestBook(7)
		if r := third.IngestProof(x); r.Verdict != Forked || !third.Banned(pub(1)) {
			rt.Fatalf("%v: %v", r.Verdict, r.Err)
		}
		if r := third.IngestProof(x); r.Verdict != Stale {
			rt.Fatalf("told twice: %v", r.Verdict)
		}
	})
}

// A proof that proves nothing bans nobody.
func TestFalseProofs(t *testing.T) {
	a := newAuthor(t, 1)
	a.rotate()
	a.delegate(2)
	base := a.draft(&Checkpoint{State: a.state.Digest()})
	a.t0++
	other := a.draft(&Checkpoint{State: a.state.Digest()})
	chain := a.log[:2]
	good := &ForkProof{Chain: chain, A: base, B: other}
	if err := good.Verify(); err != nil {
		t.Fatal(err)
	}
	forged := a.draft(&Checkpoint{State: Hash{1}}, 9)
	for _, c := range []struct {
		name string
		p    *ForkProof
	}{
		{"one entry twice", &ForkProof{Chain: chain, A: base, B: base}},
		{"two that follow each other", &ForkProof{Chain: chain, A: a.log[2], B: base}},
		{"one is forged", &ForkProof{Chain: chain, A: base, B: forged}},
		{"without the rotation", &ForkProof{Chain: chain[:1], A: base, B: other}},
		{"without the genesis", &ForkProof{Chain: chain[1:], A: base, B: other}},
		{"with nothing before", &ForkProof{A: base, B: other}},
		{"a rotation of another log", &ForkProof{Chain: append(chain[:1:1], newAuthor(t, 4).rotate()), A: base, B: other}},
		{"the chain in disorder", &ForkProof{Chain: []*KeyEntry{chain[1], chain[0]}, A: base, B: other}},
		{"of two logs", &ForkProof{Chain: chain, A: base, B: newAuthor(t, 4).rotate()}},
	} {
		if c.p.Verify() == nil {
			t.Errorf("%s: it proves something", c.name)
		}
		b := newTestBook(9)
		if r := b.IngestProof(wire(t, c.p)); !r.Verdict.Charged() || b.Banned(pub(1)) {
			t.Errorf("%s: %v, banned %v", c.name, r.Verdict, b.Banned(pub(1)))
		}
	}
	data := wire(t, good)
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x41
		b := newTestBook(9)
		if r := b.IngestProof(bad); r.Verdict == Forked {
			t.Fatalf("byte %d changed and nobody notices", i)
		}
	}
	t.Logf("%d bytes", len(data))
}

func FuzzProof(f *testing.F) {
	a := newAuthor(f, 1)
	x, y := a.draft(&Checkpoint{State: a.state.Digest()}), a.draft(&Checkpoint{State: Hash{1}})
	f.Add(wire(f, &ForkProof{Chain: a.log, A: x, B: y}))
	f.Add([]byte{0x85, 1, 4, 0x80, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodeProof(data)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x is read as %x, %v", data, again, err)
		}
		_ = p.Verify()
	})
}
