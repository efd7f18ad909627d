package offer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

var update = flag.Bool("update", false, "write the vectors anew")

// allTypes are read in the tests of the form alone.
var allTypes = []byte{typePing, typeOffer, typeAnswer, typeTake, typeStep, typeTaken, typeFailed}

const vectorFile = "testdata/messages.json"

// vector is one message of the file. Without a kind it has to be read, and to be made the same again.
type vector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	Kind string `json:"kind,omitempty"`
}

func testPeer() peer.AddrInfo {
	id, err := peer.Decode("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
	if err != nil {
		panic(err)
	}
	return peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.7/udp/4001/quic-v1"), ma.StringCast("/ip6/2001:db8::7/tcp/4001")}}
}

func message(kind byte, body []byte) []byte {
	var b bytes.Buffer
	_ = write(&b, kind, body) // a buffer takes everything
	return b.Bytes()
}

func vectors() []vector {
	id := cid.MustParse("bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm")
	small, err := Offer{Cell: id, Block: []byte("manifest"), Providers: []peer.AddrInfo{testPeer()}}.encode()
	if err != nil {
		panic(err)
	}
	alone, err := Offer{Cell: id, Block: []byte("manifest")}.encode()
	if err != nil {
		panic(err)
	}
	when := cellproto.Errorf("take it up", cellproto.Overloaded, "the owner is back")
	when.RetryAfter = 90 * time.Second
	no := cellproto.Errorf("take it up", cellproto.Denied, "its publisher is not one of mine")
	good := []struct {
		name string
		data []byte
	}{
		{"a ping and its answer", message(typePing, []byte("12345678"))},
		{"an offer", message(typeOffer, small)},
		{"an offer without providers", message(typeOffer, alone)},
		{"yes", message(typeAnswer, marshal(verdictOf(nil)))},
		{"no", message(typeAnswer, marshal(verdictOf(no)))},
		{"when: in 90 s", message(typeAnswer, marshal(verdictOf(when)))},
		{"take it", message(typeTake, nil)},
		{"a step", message(typeStep, marshal(wireStep{"fetching the program, 50 % of 10.0 MiB"}))},
		{"taken", message(typeTaken, marshal(encodePeer(testPeer())))},
		{"failed", message(typeFailed, marshal(verdictOf(no)))},
	}
	var out []vector
	for _, g := range good {
		out = append(out, vector{Name: g.name, Hex: hex.EncodeToString(g.data)})
	}
	many := wireOffer{Cell: id.Bytes(), Block: []byte{}}
	for range MaxProviders + 1 {
		many.Providers = append(many.Providers, wirePeer{ID: []byte(testPeer().ID)})
	}
	addressed := func(addrs ...[]byte) []byte {
		return message(typeTaken, marshal(wirePeer{ID: []byte(testPeer().ID), Addrs: addrs}))
	}
	bad := []struct {
		name string
		data []byte
		kind cellproto.Kind
	}{
		{"a type that there is not", message(8, nil), cellproto.BadInput},
		{"type 0", message(0, nil), cellproto.BadInput},
		{"no type at all", []byte{0, 0, 0, 0, typePing}, cellproto.BadInput},
		{"a long ping", message(typePing, make([]byte, maxPing+1)), cellproto.TooLarge},
		{"a length that is far too large", []byte{0xff, 0xff, 0xff, 0xff, typeOffer}, cellproto.TooLarge},
		{"a take with something in it", message(typeTake, []byte{0xa0}), cellproto.TooLarge},
		{"an offer that is no CBOR", message(typeOffer, []byte("offer")), cellproto.BadInput},
		{"an offer with something behind it", message(typeOffer, append(bytes.Clone(alone), 0)), cellproto.BadInput},
		{"an offer with a key that there is not", message(typeOffer, []byte{0xa1, 0x04, 0x01}), cellproto.BadInput},
		{"an offer with a key twice", message(typeOffer, []byte{0xa2, 0x01, 0x40, 0x01, 0x40}), cellproto.BadInput},
		{"an offer of indefinite length", message(typeOffer, []byte{0xbf, 0xff}), cellproto.BadInput},
		{"an offer of no cell", message(typeOffer, marshal(wireOffer{})), cellproto.BadInput},
		{"an offer of too many providers", message(typeOffer, marshal(many)), cellproto.TooLarge},
		{"a mirror without an ID", message(typeTaken, marshal(wirePeer{})), cellproto.BadInput},
		{"a mirror at no address", addressed([]byte("here")), cellproto.BadInput},
		{"a mirror at an address that is too long", addressed(make([]byte, maxAddr+1)), cellproto.TooLarge},
		{"a mirror at somebody else's address", addressed(ma.StringCast("/ip4/192.0.2.7/tcp/1/p2p/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC").Bytes()), cellproto.BadInput},
		{"a step that is not UTF-8", message(typeStep, []byte{0xa1, 0x01, 0x61, 0xff}), cellproto.BadInput},
		{"an answer that is tagged", message(typeAnswer, []byte{0xc1, 0xa0}), cellproto.BadInput},
	}
	for _, b := range bad {
		out = append(out, vector{b.name, hex.EncodeToString(b.data), b.kind.String()})
	}
	return out
}

// parse reads a message and all that is in it, and gives its bytes made anew.
func parse(data []byte) ([]byte, error) {
	kind, body, err := read(bytes.NewReader(data), allTypes...)
	if err != nil {
		return nil, err
	}
	switch kind {
	case typeOffer:
		o, err := decodeOffer(body)
		if err != nil {
			return nil, err
		}
		if body, err = o.encode(); err != nil {
			return nil, err
		}
	case typeAnswer, typeFailed:
		refusal, err := decodeVerdict(body)
		if err != nil {
			return nil, err
		}
		if refusal != nil && (cellproto.HintOf(refusal) != "" || refusal.RetryAfter < 0) {
			return nil, cellproto.Errorf("", cellproto.Corrupt, "%+v", refusal)
		}
		var w wireVerdict
		if err := decode("", body, &w); err != nil {
			return nil, err
		}
		body = marshal(w)
	case typeStep:
		var w wireStep
		if err := decode("", body, &w); err != nil {
			return nil, err
		}
		body = marshal(w)
	case typeTaken:
		var w wirePeer
		if err := decode("", body, &w); err != nil {
			return nil, err
		}
		info, err := w.decode("")
		if err != nil {
			return nil, err
		}
		body = marshal(encodePeer(info))
	}
	return message(kind, body), nil
}

func TestVectors(t *testing.T) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	if err := enc.Encode(vectors()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(vectorFile, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, buf.Bytes()) {
		t.Errorf("%s is not what this program makes; if the format is meant to change, run go test -update", vectorFile)
	}
	var file []vector
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, v := range file {
		raw, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(raw)
		switch {
		case v.Kind != "" && (err == nil || cellproto.KindOf(err).String() != v.Kind):
			t.Errorf("%s: %v, want %s", v.Name, err, v.Kind)
		case v.Kind == "" && err != nil:
			t.Errorf("%s: %v", v.Name, err)
		case v.Kind == "" && !bytes.Equal(again, raw):
			t.Errorf("%s: made anew it is %x", v.Name, again)
		}
	}
}

// The limits of an offer's parts hold also where that of the whole does not.
func TestLargeOffer(t *testing.T) {
	id := cid.MustParse("bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm")
	many := wireOffer{Cell: id.Bytes(), Block: []byte{}}
	for range MaxProviders + 1 {
		many.Providers = append(many.Providers, encodePeer(testPeer()))
	}
	for _, w := range []wireOffer{{Cell: id.Bytes(), Block: make([]byte, cellproto.MaxManifest+1)}, many} {
		if _, err := parse(message(typeOffer, marshal(w))); cellproto.KindOf(err) != cellproto.TooLarge {
			t.Errorf("%v", err)
		}
	}
	if _, err := (Offer{Cell: id, Block: make([]byte, cellproto.MaxManifest+1)}).encode(); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Errorf("%v", err)
	}
	// The largest that is allowed fits into a message.
	long := testPeer()
	a := ma.StringCast("/dns4/" + strings.Repeat("a", 200) + "/tcp/1")
	long.Addrs = nil
	for range cellproto.MaxAdvertAddrs {
		long.Addrs = append(long.Addrs, a)
	}
	o := Offer{Cell: id, Block: make([]byte, cellproto.MaxManifest)}
	for range MaxProviders + 3 {
		o.Providers = append(o.Providers, long)
	}
	body, err := o.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(message(typeOffer, body)); err != nil {
		t.Errorf("%v", err)
	}
}

// What a stranger writes is one short line wherever it is shown.
func TestPlain(t *testing.T) {
	for _, c := range [][2]string{
		{"fetching", "fetching"}, {" a\n\tb\x1b[2J ", "a b [2J"}, {"\xff", "?"}, {strings.Repeat("é", maxText), strings.Repeat("é", maxText/2)},
	} {
		if got := plain(c[0]); got != c[1] {
			t.Errorf("%q: %q", c[0], got)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, v := range vectors() {
		raw, err := hex.DecodeString(v.Hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		made, err := parse(data)
		if err != nil {
			switch cellproto.KindOf(err) {
			case cellproto.BadInput, cellproto.TooLarge, cellproto.Failed: // Failed: it ends too early
			default:
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := parse(made)
		if err != nil || !bytes.Equal(made, again) {
			t.Fatalf("%x is made anew as %x: %v", made, again, err)
		}
	})
}
