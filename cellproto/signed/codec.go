package signed

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// maxInt is the largest integer in any object: what every reader of JSON and JavaScript keeps exactly.
const maxInt int64 = 1<<53 - 1

// linkTag is the CBOR tag of an IPLD link (dag-cbor specification, "Links").
const linkTag = 42

var (
	encMode = must(encOptions().EncMode())
	decMode = must(decOptions().DecMode())
	// peekMode reads the version of an object of which nothing else may be known.
	peekMode = must(func() (cbor.DecMode, error) {
		o := decOptions()
		o.ExtraReturnErrors = cbor.ExtraDecErrorNone
		return o.DecMode()
	}())
)

func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty // a list of nothing is [], not null
	o.BinaryMarshaler = cbor.BinaryMarshalerNone
	return o
}

func decOptions() cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		MaxNestedLevels:   8, // the deepest is block, body, artefacts, artefact, link
		MaxArrayElements:  cellproto.MaxManifestEntries,
		MaxMapPairs:       64,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		UTF8:              cbor.UTF8RejectInvalid,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
	}
}

// must is for options that are constants: they work or no test passes.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// decode reads one object of which the signature has been checked, if it is in canonical form.
func decode(op string, data []byte, into any) error {
	var peek struct {
		V uint64 `cbor:"v"`
	}
	if peekMode.Unmarshal(data, &peek) == nil && peek.V > version {
		return cellproto.Errorf(op, cellproto.Unsupported, "version %d of this object, this program knows %d", peek.V, version).
			WithHint("Upgrade celld.")
	}
	return decodeCanonical(op, data, into)
}

// decodeCanonical decodes data and refuses it when encoding the result gives other bytes. That
// closes what a decoder lets pass: a field that is missing or null, a number or a length in more
// bytes than needed, keys in another order, tags, byte strings of the wrong length.
func decodeCanonical(op string, data []byte, into any) error {
	if err := decMode.Unmarshal(data, into); err != nil {
		kind := cellproto.BadInput
		var tooMany *cbor.MaxArrayElementsError
		if errors.As(err, &tooMany) {
			kind = cellproto.TooLarge
		}
		return cellproto.Errorf(op, kind, "%w", err)
	}
	again, err := encMode.Marshal(into)
	if err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if !bytes.Equal(again, data) {
		return cellproto.Errorf(op, cellproto.BadInput, "not canonical CBOR with all fields")
	}
	return nil
}

// Link is a CID as IPLD writes it into CBOR: tag 42 around a byte string of a zero byte and the
// binary CID; null when there is none. It prints and goes to JSON like the CID in it.
type Link struct{ cid.Cid }

// MarshalCBOR implements cbor.Marshaler.
func (l Link) MarshalCBOR() ([]byte, error) {
	if !l.Defined() {
		return encMode.Marshal(nil)
	}
	return encMode.Marshal(cbor.Tag{Number: linkTag, Content: append([]byte{0}, l.Bytes()...)})
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (l *Link) UnmarshalCBOR(data []byte) error {
	if bytes.Equal(data, []byte{0xf6}) {
		l.Cid = cid.Undef
		return nil
	}
	var tag cbor.RawTag
	var content []byte
	if err := decMode.Unmarshal(data, &tag); err != nil {
		return err
	}
	if tag.Number != linkTag {
		return fmt.Errorf("tag %d is not that of a link", tag.Number)
	}
	if err := decMode.Unmarshal(tag.Content, &content); err != nil {
		return err
	}
	if len(content) == 0 || content[0] != 0 {
		return errors.New("a link is a zero byte and a CID")
	}
	c, err := cid.Cast(content[1:])
	if err != nil {
		return err
	}
	l.Cid = c
	return nil
}

// checkHash says whether c is of a form that can be verified here: CIDv1 by sha2-256, the hash that
// every IPFS node has. An identity hash, above all, would carry data past the limits.
func checkHash(c cid.Cid) error {
	if p := c.Prefix(); !c.Defined() || p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != 32 {
		return errors.New("not a CIDv1 by sha2-256")
	}
	return nil
}

// checkManifestCID says whether c can name a manifest.
func checkManifestCID(c cid.Cid) error {
	if err := checkHash(c); err != nil {
		return err
	}
	if c.Prefix().Codec != cid.DagCBOR {
		return errors.New("a manifest's CID is of the codec dag-cbor")
	}
	return nil
}
