package ledger

import (
	"crypto/ed25519"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// MaxPurpose is how many bytes a donor's words may have.
const MaxPurpose = 64

// Cheque is the total of what a donor has given to somebody, signed by the donor (an account, a pool's
// runner): a receipt without the work.
type Cheque struct {
	_       struct{} `cbor:",toarray"`
	V, Kind uint8    // set by SealCheque
	Net     Net
	Donor   Key // account or pool; its key log says which key signs
	To      Key // account or pool
	Epoch   uint32
	N       uint64 // donations
	Credit  uint64 // µWh, of all donations; what orders cheques of one register
	T       uint64 // ms since 1970: whether it is within a pool's budget goes by it, and which ones the donor has lost
	Purpose string // of the last donation
}

// SignedCheque is a cheque with its signature.
type SignedCheque struct {
	Cheque
	Sig Signature
}

type chequeWire struct {
	_    struct{} `cbor:",toarray"`
	Body *Cheque
	Sig  optional
}

// SealCheque signs c.
func SealCheque(c Cheque, key ed25519.PrivateKey) (*SignedCheque, error) {
	const op = "seal cheque"
	c.V, c.Kind = version, kindCheque
	if err := c.check(op); err != nil {
		return nil, err
	}
	body, err := encode(&c)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return &SignedCheque{Cheque: c, Sig: Sign(key, RoleDonor, body)}, nil
}

// Encode gives the entry's bytes.
func (s *SignedCheque) Encode() ([]byte, error) {
	data, err := encode(&chequeWire{Body: &s.Cheque, Sig: s.Sig[:]})
	if err != nil {
		return nil, cellproto.Errorf("encode cheque", cellproto.BadInput, "%w", err)
	}
	return data, nil
}

// DecodeCheque reads a cheque and gives the bytes of its body. It checks everything but the signature.
func DecodeCheque(data []byte) (s *SignedCheque, body []byte, err error) {
	const op = "decode cheque"
	if err := refuseLater(op, data); err != nil {
		return nil, nil, err
	}
	s = &SignedCheque{}
	w := chequeWire{Body: &s.Cheque}
	if err := decode(op, data, &w); err != nil {
		return nil, nil, err
	}
	if w.Body == nil || w.Sig == nil || !w.Sig.valid() {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "a body and a signature are wanted")
	}
	if err := s.check(op); err != nil {
		return nil, nil, err
	}
	s.Sig = Signature(w.Sig)
	return s, data[1 : len(data)-w.Sig.size()], nil
}

// VerifyCheque checks the signature against by, the key that signs for the donor: its own, or what its
// key log says. Kind: Corrupt.
func VerifyCheque(s *SignedCheque, body []byte, by Key) error {
	if !Verify(by, RoleDonor, body, s.Sig) {
		return badSignature("verify cheque", RoleDonor)
	}
	return nil
}

func (c *Cheque) check(op string) error {
	if err := checkHead(op, c.V, c.Kind, kindCheque); err != nil {
		return err
	}
	switch {
	case c.Donor == c.To:
		return cellproto.Errorf(op, cellproto.BadInput, "a gift to oneself")
	case c.Credit > maxCredit || c.N > maxMeter || c.T > maxMeter:
		return cellproto.Errorf(op, cellproto.BadInput, "a number is out of range")
	case len(c.Purpose) > MaxPurpose:
		return cellproto.Errorf(op, cellproto.TooLarge, "a purpose of %d bytes, the limit is %d", len(c.Purpose), MaxPurpose)
	case strings.ContainsFunc(c.Purpose, unprintable):
		return cellproto.Errorf(op, cellproto.BadInput, "the purpose has characters that could drive a terminal")
	}
	return nil
}

// unprintable refuses line ends too: these texts stand in tables.
func unprintable(r rune) bool { return cellproto.Unprintable(r) || r == '\n' || r == '\t' }
