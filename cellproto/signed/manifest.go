package signed

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multihash"
)

// Manifest describes one published version of a cell. Its block's CID is the cell's ID.
type Manifest struct {
	V          uint64                 `cbor:"v" json:"v"`                                     // 1
	Name       string                 `cbor:"name" json:"name"`                               // as in cell.toml
	Version    string                 `cbor:"version" json:"version"`                         // semver
	Owner      cellproto.PeerID       `cbor:"owner" json:"owner"`                             // the account whose key signs
	Created    int64                  `cbor:"created" json:"created"`                         // Unix time in ms
	Prev       Link                   `cbor:"prev" json:"prev"`                               // the version before, or none
	Schema     Link                   `cbor:"schema" json:"schema"`                           // a block with the canonical JSON, or none
	SchemaHash cellproto.SchemaHash   `cbor:"schema_hash" json:"schema_hash"`                 // zero: no schema
	Accepted   []cellproto.SchemaHash `cbor:"accepted" json:"accepted"`                       // schemas that callers may hold, ascending
	Artefacts  []Artefact             `cbor:"artefacts" json:"artefacts"`                     // by os, then arch, ascending
	Source     *Source                `cbor:"source" json:"source"`                           // or none
	Speaks     string                 `cbor:"speaks,omitempty" json:"speaks,omitempty"`       // as in cell.toml; "": frames, which is never written
	Challenge  string                 `cbor:"challenge,omitempty" json:"challenge,omitempty"` // none or sig; "": simple, which is never written
	Alone      Alone                  `cbor:"alone,omitempty" json:"alone,omitempty"`         // why nobody copies it unasked; "": one may, which is never written
	Resources  Resources              `cbor:"resources" json:"resources"`
	SLO        SLO                    `cbor:"slo" json:"slo"`
	Privacy    string                 `cbor:"privacy" json:"privacy"` // placement: public, friends or local
	License    string                 `cbor:"license" json:"license"` // SPDX expression, or ""
}

// Alone is why no copy of a cell is made unless somebody asks for it.
type Alone string

// The reasons.
const (
	AloneOwner Alone = "owner" // its owner wants none
	AloneCalls Alone = "calls" // it calls other cells, and the nucleus of a copy makes no calls for it
	AloneState Alone = "state" // it keeps state, or may, and a copy begins without
)

// String says it for people; "" for none.
func (a Alone) String() string {
	switch a {
	case AloneOwner:
		return "its owner wants no copies made unasked"
	case AloneCalls:
		return "it calls other cells, which a copy cannot"
	case AloneState:
		return "it keeps state that a copy would not have"
	}
	return string(a)
}

// Artefact is the program for one platform.
type Artefact struct {
	OS     string `cbor:"os" json:"os"`     // GOOS
	Arch   string `cbor:"arch" json:"arch"` // GOARCH, with a variant behind '-' where it matters: mipsle-softfloat
	CID    Link   `cbor:"cid" json:"cid"`   // UnixFS
	Size   int64  `cbor:"size" json:"size"` // bytes of the file
	BLAKE3 Digest `cbor:"blake3" json:"blake3"`
}

// Source says what to build where no artefact fits.
type Source struct {
	Repo   string `cbor:"repo" json:"repo"`     // https URL; file only on one machine
	Ref    string `cbor:"ref" json:"ref"`       // tag or branch, for people
	Commit string `cbor:"commit" json:"commit"` // 40 or 64 hexadecimal digits; "" is not pinned, and nobody should build it
	Build  string `cbor:"build" json:"build"`   // command, or ""
}

// Resources is what one instance needs.
type Resources struct {
	CPUMilli    int64  `cbor:"cpu_milli" json:"cpu_milli"`       // thousandths of a core
	MemoryBytes int64  `cbor:"memory_bytes" json:"memory_bytes"` // 0: not said
	Concurrency int64  `cbor:"concurrency" json:"concurrency"`   // calls at one time; 0: not said
	GPU         string `cbor:"gpu" json:"gpu"`                   // requirement, or ""
}

// SLO is what callers may expect; 0 is no promise.
type SLO struct {
	MaxP99Ms         int64 `cbor:"max_p99_ms" json:"max_p99_ms"`
	MinBandwidthMbps int64 `cbor:"min_bandwidth_mbps" json:"min_bandwidth_mbps"`
}

// manifestBlock is the block: the body, the libp2p public key protobuf, and the signature over the
// envelope preimage of the body's bytes.
type manifestBlock struct {
	Body cbor.RawMessage `cbor:"body"`
	Key  []byte          `cbor:"key"`
	Sig  []byte          `cbor:"sig"`
}

// SealManifest signs m with the owner's key and gives the dag-cbor block and its CID. It fills in V
// and, if empty, Owner, and sorts the lists. The same manifest and key give the same block, always.
// Kinds: BadInput and TooLarge from Validate, Denied for another owner, Unsupported for other keys
// than Ed25519.
func SealManifest(m Manifest, key crypto.PrivKey) ([]byte, cid.Cid, error) {
	const op = "seal manifest"
	if err := checkKey(op, key.GetPublic()); err != nil {
		return nil, cid.Undef, err
	}
	owner, err := peerOf(op, key.GetPublic())
	if err != nil {
		return nil, cid.Undef, err
	}
	if m.Owner == "" {
		m.Owner = cellproto.PeerID(owner.String())
	}
	if string(m.Owner) != owner.String() {
		return nil, cid.Undef, cellproto.Errorf(op, cellproto.Denied, "the owner is %.80q, the key that of %s", m.Owner, owner)
	}
	m = m.normal()
	if err := m.Validate(); err != nil {
		return nil, cid.Undef, err
	}
	block, err := m.sign(key)
	if err != nil {
		return nil, cid.Undef, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	if len(block) > cellproto.MaxManifest {
		return nil, cid.Undef, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(block), cellproto.MaxManifest)
	}
	id, err := manifestPrefix.Sum(block)
	if err != nil {
		return nil, cid.Undef, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	return block, id, nil
}

var manifestPrefix = cid.Prefix{Version: 1, Codec: cid.DagCBOR, MhType: multihash.SHA2_256, MhLength: 32}

func (m Manifest) sign(key crypto.PrivKey) ([]byte, error) {
	body, err := encMode.Marshal(m)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(preimage(domainManifest, typeManifest, body))
	if err != nil {
		return nil, err
	}
	pub, err := crypto.MarshalPublicKey(key.GetPublic())
	if err != nil {
		return nil, err
	}
	return encMode.Marshal(manifestBlock{Body: body, Key: pub, Sig: sig})
}

// OpenManifest gives the manifest in a block that somebody sent for id. In this order: the size
// (TooLarge), the form of the CID (BadInput), its hash (Corrupt), the canonical form of the block
// (BadInput), the signature (Corrupt), the canonical form and the fields of the body (BadInput,
// TooLarge for the entries of all lists, Unsupported for a later version), the owner (Corrupt).
func OpenManifest(id cid.Cid, block []byte) (*Manifest, error) {
	const op = "open manifest"
	if len(block) > cellproto.MaxManifest {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(block), cellproto.MaxManifest)
	}
	if err := checkManifestCID(id); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%s: %w", id, err)
	}
	if sum, err := manifestPrefix.Sum(block); err != nil || !sum.Equals(id) {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the block's hash is not that of %s", id)
	}
	var b manifestBlock
	if err := decodeCanonical(op, block, &b); err != nil {
		return nil, err
	}
	key, err := crypto.UnmarshalPublicKey(b.Key)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the key: %w", err)
	}
	if err := checkKey(op, key); err != nil {
		return nil, err
	}
	if again, err := crypto.MarshalPublicKey(key); err != nil || !bytes.Equal(again, b.Key) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the key is not in its one canonical form")
	}
	if ok, err := key.Verify(preimage(domainManifest, typeManifest, b.Body), b.Sig); err != nil || !ok {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the signature is false")
	}
	m := &Manifest{}
	if err := decode(op, b.Body, m); err != nil {
		return nil, err
	}
	owner, err := peerOf(op, key)
	if err != nil {
		return nil, err
	}
	if string(m.Owner) != owner.String() {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the owner is %.80q, but %s signed", m.Owner, owner)
	}
	if err := m.validate(op); err != nil {
		return nil, err
	}
	return m, nil
}

// normal gives m in the form that is signed: version filled in, lists sorted and their own.
func (m Manifest) normal() Manifest {
	m.V = version
	m.Accepted = slices.Clone(m.Accepted)
	slices.SortFunc(m.Accepted, compareHashes)
	m.Artefacts = slices.Clone(m.Artefacts)
	slices.SortFunc(m.Artefacts, compareArtefacts)
	return m
}

func compareHashes(a, b cellproto.SchemaHash) int { return bytes.Compare(a[:], b[:]) }

func compareArtefacts(a, b Artefact) int {
	return cmp.Or(cmp.Compare(a.OS, b.OS), cmp.Compare(a.Arch, b.Arch))
}

// SameContent reports that m and other say the same but for when they were made (Created) and after
// what (Prev), so that publishing the one when the other is published changes nothing.
func (m Manifest) SameContent(other Manifest) bool {
	m.Created, other.Created = 0, 0
	m.Prev, other.Prev = Link{}, Link{}
	a, errA := encMode.Marshal(m.normal())
	b, errB := encMode.Marshal(other.normal())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// After gives m as the version that follows last, whose CID is id: linked to it, or, when nothing has
// changed, as last itself, which seals to id again. Owner has to be set.
func (m Manifest) After(last Manifest, id cid.Cid) Manifest {
	if m.SameContent(last) {
		m.Created, m.Prev = last.Created, last.Prev
	} else {
		m.Prev = Link{id}
	}
	return m
}

// Artefact gives the program for a platform, if there is one.
func (m Manifest) Artefact(os, arch string) (Artefact, bool) {
	i := slices.IndexFunc(m.Artefacts, func(a Artefact) bool { return a.OS == os && a.Arch == arch })
	if i < 0 {
		return Artefact{}, false
	}
	return m.Artefacts[i], true
}
