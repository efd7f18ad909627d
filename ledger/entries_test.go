package ledger

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"
)

// openAny decodes and verifies an entry of any kind, as Book does but without its state. For key
// entries the keys are those of the test's log.
func openAny(data []byte) (Hash, error) {
	_, kind, _ := peek(data)
	switch kind {
	case kindCheque:
		s, body, err := DecodeCheque(data)
		if err != nil {
			return Hash{}, err
		}
		return bodyID(body), VerifyCheque(s, body, s.Donor)
	case kindKey:
		e, err := DecodeKeyEntry(data)
		if err != nil {
			return Hash{}, err
		}
		for _, s := range e.Sigs {
			if s.Index != 0 || !Verify(e.ID, RoleKey, e.body, s.Sig) {
				return Hash{}, badSignature("verify key entry", RoleKey)
			}
		}
		return bodyID(e.body), nil
	default:
		s, body, err := DecodeReceipt(data)
		if err != nil {
			return Hash{}, err
		}
		return bodyID(body), VerifyReceipt(s, body)
	}
}

// sampleEntries are good entries of each kind.
func sampleEntries(t testing.TB) []vector {
	var out []vector
	add := func(name string, data []byte) {
		id, err := openAny(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, vector{Name: name, Hex: hex.EncodeToString(data), CID: id.CID()})
	}
	r := testReceipt(1, 2, 123456)
	add("receipt, signed by both", wire(t, dual(t, r, 1, 2)))
	add("receipt, consumer only", wire(t, ack(t, r, 1)))
	add("receipt, provider only", wire(t, claim(t, r, 2)))
	pool := pub(5)
	r.Beneficiary, r.Epoch = &pool, 7
	add("receipt with a beneficiary", wire(t, dual(t, r, 1, 2)))
	big := testReceipt(1, 2, maxCredit)
	big.Epoch, big.N, big.T, big.MeterV, big.Beneficiary = 1<<32-1, maxMeter, maxMeter, 1<<16-1, &pool
	big.Meter = Meter{CPU: maxMeter, Wall: maxMeter, GPU: maxMeter, RAM: maxMeter, In: maxMeter, Out: maxMeter, Energy: maxMeter}
	add("the largest receipt", wire(t, dual(t, big, 1, 2)))
	add("an empty receipt", wire(t, dual(t, Receipt{Net: testNet, Consumer: pub(1), Provider: pub(2), Est: EstTable, MeterV: 1}, 1, 2)))

	add("cheque", wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: 3, Credit: 5_000_000, T: nowMS, Purpose: "for the library"}, testKey(1)))))
	for _, e := range sampleLog(t) {
		add(fmt.Sprintf("key entry %d", e.Seq), wire(t, e))
	}
	return out
}

// sampleLog is a chain with each payload, all signed by key 1, which KeyState does not accept of all.
func sampleLog(t testing.TB) []*KeyEntry {
	d := &Delegate{Host: pub(2), Cell: "calculator", NotAfter: nowMS + 1e9}
	if err := d.SignConsent(testNet, pub(1), testKey(2)); err != nil {
		t.Fatal(err)
	}
	var members []Key
	for i := range byte(MaxMembers) {
		members = append(members, pub(20+i))
	}
	slices.SortFunc(members, func(a, b Key) int { return bytes.Compare(a[:], b[:]) })
	var log []*KeyEntry
	var prev Hash
	for i, p := range []Payload{
		&Genesis{Next: HashKey(pub(11))}, &Rotate{Key: pub(11), Next: HashKey(pub(12))}, d, &Revoke{Host: pub(2)},
		&PoolMembers{Keys: members, T: 6}, &RunnerBudget{Runner: pub(3), Budget: 1e9, NotAfter: nowMS}, &Checkpoint{State: HashKey(pub(4))}, &Heal{Host: pub(2), Epoch: 1},
	} {
		e := &KeyEntry{Net: testNet, ID: pub(1), Seq: uint64(i), Prev: prev, T: nowMS, Payload: p}
		if err := e.Sign(testKey(1), 0); err != nil {
			t.Fatal(err)
		}
		prev = must1[Hash](t)(e.Hash())
		log = append(log, e)
	}
	return log
}

// spoil makes entries that must fail out of a good receipt.
func spoil(t testing.TB) []vector {
	good := wire(t, dual(t, testReceipt(1, 2, 123456), 1, 2))
	var out []vector
	add := func(name string, kind cellproto.Kind, data []byte) {
		out = append(out, vector{Name: name, Kind: kind.String(), Hex: hex.EncodeToString(data)})
	}
	// remake gives the receipt with other fields, signed as if by an honest program.
	remake := func(change func(body []any) []any) []byte {
		var w []cbor.RawMessage
		var body []any
		if err := cbor.Unmarshal(good, &w); err != nil {
			t.Fatal(err)
		}
		if err := cbor.Unmarshal(w[0], &body); err != nil {
			t.Fatal(err)
		}
		b := must1[[]byte](t)(encode(change(body)))
		c, p := Sign(testKey(1), RoleConsumer, b), Sign(testKey(2), RoleProvider, b)
		return must1[[]byte](t)(encode([]any{cbor.RawMessage(b), c[:], p[:]}))
	}
	set := func(i int, v any) func([]any) []any { return func(b []any) []any { b[i] = v; return b } }
	const bad = cellproto.BadInput
	add("nothing", bad, nil)
	add("not CBOR", bad, []byte("receipt"))
	add("cut", bad, good[:len(good)-1])
	add("a byte behind", bad, append(bytes.Clone(good), 0))
	add("too large", cellproto.TooLarge, make([]byte, cellproto.MaxLedgerEntry+1))
	add("a later version", cellproto.Unsupported, remake(set(0, 2)))
	add("version 0", bad, remake(set(0, 0)))
	add("an unknown kind", bad, remake(set(1, 9)))
	add("a field too many", bad, remake(func(b []any) []any { return append(b, 1) }))
	add("a field too few", bad, remake(func(b []any) []any { return b[:len(b)-1] }))
	add("a short key", bad, remake(set(3, make([]byte, 31))))
	add("a long key", bad, remake(set(3, make([]byte, 33))))
	add("a short network", bad, remake(set(2, make([]byte, 3))))
	add("a network of null", bad, remake(set(2, nil)))
	add("a host that owes itself", bad, remake(func(b []any) []any { b[4] = b[3]; return b }))
	add("the provider as beneficiary", bad, remake(func(b []any) []any { b[5] = b[4]; return b }))
	add("a negative credit", bad, remake(set(8, -1)))
	add("too much credit", bad, remake(set(8, uint64(maxCredit+1))))
	add("credit as a float", bad, remake(set(8, 1.5)))
	add("credit as text", bad, remake(set(8, "1")))
	add("credit of null", bad, remake(set(8, nil)))
	add("an epoch of 33 bits", bad, remake(set(6, uint64(1)<<32)))
	add("a meter of six", bad, remake(set(9, []any{1, 2, 3, 4, 5, 6})))
	add("a meter out of range", bad, remake(set(9, []any{uint64(1) << 63, 2, 3, 4, 5, 6, 7})))
	add("estimated by nobody", bad, remake(set(10, 0)))
	add("no price table", bad, remake(set(11, 0)))
	add("a map", bad, remake(set(9, map[string]int{"cpu": 1})))
	add("no signature", bad, must1[[]byte](t)(encode([]any{cbor.RawMessage(good[1 : len(good)-132]), nil, nil})))
	add("a short signature", bad, must1[[]byte](t)(encode([]any{cbor.RawMessage(good[1 : len(good)-132]), make([]byte, 63), nil})))
	add("an empty signature", bad, must1[[]byte](t)(encode([]any{cbor.RawMessage(good[1 : len(good)-132]), []byte{}, nil})))
	add("an indefinite array", bad, slices.Concat([]byte{0x9f}, good[1:], []byte{0xff}))
	add("a long head", bad, slices.Concat([]byte{0x98, 3}, good[1:]))
	add("a long integer", bad, slices.Concat(good[:2], []byte{0x18, 1}, good[3:]))
	add("a tag", bad, slices.Concat([]byte{0xc1}, good))
	swapped := slices.Concat(good[:len(good)-132], good[len(good)-66:], good[len(good)-132:len(good)-66])
	add("the signatures exchanged", cellproto.Corrupt, swapped)
	return out
}

func TestVectors(t *testing.T) {
	file := vectorFile{
		About: "Entries of the ledger. Those without a kind decode, verify and have this CID; the others fail with the kind. " +
			"The signing keys have seeds of 32 equal bytes; keys gives byte and public key.",
		Keys:    map[string]string{"1": pub(1).String(), "2": pub(2).String()},
		Vectors: append(sampleEntries(t), spoil(t)...),
	}
	for _, v := range vectors(t, "entries.json", file) {
		id, err := openAny(v.bytes(t))
		wantKind(t, v.Name, err, kindOrNone(v.Kind))
		if v.Kind == "" && id.CID() != v.CID {
			t.Errorf("%s: %s, want %s", v.Name, id.CID(), v.CID)
		}
	}
}

func kindOrNone(name string) cellproto.Kind {
	if name == "" {
		return 0
	}
	return cellproto.ParseKind(name)
}

// The sizes that the design counts on.
func TestSizes(t *testing.T) {
	for _, v := range sampleEntries(t) {
		if n := len(v.bytes(t)); n > cellproto.MaxLedgerEntry {
			t.Errorf("%s has %d bytes", v.Name, n)
		} else {
			t.Logf("%-28s %4d bytes", v.Name, n)
		}
	}
	// Six members of a pool of ten exchange all of them: the largest entry that anybody has to make.
	e := sampleLog(t)[4]
	for i := range byte(6) {
		if err := e.Sign(testKey(20+i), i); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("members of a pool, by 6 of 10: %d bytes", len(wire(t, e)))
}

// A changed byte, anywhere, is noticed.
func TestEveryFlippedByte(t *testing.T) {
	masks := []byte{1, 0x80, 0xff}
	for _, v := range sampleEntries(t) {
		data := v.bytes(t)
		for i := range data {
			try := masks[i%3:][:1]
			if long() {
				try = masks
			}
			for _, mask := range try {
				bad := bytes.Clone(data)
				bad[i] ^= mask
				if _, err := openAny(bad); err == nil {
					t.Fatalf("%s: byte %d changed by %#x and nobody notices", v.Name, i, mask)
				}
			}
		}
	}
}

// What was signed in one role, for one kind or for one network is nothing in another.
func TestCrossDomain(t *testing.T) {
	r := testReceipt(1, 2, 1000)
	body := must1[[]byte](t)(r.Body())
	roles := []Role{RoleConsumer, RoleProvider, RoleDonor, RoleKey, RoleHost, RoleHead, RolePublicGood}
	for _, signed := range roles {
		for _, asked := range roles {
			if got := Verify(pub(1), asked, body, Sign(testKey(1), signed, body)); got != (signed == asked) {
				t.Errorf("signed as %s, taken as %s: %v", signed, asked, got)
			}
		}
	}
	s := dual(t, r, 1, 2)
	s.Net = NetOf("other")
	_, err := openAny(wire(t, s))
	wantKind(t, "receipt shown on another network", err, cellproto.Corrupt)
	_, err = SealReceipt(r, testKey(2), RoleConsumer)
	wantKind(t, "a provider signing as the consumer", err, cellproto.Denied)
}

// envelope makes libp2p compute the preimage and the signature.
type envelope struct{ role, body string }

func (e envelope) Domain() string                 { return domain }
func (e envelope) Codec() []byte                  { return []byte(e.role) }
func (e envelope) MarshalRecord() ([]byte, error) { return []byte(e.body), nil }
func (e envelope) UnmarshalRecord([]byte) error   { return nil }

func TestSameAsLibp2p(t *testing.T) {
	key, err := crypto.UnmarshalEd25519PrivateKey(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	r := testReceipt(1, 2, 1000)
	body := must1[[]byte](t)(r.Body())
	env := must1[*record.Envelope](t)(record.Seal(envelope{string(RoleConsumer), string(body)}, key))
	data := must1[[]byte](t)(env.Marshal())
	sig := Sign(testKey(1), RoleConsumer, body)
	if !bytes.HasSuffix(data, sig[:]) {
		t.Error("the signature is not that of a libp2p envelope")
	}
	want := must1[cid.Cid](t)(cid.Prefix{Version: 1, Codec: cid.DagCBOR, MhType: multihash.SHA2_256, MhLength: 32}.Sum(body))
	if got := bodyID(body).CID(); got != want.String() {
		t.Errorf("CID %s, want %s", got, want)
	}
}

// ZIP-215 decides cases on which libraries differ: here a key and an R of small order in a spelling
// that is not canonical.
func TestZIP215(t *testing.T) {
	var k Key
	var s Signature
	k[0], s[0] = 1, 1 // the identity, twice; S = 0
	if !Verify(k, RoleConsumer, []byte("anything"), s) {
		t.Error("not the rules of ZIP-215")
	}
}

func fuzzDecoder(f *testing.F, again func([]byte) ([]byte, error)) {
	readVectors(f, "entries.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := again(data)
		if err != nil {
			if cellproto.KindOf(err) == cellproto.Failed {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		if !bytes.Equal(out, data) {
			t.Fatalf("%x is read as %x", data, out)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	fuzzDecoder(f, func(data []byte) ([]byte, error) {
		s, _, err := DecodeReceipt(data)
		if err != nil {
			return nil, err
		}
		return s.Encode()
	})
}

func FuzzCheque(f *testing.F) {
	fuzzDecoder(f, func(data []byte) ([]byte, error) {
		s, _, err := DecodeCheque(data)
		if err != nil {
			return nil, err
		}
		return s.Encode()
	})
}

func FuzzKeyEntry(f *testing.F) {
	fuzzDecoder(f, func(data []byte) ([]byte, error) {
		e, err := DecodeKeyEntry(data)
		if err != nil {
			return nil, err
		}
		return e.Encode()
	})
}

func TestLogHash(t *testing.T) {
	a := Call{N: 1, Fn: "add", Meter: Meter{CPU: 5}, Credit: 1}
	b := Call{N: 2, Fn: "add", Meter: Meter{CPU: 6}, Credit: 1}
	chain := func(calls ...Call) (h Hash) {
		for _, c := range calls {
			h = must1[Hash](t)(LogHash(h, &c))
		}
		return h
	}
	one, again := chain(a, b), chain(a, b)
	if one == chain(b, a) || chain(a) == one || one != again {
		t.Error("the running hash does not commit to each call in its order")
	}
}

// The receipt's own encoder writes what the library would.
func TestReceiptEncoder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64()
		r := Receipt{V: 1, Kind: rapid.Byte().Draw(t, "kind"), Net: testNet, Consumer: pub(1), Provider: pub(2), Epoch: rapid.Uint32().Draw(t, "epoch"),
			N: n.Draw(t, "n"), Credit: n.Draw(t, "credit"), Est: rapid.Byte().Draw(t, "est"), MeterV: rapid.Uint16().Draw(t, "table"), T: n.Draw(t, "t"),
			Meter: Meter{CPU: n.Draw(t, "cpu"), Wall: n.Draw(t, "wall"), GPU: n.Draw(t, "gpu"), RAM: n.Draw(t, "ram"), In: n.Draw(t, "in"), Out: n.Draw(t, "out"), Energy: n.Draw(t, "energy")}}
		if rapid.Bool().Draw(t, "beneficiary") {
			k := pub(3)
			r.Beneficiary = &k
		}
		want, err := encode(&r)
		if got := r.appendTo(nil); err != nil || !bytes.Equal(got, want) || len(got) > maxReceiptBody {
			t.Fatalf("%x, want %x, %v", got, want, err)
		}
	})
}
