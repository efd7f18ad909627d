package ledger

import (
	"crypto/ed25519"

	"github.com/celldnet/celld/cellproto"
)

// kindHead is what a host says of its own publications.
const kindHead = 5

// Head is how far a host has numbered what it publishes. A neighbour that has read less asks for the rest.
type Head struct {
	_       struct{} `cbor:",toarray"`
	V, Kind uint8    // set by SealHead
	Net     Net
	Host    Key
	Next    uint64 // the number that its next publication gets
	T       uint64 // ms since 1970, for people
}

type headWire struct {
	_    struct{} `cbor:",toarray"`
	Body *Head
	Sig  optional
}

// SealHead signs h and gives its bytes.
func SealHead(h Head, key ed25519.PrivateKey) ([]byte, error) {
	const op = "seal head"
	h.V, h.Kind = version, kindHead
	if err := h.check(op); err != nil {
		return nil, err
	}
	body, err := encode(&h)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	sig := Sign(key, RoleHead, body)
	data, err := encode(&headWire{Body: &h, Sig: sig[:]})
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return data, nil
}

// DecodeHead reads a head; what it says is nothing before verify has given nil. Kinds: TooLarge, BadInput,
// Unsupported; of verify: Corrupt.
func DecodeHead(data []byte) (h *Head, verify func() error, err error) {
	const op = "decode head"
	if err := refuseLater(op, data); err != nil {
		return nil, nil, err
	}
	w := headWire{Body: &Head{}}
	if err := decode(op, data, &w); err != nil {
		return nil, nil, err
	}
	if w.Body == nil || w.Sig == nil || !w.Sig.valid() {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "a body and a signature are wanted")
	}
	h = w.Body
	if err := h.check(op); err != nil {
		return nil, nil, err
	}
	return h, func() error {
		body, err := encode(h)
		if err != nil {
			return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
		}
		if !Verify(h.Host, RoleHead, body, Signature(w.Sig)) {
			return badSignature("verify head", RoleHead)
		}
		return nil
	}, nil
}

func (h *Head) check(op string) error {
	if err := checkHead(op, h.V, h.Kind, kindHead); err != nil {
		return err
	}
	if h.T > maxMeter {
		return cellproto.Errorf(op, cellproto.BadInput, "a number is out of range")
	}
	return nil
}
