package signed

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	ma "github.com/multiformats/go-multiaddr"
)

func testAdvert() Advert {
	return Advert{
		Cell: testCID(cid.DagCBOR, "calculator"), Peer: testPeer(1),
		Addrs: []ma.Multiaddr{
			addr("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/" + testPeer(1).String()),
			addr("/dns4/example.org/tcp/4001"),
			addr("/ip4/198.51.100.1/tcp/4001/p2p/" + testPeer(3).String() + "/p2p-circuit"),
		},
		Seq: NextSeq(0, testNow), Issued: testNow, Expires: testNow.Add(cellproto.AdvertLifetime),
		Name: "calculator", Version: "1.2.0",
		SchemasProvided: []cellproto.SchemaHash{hash32(1)}, SchemasAccepted: []cellproto.SchemaHash{hash32(1), hash32(2)},
		P50: 180 * time.Microsecond, P99: 2100 * time.Microsecond, Queue: 3, Capacity: 100, FreeSlots: 97,
		PriceTable: 7, BinaryBLAKE3: hash32(4), Relayed: true, Repo: "https://example.org/calculator.git", Ref: "v1.2.0",
	}
}

func advertVectors(t testing.TB) vectorFile {
	a := testAdvert()
	file := vectorFile{
		About: "Sealed adverts (libp2p envelopes), as the peer sent them in answer to a question for the cell at now_ms. " +
			"kind: what opening them has to give; without one they open.",
		Expect: map[string]string{"peer": a.Peer.String(), "cell": a.Cell.String()},
		NowMS:  testNow.UnixMilli(),
	}
	add := func(name, kind string, data []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, Hex: hex.EncodeToString(data), Kind: kind})
	}
	good := func(name string, edit func(*Advert)) {
		a := testAdvert()
		edit(&a)
		data, err := SealAdvert(a, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		add(name, "", data)
	}
	good("full", func(*Advert) {})
	good("nothing that can be left out", func(a *Advert) {
		*a = Advert{Cell: a.Cell, Seq: 1, Issued: a.Issued, Expires: a.Issued.Add(time.Millisecond), Name: "x", Version: "0.0.0"}
	})
	good("provider's clock 5 minutes ahead", func(a *Advert) { a.Issued = a.Issued.Add(5 * time.Minute); a.Expires = a.Issued.Add(time.Second) })
	good("provider's clock 5 minutes behind", func(a *Advert) {
		a.Expires = testNow.Add(time.Millisecond - 5*time.Minute)
		a.Issued = a.Expires.Add(-1e9)
	})
	good("one hour", func(a *Advert) { a.Expires = a.Issued.Add(time.Hour) })
	good("16 addresses", func(a *Advert) { a.Addrs = make16(16) })

	body := a.body()
	o := advertObject("", &body)
	file.Vectors = append(file.Vectors, envelopeVectors(t, o, encode(t, body), [2]string{domainToken, typeToken}, cellproto.MaxAdvert)...)
	other := body
	other.Peer = testPeer(2).String()
	add("of another peer, signed by that", "corrupt", envelope(t, o.domain, o.kind, encode(t, other), testKey(2)))
	add("of this peer, signed by another", "corrupt", envelope(t, o.domain, o.kind, encode(t, body), testKey(2)))
	add("of another peer, signed by this", "corrupt", envelope(t, o.domain, o.kind, encode(t, other), testKey(1)))
	for _, c := range []struct {
		name, kind string
		edit       func(*advertBody)
	}{
		{"for another cell", "corrupt", func(b *advertBody) { b.Cell = Link{testCID(cid.DagCBOR, "other")} }},
		{"for no cell", "corrupt", func(b *advertBody) { b.Cell = Link{} }},
		{"peer in another spelling", "corrupt", func(b *advertBody) {
			b.Peer = cid.NewCidV1(cid.Libp2pKey, []byte(testPeer(1))).String()
		}},
		{"expired", "bad input", func(b *advertBody) { b.Expires = testNow.Add(-5 * time.Minute).UnixMilli(); b.Issued = b.Expires - 1 }},
		{"from the future", "bad input", func(b *advertBody) {
			b.Issued = testNow.Add(5*time.Minute + time.Millisecond).UnixMilli()
			b.Expires = b.Issued + 1
		}},
		{"for more than an hour", "bad input", func(b *advertBody) { b.Expires = b.Issued + time.Hour.Milliseconds() + 1 }},
		{"expires when issued", "bad input", func(b *advertBody) { b.Expires = b.Issued }},
		{"expires past 2^53", "bad input", func(b *advertBody) { b.Expires = 1 << 60 }},
		{"issued before 1970", "bad input", func(b *advertBody) { b.Issued = -1 }},
		{"sequence 0", "bad input", func(b *advertBody) { b.Seq = 0 }},
		{"sequence past 2^53", "bad input", func(b *advertBody) { b.Seq = 1<<64 - 1 }},
		{"17 addresses", "too large", func(b *advertBody) { b.Addrs = addrBytes(make16(17)) }},
		{"address of another peer", "bad input", func(b *advertBody) {
			b.Addrs = [][]byte{addr("/ip4/192.0.2.1/tcp/1/p2p/" + testPeer(2).String()).Bytes()}
		}},
		{"address of no bytes", "bad input", func(b *advertBody) { b.Addrs = [][]byte{{}} }},
		{"address that is none", "bad input", func(b *advertBody) { b.Addrs = [][]byte{{4, 1, 2}} }},
		{"33 schemas", "too large", func(b *advertBody) { b.SchemasAccepted = make([]cellproto.SchemaHash, 33) }},
		{"schema zero", "bad input", func(b *advertBody) { b.SchemasProvided = make([]cellproto.SchemaHash, 1) }},
		{"name in capitals", "bad input", func(b *advertBody) { b.Name = "Calc" }},
		{"version 1", "bad input", func(b *advertBody) { b.Version = "1" }},
		{"p50 below zero", "bad input", func(b *advertBody) { b.P50us = -1 }},
		{"p99 of more than a day", "bad input", func(b *advertBody) { b.P99us = 1 << 62 }},
		{"repo that runs a program", "bad input", func(b *advertBody) { b.Repo = "ext::sh -c id" }},
		{"ref that is a flag", "bad input", func(b *advertBody) { b.Ref = "-x" }},
	} {
		b := a.body()
		c.edit(&b)
		add(c.name, c.kind, envelope(t, o.domain, o.kind, encode(t, b), testKey(1)))
	}
	f := fields(t, body)
	f["queue"] = uint64(1 << 32)
	add("queue past 32 bits", "bad input", envelope(t, o.domain, o.kind, encode(t, f), testKey(1)))
	return file
}

func make16(n int) (addrs []ma.Multiaddr) {
	for range n {
		addrs = append(addrs, addr("/ip4/192.0.2.1/udp/4001/quic-v1"))
	}
	return addrs
}

func addrBytes(addrs []ma.Multiaddr) (raw [][]byte) {
	for _, a := range addrs {
		raw = append(raw, a.Bytes())
	}
	return raw
}

func openAdvert(data []byte) (*Advert, error) {
	return OpenAdvert(data, testPeer(1), testAdvert().Cell, testNow)
}

func TestAdvertVectors(t *testing.T) {
	for _, v := range vectors(t, "advert.json", advertVectors(t)).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			_, err := openAdvert(v.bytes(t))
			v.check(t, err)
		})
	}
}

func TestAdvertRoundTrip(t *testing.T) {
	a := testAdvert()
	a.P50 += 999 // below a µs
	data, err := SealAdvert(a, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := openAdvert(data)
	if err != nil {
		t.Fatal(err)
	}
	if want := testAdvert(); !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	if got.Lifetime() != cellproto.AdvertLifetime {
		t.Error(got.Lifetime())
	}
	t.Logf("%d bytes", len(data))
}

func TestAdvertEveryFlippedByteIsRefused(t *testing.T) {
	data, err := SealAdvert(testAdvert(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	everyFlip(t, data, func(b []byte) error { _, err := openAdvert(b); return err })
}

func TestSealAdvertRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Advert)
		kind cellproto.Kind
	}{
		"another peer's": {func(a *Advert) { a.Peer = testPeer(2) }, cellproto.Denied},
		"4 KiB": {func(a *Advert) {
			a.SchemasProvided = slicesOf(32)
			a.SchemasAccepted = slicesOf(32)
			a.Repo = "https://example.org/" + strings.Repeat("x", 2000)
		}, cellproto.TooLarge},
		"bad name": {func(a *Advert) { a.Name = "" }, cellproto.BadInput},
	} {
		a := testAdvert()
		c.edit(&a)
		if _, err := SealAdvert(a, testKey(1)); cellproto.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
}

func slicesOf(n int) (hashes []cellproto.SchemaHash) {
	for i := range n {
		hashes = append(hashes, hash32(byte(i+1)))
	}
	return hashes
}

func TestNextSeq(t *testing.T) {
	now := uint64(testNow.UnixMilli())
	for _, c := range [][2]uint64{{0, now}, {now - 1, now}, {now, now + 1}, {now + 10, now + 11}} {
		if got := NextSeq(c[0], testNow); got != c[1] {
			t.Errorf("after %d: %d, want %d", c[0], got, c[1])
		}
	}
	if got := NextSeq(0, time.UnixMilli(-5)); got != 1 {
		t.Error(got)
	}
}

func TestNewest(t *testing.T) {
	n := NewNewest(3)
	mk := func(peer byte, seq uint64, expires time.Duration) *Advert {
		a := testAdvert()
		a.Peer, a.Seq, a.Expires = testPeer(peer), seq, testNow.Add(expires)
		return &a
	}
	first := mk(1, 10, time.Second)
	for _, c := range []struct {
		name  string
		a     *Advert
		now   time.Duration
		newer bool
	}{
		{"the first", first, 0, true},
		{"the first again", mk(1, 10, time.Second), 0, false},
		{"an older one", mk(1, 9, time.Minute), 0, false},
		{"a newer one", mk(1, 11, 2*time.Second), 0, true},
		{"the first once more", first, 0, false},
		{"of another peer", mk(2, 1, 5*time.Second), 0, true},
		{"of a third peer", mk(3, 1, 5*time.Second), 0, true},
		{"of a fourth peer, for which the first to expire goes", mk(4, 1, 5*time.Second), 0, true},
		{"the first, which is forgotten", first, 0, true},
		{"an older one when the newest is long expired", mk(1, 2, 10*time.Minute), 6 * time.Minute, true},
	} {
		newest, newer := n.Put(c.a, testNow.Add(c.now))
		if newer != c.newer || newer != (newest == c.a) {
			t.Errorf("%s: %v, want %v", c.name, newer, c.newer)
		}
	}
	if len(n.kept) > 3 {
		t.Errorf("%d kept", len(n.kept))
	}
	if a := n.Get(testPeer(1), first.Cell); a == nil || a.Seq != 2 {
		t.Errorf("%+v", a)
	}
	if n.Get(testPeer(1), testCID(cid.DagCBOR, "other")) != nil {
		t.Error("an advert for another cell")
	}
	n.Put(mk(5, 1, 20*time.Minute), testNow.Add(6*time.Minute))
	if len(n.kept) != 2 {
		t.Errorf("%d kept, the expired ones among them", len(n.kept))
	}
}

func FuzzOpenAdvert(f *testing.F) {
	fuzzOpen(f, advertObject("", nil), advertVectors(f).Vectors, func(data []byte) ([]byte, error) {
		a, err := openAdvert(data)
		if err != nil {
			return nil, err
		}
		return SealAdvert(*a, testKey(1))
	})
}
