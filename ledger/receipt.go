package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"

	"github.com/celldnet/celld/cellproto"
)

// Meter is what was used, since the register began. All fields only grow.
type Meter struct {
	_       struct{} `cbor:",toarray"`
	CPU     uint64   // ns of processor time
	Wall    uint64   // ns between request and reply
	GPU     uint64   // ns of a graphics processor
	RAM     uint64   // KiB x seconds
	In, Out uint64   // bytes
	Energy  uint64   // µWh, estimated as Receipt.Est says; for people, credit does not follow from it
}

// fields gives the meter's numbers in the order of the wire.
func (m *Meter) fields() [7]uint64 {
	return [7]uint64{m.CPU, m.Wall, m.GPU, m.RAM, m.In, m.Out, m.Energy}
}

// covers reports that no number in m is below that in old.
func (m *Meter) covers(old *Meter) bool {
	a, b := m.fields(), old.fields()
	for i := range a {
		if a[i] < b[i] {
			return false
		}
	}
	return true
}

// How the energy of a receipt was estimated (Receipt.Est).
const (
	EstRAPL  = 1 // the processor's own counter, times the share of its time
	EstGPU   = 2 // the graphics processor's own counter
	EstTDP   = 3 // thermal design power, times the share
	EstTable = 4 // the reference table
)

// Receipt is the total of what one host has given another: not of one call but of all since the
// register began, so that the newer one replaces the older and order and repetition do not matter. It
// is the body that both hosts sign.
type Receipt struct {
	_           struct{} `cbor:",toarray"`
	V, Kind     uint8    // set by Seal
	Net         Net
	Consumer    Key    // the host that called
	Provider    Key    // the host that served
	Beneficiary *Key   // whose the credit is, if not the provider's: an account or a pool; part of the register's name
	Epoch       uint32 // of the register
	N           uint64 // calls
	Credit      uint64 // µWh by the price table; what orders receipts of one register
	Meter       Meter
	Est         uint8
	MeterV      uint16 // version of the price table; one epoch has one
	T           uint64 // ms since 1970, for people, never for ordering
	Log         Hash   // LogHash over the calls
}

// Signed is a receipt with at least one of its two signatures.
type Signed struct {
	Receipt
	ConsumerSig, ProviderSig *Signature
}

// receiptWire is the entry: body and signatures.
type receiptWire struct {
	_        struct{} `cbor:",toarray"`
	Body     *Receipt
	Consumer optional
	Provider optional
}

// Body gives the exact bytes that are signed. Kinds: BadInput for a receipt that nobody may sign.
func (r *Receipt) Body() ([]byte, error) {
	const op = "encode receipt"
	r.V, r.Kind = version, kindReceipt
	if err := r.check(op); err != nil {
		return nil, err
	}
	return r.appendTo(make([]byte, 0, maxReceiptBody)), nil
}

// maxReceiptBody is more than any body has.
const maxReceiptBody = 256

// appendTo writes the body in its one form.
func (r *Receipt) appendTo(b []byte) []byte {
	const array = 4 << 5
	b = appendUint(append(b, array|14), uint64(r.V))
	b = appendUint(b, uint64(r.Kind))
	b = appendBytes(appendBytes(appendBytes(b, r.Net[:]), r.Consumer[:]), r.Provider[:])
	if r.Beneficiary != nil {
		b = appendBytes(b, r.Beneficiary[:])
	} else {
		b = append(b, null)
	}
	b = appendUint(appendUint(appendUint(b, uint64(r.Epoch)), r.N), r.Credit)
	b = append(b, array|7)
	for _, n := range r.Meter.fields() {
		b = appendUint(b, n)
	}
	b = appendUint(appendUint(appendUint(b, uint64(r.Est)), uint64(r.MeterV)), r.T)
	return appendBytes(b, r.Log[:])
}

const null = 0xf6

// SealReceipt signs r in the role of consumer or provider. Kinds: BadInput, Denied when the key is not
// the one that r names for the role.
func SealReceipt(r Receipt, key ed25519.PrivateKey, role Role) (*Signed, error) {
	const op = "seal receipt"
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	sig, s := Sign(key, role, body), &Signed{Receipt: r}
	switch k := KeyOf(key); {
	case role == RoleConsumer && k == r.Consumer:
		s.ConsumerSig = &sig
	case role == RoleProvider && k == r.Provider:
		s.ProviderSig = &sig
	default:
		return nil, cellproto.Errorf(op, cellproto.Denied, "the key %s is not that of its %s", k, role)
	}
	return s, nil
}

// Encode gives the entry's bytes, body and signatures.
func (s *Signed) Encode() ([]byte, error) {
	const op = "encode receipt"
	if s.ConsumerSig == nil && s.ProviderSig == nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "nobody has signed it")
	}
	s.V, s.Kind = version, kindReceipt
	if err := s.check(op); err != nil {
		return nil, err
	}
	b := s.appendTo(append(make([]byte, 0, maxReceiptBody+2*66), 0x83))
	return s.appendSigs(b), nil
}

func (s *Signed) appendSigs(b []byte) []byte {
	for _, sig := range []*Signature{s.ConsumerSig, s.ProviderSig} {
		if sig == nil {
			b = append(b, null)
		} else {
			b = appendBytes(b, sig[:])
		}
	}
	return b
}

// DecodeReceipt reads a receipt and gives the bytes of its body, a part of data. It checks everything
// but the signatures, for which there is VerifyReceipt. Kinds: TooLarge, BadInput, Unsupported.
func DecodeReceipt(data []byte) (s *Signed, body []byte, err error) {
	const op = "decode receipt"
	if err := refuseLater(op, data); err != nil {
		return nil, nil, err
	}
	s = &Signed{}
	w := receiptWire{Body: &s.Receipt}
	if err := unmarshal(op, data, &w); err != nil {
		return nil, nil, err
	}
	if w.Body == nil || !w.Consumer.valid() || !w.Provider.valid() || w.Consumer == nil && w.Provider == nil {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "a body and one or two signatures are wanted")
	}
	if w.Consumer != nil {
		s.ConsumerSig = (*Signature)(w.Consumer)
	}
	if w.Provider != nil {
		s.ProviderSig = (*Signature)(w.Provider)
	}
	var buf [maxReceiptBody + 2*66]byte
	if !bytes.Equal(s.appendSigs(s.appendTo(append(buf[:0], 0x83))), data) {
		return nil, nil, notCanonical(op)
	}
	if err := s.check(op); err != nil {
		return nil, nil, err
	}
	return s, data[1 : len(data)-w.Consumer.size()-w.Provider.size()], nil
}

// VerifyReceipt checks every signature that s has. Kind: Corrupt.
func VerifyReceipt(s *Signed, body []byte) error {
	const op = "verify receipt"
	if s.ConsumerSig != nil && !Verify(s.Consumer, RoleConsumer, body, *s.ConsumerSig) {
		return badSignature(op, RoleConsumer)
	}
	if s.ProviderSig != nil && !Verify(s.Provider, RoleProvider, body, *s.ProviderSig) {
		return badSignature(op, RoleProvider)
	}
	return nil
}

func (r *Receipt) check(op string) error {
	if err := checkHead(op, r.V, r.Kind, kindReceipt); err != nil {
		return err
	}
	bad := func(what string) error { return cellproto.Errorf(op, cellproto.BadInput, "%s", what) }
	switch {
	case r.Consumer == r.Provider:
		return bad("a host owes itself nothing")
	case r.Beneficiary != nil && (*r.Beneficiary == r.Provider || *r.Beneficiary == r.Consumer || *r.Beneficiary == Key{}):
		return bad("the beneficiary is one of the two hosts: that has to be null, or makes no sense")
	case r.Credit > maxCredit || r.N > maxMeter || r.T > maxMeter:
		return bad("a number is out of range")
	case r.Est < EstRAPL || r.Est > EstTable:
		return bad("an unknown way of estimating energy")
	case r.MeterV == 0:
		return bad("price tables are numbered from 1")
	}
	for _, n := range r.Meter.fields() {
		if n > maxMeter {
			return bad("a meter is out of range")
		}
	}
	return nil
}

// Call is one call, as it goes into the running hash of a register. Both sides keep their calls for as
// long as they like; who has them all can show that they make the total.
type Call struct {
	_      struct{} `cbor:",toarray"`
	N      uint64   // which call of the register
	Fn     string   // function, at most cellproto.MaxFuncName bytes
	Meter  Meter    // of this call alone
	Credit uint64   // of this call alone
}

// LogHash gives the running hash of a register after one more call; that of an empty register is zero.
func LogHash(before Hash, c *Call) (Hash, error) {
	b, err := encode(c)
	if err != nil {
		return Hash{}, cellproto.Errorf("hash call", cellproto.BadInput, "%w", err)
	}
	return sha256.Sum256(append(append(make([]byte, 0, len(before)+len(b)), before[:]...), b...)), nil
}
