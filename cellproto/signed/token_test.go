package signed

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/libp2p/go-libp2p/core/peer"
)

func testToken() Token {
	return Token{
		Server: testPeer(1), Cell: "calculator", Subject: SubjectUID(1000), Key: testPeer(3),
		Issued: testNow, Expires: testNow.Add(cellproto.TokenTTL),
	}
}

func testProof() Proof {
	return Proof{Server: testPeer(2), Nonce: hash32(7), Cell: "calculator", Subject: SubjectUID(1000)}
}

func tokenVectors(t testing.TB) vectorFile {
	tok := testToken()
	file := vectorFile{
		About: "Tokens (libp2p envelopes), as the subject showed them to the server for the cell at now_ms. " +
			"kind: what opening them has to give; without one they open.",
		Expect: map[string]string{"server": tok.Server.String(), "cell": tok.Cell, "subject": tok.Subject},
		NowMS:  testNow.UnixMilli(),
	}
	add := func(name, kind string, data []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, Hex: hex.EncodeToString(data), Kind: kind})
	}
	data, err := SealToken(tok, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	add("full", "", data)
	good := tokenBody{
		V: 1, Server: tok.Server.String(), Cell: tok.Cell, Subject: tok.Subject, Key: tok.Key.String(),
		Issued: tok.Issued.UnixMilli(), Expires: tok.Expires.UnixMilli(),
	}
	o := tokenObject("", &good)
	file.Vectors = append(file.Vectors, envelopeVectors(t, o, encode(t, good), [2]string{domainProof, typeProof}, cellproto.MaxToken)...)
	add("signed by another", "denied", envelope(t, o.domain, o.kind, encode(t, good), testKey(2)))
	for _, c := range []struct {
		name, kind string
		edit       func(*tokenBody)
	}{
		{"of another server", "denied", func(b *tokenBody) { b.Server = testPeer(2).String() }},
		{"for another cell", "denied", func(b *tokenBody) { b.Cell = "calculators" }},
		{"of another uid", "denied", func(b *tokenBody) { b.Subject = "uid:0" }},
		{"of a peer", "denied", func(b *tokenBody) { b.Subject = testPeer(3).String() }},
		{"expired now", "denied", func(b *tokenBody) { b.Expires = testNow.UnixMilli(); b.Issued = b.Expires - 1 }},
		{"from the future", "denied", func(b *tokenBody) {
			b.Issued = testNow.Add(5*time.Minute + time.Millisecond).UnixMilli()
			b.Expires = b.Issued + 1
		}},
		{"for more than 10 minutes", "bad input", func(b *tokenBody) { b.Expires = b.Issued + cellproto.TokenTTL.Milliseconds() + 1 }},
		{"expires before it was issued", "bad input", func(b *tokenBody) { b.Expires = b.Issued - 1 }},
		{"issued at 0", "bad input", func(b *tokenBody) { b.Issued = 0 }},
		{"key is no peer ID", "bad input", func(b *tokenBody) { b.Key = "key" }},
		{"no key", "bad input", func(b *tokenBody) { b.Key = "" }},
		{"no subject", "bad input", func(b *tokenBody) { b.Subject = "" }},
		{"subject of two words", "bad input", func(b *tokenBody) { b.Subject = "uid: 1000" }},
		{"cell of 129 bytes", "bad input", func(b *tokenBody) { b.Cell = strings.Repeat("x", 129) }},
		{"cell with a line feed", "bad input", func(b *tokenBody) { b.Cell = "calculator\n" }},
	} {
		b := good
		c.edit(&b)
		add(c.name, c.kind, envelope(t, o.domain, o.kind, encode(t, b), testKey(1)))
	}
	return file
}

func proofVectors(t testing.TB) vectorFile {
	p := testProof()
	file := vectorFile{
		About: "Proofs (libp2p envelopes), as the subject gave them to the server for the cell in answer to the nonce. " +
			"kind: what opening them has to give; without one they open and were signed by key.",
		Expect: map[string]string{
			"server": p.Server.String(), "nonce": hex.EncodeToString(p.Nonce[:]), "cell": p.Cell, "subject": p.Subject,
			"key": testPeer(1).String(),
		},
	}
	add := func(name, kind string, data []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, Hex: hex.EncodeToString(data), Kind: kind})
	}
	data, err := SealProof(p, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	add("full", "", data)
	good := proofBody{V: 1, Server: p.Server.String(), Nonce: p.Nonce, Cell: p.Cell, Subject: p.Subject}
	o := proofObject("", &good)
	file.Vectors = append(file.Vectors, envelopeVectors(t, o, encode(t, good), [2]string{domainToken, typeToken}, cellproto.MaxToken)...)
	for _, c := range []struct {
		name, kind string
		edit       func(*proofBody)
	}{
		{"for another server", "denied", func(b *proofBody) { b.Server = testPeer(1).String() }},
		{"of another nonce", "denied", func(b *proofBody) { b.Nonce[31] ^= 1 }},
		{"for another cell", "denied", func(b *proofBody) { b.Cell = "calc" }},
		{"of another uid", "denied", func(b *proofBody) { b.Subject = "uid:1001" }},
		{"no server", "bad input", func(b *proofBody) { b.Server = "" }},
		{"no cell", "bad input", func(b *proofBody) { b.Cell = "" }},
	} {
		b := good
		c.edit(&b)
		add(c.name, c.kind, envelope(t, o.domain, o.kind, encode(t, b), testKey(1)))
	}
	f := fields(t, good)
	f["nonce"] = p.Nonce[:31]
	add("nonce of 31 bytes", "bad input", envelope(t, o.domain, o.kind, encode(t, f), testKey(1)))
	return file
}

func openToken(data []byte) (*Token, error) {
	return OpenToken(data, testPeer(1), "calculator", "uid:1000", testNow)
}

func openProof(data []byte) (peer.ID, error) {
	return OpenProof(data, testPeer(2), hash32(7), "calculator", "uid:1000")
}

func TestTokenVectors(t *testing.T) {
	for _, v := range vectors(t, "token.json", tokenVectors(t)).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			_, err := openToken(v.bytes(t))
			v.check(t, err)
		})
	}
}

func TestProofVectors(t *testing.T) {
	for _, v := range vectors(t, "proof.json", proofVectors(t)).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			key, err := openProof(v.bytes(t))
			v.check(t, err)
			if err == nil && key != testPeer(1) {
				t.Errorf("signed by %s", key)
			}
		})
	}
}

func TestTokenRoundTrip(t *testing.T) {
	data, err := SealToken(testToken(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := openToken(data)
	if err != nil || !reflect.DeepEqual(*got, testToken()) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := OpenToken(data, testPeer(1), "calculator", "uid:1000", testNow.Add(cellproto.TokenTTL-time.Millisecond)); err != nil {
		t.Errorf("in its last millisecond: %v", err)
	}
	_, err = OpenToken(data, testPeer(1), "calculator", "uid:1000", testNow.Add(cellproto.TokenTTL))
	if cellproto.KindOf(err) != cellproto.Denied || cellproto.HintOf(err) == "" {
		t.Errorf("after it has expired: %v", err)
	}
	everyFlip(t, data, func(b []byte) error { _, err := openToken(b); return err })
	if _, err := SealToken(testToken(), testKey(2)); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("sealed for another server: %v", err)
	}
}

func TestProofRoundTrip(t *testing.T) {
	data, err := SealProof(testProof(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	everyFlip(t, data, func(b []byte) error { _, err := openProof(b); return err })
	if _, err := SealProof(Proof{}, testKey(1)); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

func TestNonces(t *testing.T) {
	s := NewNonces(2, time.Minute)
	a, b, c := NewNonce(), NewNonce(), NewNonce()
	if a == b || a == (Nonce{}) {
		t.Fatal("not random")
	}
	s.Add(a, testNow)
	if s.Use(b, testNow) {
		t.Error("never issued")
	}
	if !s.Use(a, testNow) || s.Use(a, testNow) {
		t.Error("not once")
	}
	s.Add(b, testNow)
	if s.Use(b, testNow.Add(time.Minute)) || s.Use(b, testNow) {
		t.Error("expired")
	}
	s.Add(a, testNow)
	s.Add(b, testNow)
	s.Add(c, testNow)
	if s.Use(a, testNow) || !s.Use(b, testNow) || !s.Use(c, testNow) {
		t.Error("full, the oldest is forgotten and no other")
	}
	for range 100 {
		s.Add(NewNonce(), testNow)
	}
	if len(s.until) != 2 {
		t.Errorf("%d kept", len(s.until))
	}
}

func FuzzOpenToken(f *testing.F) {
	fuzzOpen(f, tokenObject("", nil), tokenVectors(f).Vectors, func(data []byte) ([]byte, error) {
		tok, err := openToken(data)
		if err != nil {
			return nil, err
		}
		return SealToken(*tok, testKey(1))
	})
}

func FuzzOpenProof(f *testing.F) {
	fuzzOpen(f, proofObject("", nil), proofVectors(f).Vectors, func(data []byte) ([]byte, error) {
		if key, err := openProof(data); err != nil || key != testPeer(1) {
			return nil, err
		}
		return SealProof(testProof(), testKey(1))
	})
}
