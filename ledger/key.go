package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"

	"github.com/celldnet/celld/cellproto"
	"github.com/hdevalence/ed25519consensus"
)

// Key is an Ed25519 public key: of a host, an account or a pool.
type Key [32]byte

// String gives the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// KeyOf gives the public half of an Ed25519 key.
func KeyOf(key ed25519.PrivateKey) (k Key) {
	copy(k[:], key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	return k
}

// Net names a network: a receipt of one is void in another.
type Net [4]byte

// NetOf gives the id of the network with this name, as in cell.toml.
func NetOf(name string) (n Net) {
	sum := sha256.Sum256([]byte("cell/ledger/net/" + name))
	copy(n[:], sum[:])
	return n
}

// Hash is a SHA2-256: of an entry's body, of a key, of a log.
type Hash [32]byte

// cidPrefix is what stands before the hash in the binary form of a CIDv1 of dag-cbor by sha2-256 of 32 bytes.
var cidPrefix = []byte{0x01, 0x71, 0x12, 0x20}

// CID gives the hash of an entry's body as the CID under which IPFS would have the body as a block.
func (h Hash) CID() string {
	const lower = "abcdefghijklmnopqrstuvwxyz234567" // multibase "b"
	return "b" + base32.NewEncoding(lower).WithPadding(base32.NoPadding).EncodeToString(append(cidPrefix[:4:4], h[:]...))
}

// Signature is an Ed25519 signature.
type Signature [64]byte

// Role says as what a key signs; it is under the signature, so that what was signed as one thing
// cannot be shown as another.
type Role string

// The roles. RoleHead is for what neighbours tell each other of their own publications.
const (
	RoleConsumer Role = "receipt/consumer"
	RoleProvider Role = "receipt/provider"
	RoleDonor    Role = "donate"
	RoleKey      Role = "key"
	RoleHost     Role = "delegate" // a host agrees to belong to an account
	RoleHead     Role = "head"
)

// domain is that of all signatures of the ledger.
const domain = "cell/ledger/1"

// Preimage gives what is signed: domain, role and body, each after its length as an unsigned varint
// (libp2p specification, RFC 0002, signed envelopes).
func Preimage(role Role, body []byte) []byte {
	b := make([]byte, 0, len(domain)+len(role)+len(body)+3*binary.MaxVarintLen16)
	b = append(binary.AppendUvarint(b, uint64(len(domain))), domain...)
	b = append(binary.AppendUvarint(b, uint64(len(role))), role...)
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// Sign signs the exact bytes of a body. RFC 8032 makes it deterministic: signing twice gives one signature.
func Sign(key ed25519.PrivateKey, role Role, body []byte) (s Signature) {
	copy(s[:], ed25519.Sign(key, Preimage(role, body)))
	return s
}

// Verify checks a signature by the rules of ZIP-215, which say of every input whether it is valid, so
// that all programs, and batches of signatures, agree on it.
func Verify(key Key, role Role, body []byte, s Signature) bool {
	return ed25519consensus.Verify(key[:], Preimage(role, body), s[:])
}

// badSignature is the error for a signature that is false.
func badSignature(op string, role Role) error {
	return cellproto.Errorf(op, cellproto.Corrupt, "the signature as %s is false", role)
}
