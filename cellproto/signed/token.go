package signed

import (
	"fmt"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Token is what a nucleus gives a caller that has proven a key, for the caller to show with its
// requests. It is of use to the subject alone, with the server that issued it, for one cell.
type Token struct {
	Server  peer.ID   // who issued it; its host key signs
	Cell    string    // the cell's name, or its manifest's CID as text: whatever the server calls it
	Subject string    // whom it is bound to: a peer ID, or "uid:1000" on a Unix socket
	Key     peer.ID   // the peer ID of the key that was proven
	Issued  time.Time // whole ms
	Expires time.Time // at most TokenTTL after Issued
}

type tokenBody struct {
	V       uint64 `cbor:"v"`
	Server  string `cbor:"server"`
	Cell    string `cbor:"cell"`
	Subject string `cbor:"subject"`
	Key     string `cbor:"key"`
	Issued  int64  `cbor:"issued"`
	Expires int64  `cbor:"expires"`
}

// SubjectUID is the subject of a caller on a Unix socket, by the uid that the kernel vouches for.
func SubjectUID(uid uint32) string { return fmt.Sprintf("uid:%d", uid) }

// SealToken signs t with the host key of t.Server, which it fills in if empty. Kinds: BadInput, TooLarge
// for MaxToken, Denied for another server's key.
func SealToken(t Token, key crypto.PrivKey) ([]byte, error) {
	const op = "seal token"
	self, err := peerOf(op, key.GetPublic())
	if err != nil {
		return nil, err
	}
	if t.Server == "" {
		t.Server = self
	}
	if t.Server != self {
		return nil, cellproto.Errorf(op, cellproto.Denied, "the token is of %s, the key of %s", t.Server, self)
	}
	b := tokenBody{
		V: version, Server: t.Server.String(), Cell: t.Cell, Subject: t.Subject, Key: t.Key.String(),
		Issued: t.Issued.UnixMilli(), Expires: t.Expires.UnixMilli(),
	}
	if _, err := b.token(op); err != nil {
		return nil, err
	}
	return tokenObject(op, &b).seal(key, cellproto.MaxToken)
}

// OpenToken checks a token that subject has shown to server for cell. Denied: it is another server's,
// cell's or subject's, has expired, or is from the future by more than MaxClockSkew (the server's own
// clock was set back); the caller has to prove its key again. Else the kinds of every envelope.
func OpenToken(data []byte, server peer.ID, cell, subject string, now time.Time) (*Token, error) {
	const op = "open token"
	t, signer, err := parseToken(op, data)
	if err != nil {
		return nil, err
	}
	denied := func(format string, args ...any) error {
		return cellproto.Errorf(op, cellproto.Denied, format, args...).WithHint("Prove the key again for a new token.")
	}
	switch {
	case signer != server || t.Server != server:
		return nil, denied("it was issued by another server")
	case t.Cell != cell:
		return nil, denied("it is for another cell, %q", t.Cell)
	case t.Subject != subject:
		return nil, denied("it is bound to %s", t.Subject)
	case !now.Before(t.Expires):
		return nil, denied("it expired at %s", utc(t.Expires))
	case t.Issued.After(now.Add(cellproto.MaxClockSkew)):
		return nil, denied("it was issued in the future, at %s", utc(t.Issued))
	}
	return t, nil
}

// ReadToken reads a token that its server has just given, to know how long it holds. It is the server
// who checks it; the kinds are those of every envelope.
func ReadToken(data []byte) (*Token, error) {
	t, _, err := parseToken("read token", data)
	return t, err
}

func parseToken(op string, data []byte) (t *Token, signer peer.ID, err error) {
	var b tokenBody
	if signer, err = tokenObject(op, &b).open(data, cellproto.MaxToken); err != nil {
		return nil, "", err
	}
	t, err = b.token(op)
	return t, signer, err
}

func tokenObject(op string, b *tokenBody) object {
	return object{op: op, domain: domainToken, kind: typeToken, body: b}
}

func (b *tokenBody) token(op string) (*Token, error) {
	server, errServer := parsePeer(b.Server)
	key, errKey := parsePeer(b.Key)
	for _, f := range []struct {
		name string
		err  error
	}{
		{"v", checkV(b.V)},
		{"server", errServer},
		{"cell", checkWord(b.Cell)},
		{"subject", checkWord(b.Subject)},
		{"key", errKey},
		{"issued", checkInt(b.Issued, 1)},
		{"expires", checkSpan(b.Issued, b.Expires, cellproto.TokenTTL)},
	} {
		if f.err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%s: %w", f.name, f.err)
		}
	}
	return &Token{
		Server: server, Cell: b.Cell, Subject: b.Subject, Key: key,
		Issued: time.UnixMilli(b.Issued), Expires: time.UnixMilli(b.Expires),
	}, nil
}

// checkWord allows a text that is one word of ASCII: names, CIDs and peer IDs are.
func checkWord(s string) error {
	if len(s) < 1 || len(s) > maxSubject {
		return fmt.Errorf("%d bytes; it has to be 1 to %d", len(s), maxSubject)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("%q is not one word of ASCII", s)
		}
	}
	return nil
}
