package signed

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/celldnet/celld/cellproto"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
)

// version is the "v" of all objects.
const version = 1

// The domains of the signatures and the payload types of the envelopes. Both are under the signature.
const (
	domainManifest = "cell/manifest/1"
	domainAdvert   = "cell/advert/1"
	domainToken    = "cell/token/1"
	domainProof    = "cell/auth/1"
	domainQuestion = "cell/callers/1"

	typeManifest = "/cell/manifest"
	typeAdvert   = "/cell/advert"
	typeToken    = "/cell/token"
	typeProof    = "/cell/auth"
	typeQuestion = "/cell/callers"
)

// object is the payload of a libp2p envelope: body is a pointer to its fields.
type object struct {
	op, domain, kind string
	body             any
}

var _ record.Record = object{}

func (o object) Domain() string                 { return o.domain }
func (o object) Codec() []byte                  { return []byte(o.kind) }
func (o object) MarshalRecord() ([]byte, error) { return encMode.Marshal(o.body) }
func (o object) UnmarshalRecord(b []byte) error { return decode(o.op, b, o.body) }

// seal signs o and gives the marshalled envelope, at most limit bytes.
func (o object) seal(key crypto.PrivKey, limit int) ([]byte, error) {
	if err := checkKey(o.op, key.GetPublic()); err != nil {
		return nil, err
	}
	env, err := record.Seal(o, key)
	if err != nil {
		return nil, cellproto.Errorf(o.op, cellproto.Failed, "%w", err)
	}
	data, err := env.Marshal()
	if err != nil {
		return nil, cellproto.Errorf(o.op, cellproto.Failed, "%w", err)
	}
	if len(data) > limit {
		return nil, cellproto.Errorf(o.op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), limit)
	}
	return data, nil
}

// open checks a marshalled envelope and decodes its payload into o.body, the signature before the
// payload. It gives who signed. Kinds: TooLarge, BadInput for what is malformed, Unsupported for
// other keys than Ed25519 and later versions, Corrupt for a false signature.
func (o object) open(data []byte, limit int) (peer.ID, error) {
	if len(data) > limit {
		return "", cellproto.Errorf(o.op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), limit)
	}
	env, err := record.UnmarshalEnvelope(data)
	if err != nil {
		return "", cellproto.Errorf(o.op, cellproto.BadInput, "not an envelope: %w", err)
	}
	if err := checkKey(o.op, env.PublicKey); err != nil {
		return "", err
	}
	if !bytes.Equal(env.PayloadType, o.Codec()) {
		return "", cellproto.Errorf(o.op, cellproto.BadInput, "the envelope holds %.80q, not %q", env.PayloadType, o.kind)
	}
	// Protocol buffers can spell one message in many ways, and what is not under the signature
	// (unknown fields, the order) anybody could change.
	if again, err := env.Marshal(); err != nil || !bytes.Equal(again, data) {
		return "", cellproto.Errorf(o.op, cellproto.BadInput, "the envelope is not in its one canonical form")
	}
	if _, err := record.ConsumeTypedEnvelope(data, o); err != nil {
		var e *cellproto.Error
		switch {
		case errors.As(err, &e):
			return "", e
		case errors.Is(err, record.ErrInvalidSignature):
			return "", cellproto.Errorf(o.op, cellproto.Corrupt, "the signature is false")
		}
		return "", cellproto.Errorf(o.op, cellproto.BadInput, "%w", err)
	}
	return peerOf(o.op, env.PublicKey)
}

// preimage is what a libp2p envelope signs (libp2p specification, RFC 0002): domain, payload type
// and payload, each after its length as an unsigned varint. The manifest needs it by itself, because
// its payload stands in its block as CBOR, where IPLD can walk it, and not in an envelope.
func preimage(domain, kind string, payload []byte) []byte {
	b := make([]byte, 0, len(domain)+len(kind)+len(payload)+3*binary.MaxVarintLen32)
	b = append(binary.AppendUvarint(b, uint64(len(domain))), domain...)
	b = append(binary.AppendUvarint(b, uint64(len(kind))), kind...)
	return append(binary.AppendUvarint(b, uint64(len(payload))), payload...)
}

// checkKey refuses other keys than Ed25519: those alone sign the same bytes in one way only, so that
// sealing twice gives one CID and nobody can make a second signature out of a first.
func checkKey(op string, key crypto.PubKey) error {
	if key.Type() != crypto.Ed25519 {
		return cellproto.Errorf(op, cellproto.Unsupported, "a key of type %s; only Ed25519 signs", key.Type())
	}
	return nil
}

func peerOf(op string, key crypto.PubKey) (peer.ID, error) {
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return id, nil
}

// parsePeer reads a peer ID in its base58 text, the only one of its spellings that is allowed here.
func parsePeer(text string) (peer.ID, error) {
	if len(text) > maxSubject {
		return "", errors.New("too long for a peer ID")
	}
	id, err := peer.Decode(text)
	if err != nil {
		return "", err
	}
	if id.String() != text {
		return "", errors.New("not the base58 form of a peer ID")
	}
	return id, nil
}
