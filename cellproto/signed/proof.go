package signed

import (
	"github.com/celldnet/celld/cellproto"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Proof is what a caller signs to show that it has a key: the server's challenge, with all that would
// make it of use elsewhere. It holds no time: the nonce is good for once, and not for long.
type Proof struct {
	Server  peer.ID // whose challenge it is
	Nonce   Nonce   // from the server's hello
	Cell    string  // as in Token
	Subject string  // as in Token: as whom the caller has connected
}

type proofBody struct {
	V       uint64 `cbor:"v"`
	Server  string `cbor:"server"`
	Nonce   Nonce  `cbor:"nonce"`
	Cell    string `cbor:"cell"`
	Subject string `cbor:"subject"`
}

// SealProof signs p with the key that is to be proven. Kinds: BadInput, TooLarge for MaxToken.
func SealProof(p Proof, key crypto.PrivKey) ([]byte, error) {
	const op = "seal proof"
	b := proofBody{V: version, Server: p.Server.String(), Nonce: p.Nonce, Cell: p.Cell, Subject: p.Subject}
	if err := b.check(op); err != nil {
		return nil, err
	}
	return proofObject(op, &b).seal(key, cellproto.MaxToken)
}

// OpenProof checks a proof that subject has given to server for cell in answer to nonce, and gives the
// peer ID of the key that signed it. Denied: it answers something else. Else the kinds of every
// envelope. That the nonce was issued, and is used once, is for Nonces: ask it first.
func OpenProof(data []byte, server peer.ID, nonce Nonce, cell, subject string) (peer.ID, error) {
	const op = "open proof"
	var b proofBody
	signer, err := proofObject(op, &b).open(data, cellproto.MaxToken)
	if err != nil {
		return "", err
	}
	if err := b.check(op); err != nil {
		return "", err
	}
	want := proofBody{V: version, Server: server.String(), Nonce: nonce, Cell: cell, Subject: subject}
	if b != want {
		return "", cellproto.Errorf(op, cellproto.Denied, "it answers another challenge").
			WithHint("Ask for a new challenge and sign that.")
	}
	return signer, nil
}

func proofObject(op string, b *proofBody) object {
	return object{op: op, domain: domainProof, kind: typeProof, body: b}
}

func (b *proofBody) check(op string) error {
	for _, f := range []struct {
		name string
		err  error
	}{
		{"v", checkV(b.V)},
		{"server", checkPeer(b.Server)},
		{"cell", checkWord(b.Cell)},
		{"subject", checkWord(b.Subject)},
	} {
		if f.err != nil {
			return cellproto.Errorf(op, cellproto.BadInput, "%s: %w", f.name, f.err)
		}
	}
	return nil
}
