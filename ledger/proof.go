package ledger

import (
	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// MaxProof is how many bytes a fork proof may have.
const MaxProof = 4 << 10

// maxChain bounds how often an identity whose fork can be proven has changed its keys.
const maxChain = 12

// ForkProof shows to anybody, who needs to know nothing else, that an identity has signed two different
// entries for one place in its log. Chain are the entries before that say whose signature counts:
// the genesis, the rotations, the changes of a pool's members.
type ForkProof struct {
	Chain []*KeyEntry
	A, B  *KeyEntry
}

const kindProof = 4

type proofWire struct {
	_       struct{} `cbor:",toarray"`
	V, Kind uint8
	Chain   []cbor.RawMessage
	A, B    cbor.RawMessage
}

// ID is whose log has forked.
func (p *ForkProof) ID() Key { return p.A.ID }

// Verify checks a proof by itself. Kinds: BadInput when it proves nothing, Corrupt for a false signature.
//
// The chain is not complete and need not be: a genesis is signed by the identity, a rotation by the key
// that was announced, new members by the old ones. So whoever has a key that was once in force can
// prove a fork; it has to be destroyed when it is replaced.
func (p *ForkProof) Verify() error {
	const op = "verify fork proof"
	a, b := p.A, p.B
	bodyA, err := a.Body()
	if err != nil {
		return err
	}
	bodyB, err := b.Body()
	if err != nil {
		return err
	}
	if a.Net != b.Net || a.ID != b.ID || a.Seq != b.Seq || bodyID(bodyA) == bodyID(bodyB) || len(p.Chain) > maxChain {
		return cellproto.Errorf(op, cellproto.BadInput, "these are not two entries for one place in a log")
	}
	auth := authority{key: a.ID}
	for i, e := range p.Chain {
		body, err := e.Body()
		if err != nil {
			return err
		}
		if e.Net != a.Net || e.ID != a.ID || e.Seq >= a.Seq || (i == 0) != (e.Seq == 0) || i > 0 && e.Seq <= p.Chain[i-1].Seq {
			return cellproto.Errorf(op, cellproto.BadInput, "the chain is not of this log, or not in order")
		}
		if err := auth.check(op, e, body); err != nil {
			return err
		}
		auth.follow(e.Payload)
	}
	if a.Seq > 0 && len(p.Chain) == 0 {
		return cellproto.Errorf(op, cellproto.BadInput, "the genesis is missing")
	}
	if err := auth.check(op, a, bodyA); err != nil {
		return err
	}
	return auth.check(op, b, bodyB)
}

// Encode gives the proof's bytes.
func (p *ForkProof) Encode() ([]byte, error) {
	const op = "encode fork proof"
	w := proofWire{V: version, Kind: kindProof, Chain: []cbor.RawMessage{}}
	raw := func(e *KeyEntry) (cbor.RawMessage, error) { return e.Encode() }
	for _, e := range p.Chain {
		data, err := raw(e)
		if err != nil {
			return nil, err
		}
		w.Chain = append(w.Chain, data)
	}
	var err error
	if w.A, err = raw(p.A); err != nil {
		return nil, err
	}
	if w.B, err = raw(p.B); err != nil {
		return nil, err
	}
	data, err := encode(&w)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if len(data) > MaxProof {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), MaxProof)
	}
	return data, nil
}

// DecodeProof reads a fork proof; it proves nothing before Verify. Kinds: TooLarge, BadInput, Unsupported.
func DecodeProof(data []byte) (*ForkProof, error) {
	const op = "decode fork proof"
	if len(data) > MaxProof {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), MaxProof)
	}
	var w proofWire
	if err := unlimited(op, data, &w); err != nil {
		return nil, err
	}
	if err := canonical(op, data, &w); err != nil {
		return nil, err
	}
	if err := checkHead(op, w.V, w.Kind, kindProof); err != nil {
		return nil, err
	}
	if len(w.Chain) > maxChain {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "a chain of %d entries, the limit is %d", len(w.Chain), maxChain)
	}
	p := &ForkProof{}
	for _, raw := range w.Chain {
		e, err := DecodeKeyEntry(raw)
		if err != nil {
			return nil, err
		}
		p.Chain = append(p.Chain, e)
	}
	var err error
	if p.A, err = DecodeKeyEntry(w.A); err != nil {
		return nil, err
	}
	if p.B, err = DecodeKeyEntry(w.B); err != nil {
		return nil, err
	}
	return p, nil
}
