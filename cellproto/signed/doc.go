// Package signed is the wire form of what carries a signature: the manifest of a published cell, a
// provider's advert, and the token and the proof with which a caller shows who it is.
//
// It owns their fields, their bytes, what is checked before they are believed, and the small rules
// that go with them: which advert is the newer one (Newest) and that a challenge is used once
// (Nonces). It neither stores nor sends anything, holds no keys, and is told the time.
//
// Every object is canonical CBOR (RFC 8949, 4.2.1: core deterministic) in which all fields are
// present, so that one content has one spelling and one hash; what is spelled otherwise is refused,
// and so is a field that this version does not know. Signatures are Ed25519 over libp2p's signed
// envelope, with a domain for each kind of object: nothing that was signed as one can be shown as another.
package signed
