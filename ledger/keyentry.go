package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"strings"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// Limits on a pool: all that its members sign has to fit in one entry.
const (
	MaxMembers  = 10
	maxCellName = 63
)

// Payload is what a key-log entry says. It is one of the types below.
type Payload interface {
	kind() uint8
	check() string // what is wrong with it, or ""
}

// Genesis begins a log. Its signer is the identity: the log's ID is the key. Next is the hash of the key
// that will replace it, kept elsewhere: a thief of the first cannot make the second.
type Genesis struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
	Next Hash
}

// Rotate replaces the key in force by the one whose hash was given before; that one signs.
type Rotate struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
	Key  Key
	Next Hash
}

// Delegate makes a host one of the account's: what the host gave and took is the account's from now on.
// The host has signed that it agrees (SignConsent), so that nobody can claim another's host.
type Delegate struct {
	_        struct{} `cbor:",toarray"`
	Type     uint8
	Host     Key
	Cell     string // the name of its cell, for people
	NotAfter uint64 // ms since 1970
	Consent  Signature
}

// Revoke ends a delegation: what the host signs after that is refused. What it gave and took remains.
type Revoke struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
	Host Key
}

// PoolMembers makes the identity a pool: from the next entry on T of Keys sign, more than half.
type PoolMembers struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
	Keys []Key // ascending
	T    uint8
}

// RunnerBudget lets one key sign the pool's cheques until they add up to Budget. A later one replaces
// it; Budget counts from the pool's beginning.
type RunnerBudget struct {
	_        struct{} `cbor:",toarray"`
	Type     uint8
	Runner   Key
	Budget   uint64 // µWh, of all cheques of the pool
	NotAfter uint64 // ms since 1970
}

// Checkpoint commits to the state of the log before it (KeyState.Digest): whoever has the state and
// this entry needs none of the entries before.
type Checkpoint struct {
	_     struct{} `cbor:",toarray"`
	Type  uint8
	State Hash
}

// Heal says that a host has lost what it knew of its registers, as by an old backup, and counts on in a
// new epoch: older ones stay as its counterparties have them.
type Heal struct {
	_     struct{} `cbor:",toarray"`
	Type  uint8
	Host  Key
	Epoch uint32 // the lowest that the host uses from now on
}

// The types of payload, the first field of each.
const (
	typeGenesis = iota + 1
	typeRotate
	typeDelegate
	typeRevoke
	typePoolMembers
	typeRunnerBudget
	typeCheckpoint
	typeHeal
)

func (*Genesis) kind() uint8      { return typeGenesis }
func (*Rotate) kind() uint8       { return typeRotate }
func (*Delegate) kind() uint8     { return typeDelegate }
func (*Revoke) kind() uint8       { return typeRevoke }
func (*PoolMembers) kind() uint8  { return typePoolMembers }
func (*RunnerBudget) kind() uint8 { return typeRunnerBudget }
func (*Checkpoint) kind() uint8   { return typeCheckpoint }
func (*Heal) kind() uint8         { return typeHeal }

func (*Genesis) check() string    { return "" }
func (*Rotate) check() string     { return "" }
func (*Revoke) check() string     { return "" }
func (*Checkpoint) check() string { return "" }

func (p *Delegate) check() string {
	if p.Cell == "" || len(p.Cell) > maxCellName || strings.ContainsFunc(p.Cell, unprintable) || p.NotAfter > maxMeter {
		return "the cell's name is empty or too long, or the time is out of range"
	}
	return ""
}

func (p *PoolMembers) check() string {
	if n := len(p.Keys); n == 0 || n > MaxMembers || int(p.T) > n || 2*int(p.T) <= n {
		return "a pool has 1 to 10 members, and more than half of them sign"
	}
	for i := 1; i < len(p.Keys); i++ {
		if bytes.Compare(p.Keys[i-1][:], p.Keys[i][:]) >= 0 {
			return "the members are not in ascending order, or one is there twice"
		}
	}
	return ""
}

func (p *RunnerBudget) check() string {
	if p.Budget > maxCredit || p.NotAfter > maxMeter {
		return "a number is out of range"
	}
	return ""
}

func (p *Heal) check() string {
	if p.Epoch == 0 {
		return "epochs before 0 do not exist"
	}
	return ""
}

// newPayload gives an empty payload of a type, with the type set, or nil.
func newPayload(kind uint8) Payload {
	switch kind {
	case typeGenesis:
		return &Genesis{}
	case typeRotate:
		return &Rotate{}
	case typeDelegate:
		return &Delegate{}
	case typeRevoke:
		return &Revoke{}
	case typePoolMembers:
		return &PoolMembers{}
	case typeRunnerBudget:
		return &RunnerBudget{}
	case typeCheckpoint:
		return &Checkpoint{}
	case typeHeal:
		return &Heal{}
	}
	return nil
}

// setType fills in the first field, which people who make a payload leave out.
func setType(p Payload) {
	switch p := p.(type) {
	case *Genesis:
		p.Type = p.kind()
	case *Rotate:
		p.Type = p.kind()
	case *Delegate:
		p.Type = p.kind()
	case *Revoke:
		p.Type = p.kind()
	case *PoolMembers:
		p.Type = p.kind()
	case *RunnerBudget:
		p.Type = p.kind()
	case *Checkpoint:
		p.Type = p.kind()
	case *Heal:
		p.Type = p.kind()
	}
}

// KeyEntry is one entry of an identity's key log.
type KeyEntry struct {
	Net     Net
	ID      Key // whose log it is
	Seq     uint64
	Prev    Hash // the body of the entry before; zero for the first
	T       uint64
	Payload Payload
	Sigs    []KeySig // ascending; one, of index 0, but for pools

	body []byte // what is signed
}

// KeySig is the signature of a member of a pool, or of the key in force.
type KeySig struct {
	_     struct{} `cbor:",toarray"`
	Index uint8    // among the pool's members
	Sig   Signature
}

type keyBody struct {
	_       struct{} `cbor:",toarray"`
	V, Kind uint8
	Net     Net
	ID      Key
	Seq     uint64
	Prev    Hash
	T       uint64
	Payload cbor.RawMessage
}

type keyWire struct {
	_    struct{} `cbor:",toarray"`
	Body keyBody
	Sigs []KeySig
}

// Body gives the exact bytes that are signed.
func (e *KeyEntry) Body() ([]byte, error) {
	const op = "encode key entry"
	if e.body != nil {
		return e.body, nil
	}
	setType(e.Payload)
	if err := e.check(op); err != nil {
		return nil, err
	}
	payload, err := encode(e.Payload)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	b := keyBody{V: version, Kind: kindKey, Net: e.Net, ID: e.ID, Seq: e.Seq, Prev: e.Prev, T: e.T, Payload: payload}
	if e.body, err = encode(&b); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return e.body, nil
}

// Hash gives the identity of the entry: the next one's Prev.
func (e *KeyEntry) Hash() (Hash, error) {
	body, err := e.Body()
	if err != nil {
		return Hash{}, err
	}
	return bodyID(body), nil
}

// Sign adds the signature of the key in force, as index 0, or of the member of a pool with that index.
// A caller that is a nucleus has written the entry to its Store before the signature leaves the process.
func (e *KeyEntry) Sign(key ed25519.PrivateKey, index uint8) error {
	body, err := e.Body()
	if err != nil {
		return err
	}
	at := 0
	for at < len(e.Sigs) && e.Sigs[at].Index < index {
		at++
	}
	if at == len(e.Sigs) || e.Sigs[at].Index != index {
		e.Sigs = append(e.Sigs[:at:at], append([]KeySig{{Index: index}}, e.Sigs[at:]...)...)
	}
	e.Sigs[at].Sig = Sign(key, RoleKey, body)
	return nil
}

// Encode gives the entry's bytes. Kinds: BadInput, TooLarge.
func (e *KeyEntry) Encode() ([]byte, error) {
	const op = "encode key entry"
	body, err := e.Body()
	if err != nil {
		return nil, err
	}
	if err := e.checkSigs(op); err != nil {
		return nil, err
	}
	sigs, err := encode(e.Sigs)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	data := append(append([]byte{0x82}, body...), sigs...)
	if len(data) > cellproto.MaxLedgerEntry {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxLedgerEntry)
	}
	return data, nil
}

// DecodeKeyEntry reads an entry and checks what can be checked without its log; KeyState.Apply does the
// rest. Kinds: TooLarge, BadInput, Unsupported.
func DecodeKeyEntry(data []byte) (*KeyEntry, error) {
	const op = "decode key entry"
	if err := refuseLater(op, data); err != nil {
		return nil, err
	}
	var w keyWire
	if err := decode(op, data, &w); err != nil {
		return nil, err
	}
	b := &w.Body
	if err := checkHead(op, b.V, b.Kind, kindKey); err != nil {
		return nil, err
	}
	if len(b.Payload) < 2 {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "no payload")
	}
	e := &KeyEntry{Net: b.Net, ID: b.ID, Seq: b.Seq, Prev: b.Prev, T: b.T, Payload: newPayload(b.Payload[1]), Sigs: w.Sigs}
	if e.Payload == nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "an unknown payload")
	}
	if err := decode(op, b.Payload, e.Payload); err != nil {
		return nil, err
	}
	if err := e.check(op); err != nil {
		return nil, err
	}
	if err := e.checkSigs(op); err != nil {
		return nil, err
	}
	// The signatures end the entry, and the list of them has a head of one byte, each of 68.
	e.body = data[1 : len(data)-1-len(e.Sigs)*68]
	return e, nil
}

func (e *KeyEntry) check(op string) error {
	if e.Seq > maxMeter || e.T > maxMeter || (e.Seq == 0) != (e.Prev == Hash{}) || (e.Seq == 0) != (e.Payload.kind() == typeGenesis) {
		return cellproto.Errorf(op, cellproto.BadInput, "the first entry, and it alone, is a genesis without one before")
	}
	if why := e.Payload.check(); why != "" {
		return cellproto.Errorf(op, cellproto.BadInput, "%s", why)
	}
	return nil
}

func (e *KeyEntry) checkSigs(op string) error {
	if len(e.Sigs) == 0 || len(e.Sigs) > MaxMembers {
		return cellproto.Errorf(op, cellproto.BadInput, "%d signatures", len(e.Sigs))
	}
	for i, s := range e.Sigs {
		if s.Index >= MaxMembers || i > 0 && s.Index <= e.Sigs[i-1].Index {
			return cellproto.Errorf(op, cellproto.BadInput, "the signatures are not in the order of the members")
		}
	}
	return nil
}

// HashKey gives the commitment to a key that is not yet in use (Genesis.Next).
func HashKey(k Key) Hash { return sha256.Sum256(k[:]) }

// consent is what a host signs when it becomes an account's.
type consent struct {
	_        struct{} `cbor:",toarray"`
	Net      Net
	ID, Host Key
	Cell     string
	NotAfter uint64
}

// SignConsent signs, as the host, that it belongs to the account id from now on.
func (p *Delegate) SignConsent(net Net, id Key, host ed25519.PrivateKey) error {
	body, err := p.consentBody(net, id)
	if err != nil {
		return err
	}
	p.Consent = Sign(host, RoleHost, body)
	return nil
}

func (p *Delegate) consentBody(net Net, id Key) ([]byte, error) {
	body, err := encode(&consent{Net: net, ID: id, Host: p.Host, Cell: p.Cell, NotAfter: p.NotAfter})
	if err != nil {
		return nil, cellproto.Errorf("encode consent", cellproto.BadInput, "%w", err)
	}
	return body, nil
}

// Consented says whether the host has signed that it belongs to the account id.
func (p *Delegate) Consented(net Net, id Key) bool {
	body, err := p.consentBody(net, id)
	return err == nil && Verify(p.Host, RoleHost, body, p.Consent)
}
