package cellproto

import (
	"bytes"
	"encoding/json"
	"io"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// StateArgs are the arguments of the functions by which a program keeps its state with its nucleus. Each
// reads the fields that are named for it, and passes over the others.
type StateArgs struct {
	Key    Blob   `cbor:"1,keyasint,omitempty" json:"key,omitempty"`    // get, put, delete, cas: 1 to MaxStateKey bytes
	Value  Blob   `cbor:"2,keyasint" json:"value"`                      // put; cas: the new value, nil to delete the key
	Old    Blob   `cbor:"3,keyasint" json:"old"`                        // cas: the value that it replaces; nil: there is no such key
	Prefix Blob   `cbor:"4,keyasint,omitempty" json:"prefix,omitempty"` // list of keys: those that begin so
	After  Blob   `cbor:"5,keyasint,omitempty" json:"after,omitempty"`  // lists: what comes after this key or name
	Limit  uint   `cbor:"6,keyasint,omitempty" json:"limit,omitempty"`  // lists: at most so many; 0: MaxStatePage
	Name   string `cbor:"7,keyasint,omitempty" json:"name,omitempty"`   // files
	Offset int64  `cbor:"8,keyasint,omitempty" json:"offset,omitempty"` // read: from this byte on
	Length int64  `cbor:"9,keyasint,omitempty" json:"length,omitempty"` // read: at most so many bytes; 0: all
}

// StateReply is the answer to them.
type StateReply struct {
	Value   Blob        `cbor:"1,keyasint" json:"value"`                       // get; cas: what is there. Nil: there is no such key
	Swapped bool        `cbor:"2,keyasint,omitempty" json:"swapped,omitempty"` // cas
	Removed bool        `cbor:"3,keyasint,omitempty" json:"removed,omitempty"` // delete, remove: it was there
	Keys    []Blob      `cbor:"4,keyasint,omitempty" json:"keys,omitempty"`    // list of keys, in the order of their bytes
	Files   []StateFile `cbor:"5,keyasint,omitempty" json:"files,omitempty"`   // list of files, likewise
	More    bool        `cbor:"6,keyasint,omitempty" json:"more,omitempty"`    // lists: there are more after the last one
}

// StateFile is a file in a list.
type StateFile struct {
	Name     string `cbor:"1,keyasint" json:"name"`
	Size     int64  `cbor:"2,keyasint" json:"size"`
	Modified int64  `cbor:"3,keyasint" json:"modified"` // unix ms
}

// Blob is bytes that JSON carries as a text if they are UTF-8, else as {"base64": "..."}.
type Blob []byte

// MarshalJSON gives nil as null.
func (b Blob) MarshalJSON() ([]byte, error) {
	switch {
	case b == nil:
		return []byte("null"), nil
	case utf8.Valid(b):
		return json.Marshal(string(b))
	}
	return json.Marshal(map[string][]byte{"base64": b})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (b *Blob) UnmarshalJSON(data []byte) error {
	switch {
	case string(data) == "null":
		*b = nil
		return nil
	case len(data) > 0 && data[0] == '"':
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		*b = Blob(text)
		return nil
	}
	var wrapped struct {
		Base64 *[]byte `json:"base64"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&wrapped); err != nil {
		return err
	}
	if wrapped.Base64 == nil {
		return Errorf("", BadInput, `bytes are a text or {"base64": "..."}`)
	}
	*b = append(Blob{}, *wrapped.Base64...)
	return nil
}

var stateDecoder = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 4, MaxArrayElements: MaxStatePage, MaxMapPairs: 16,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// Marshal gives a as the payload of a request, in CBOR.
func (a *StateArgs) Marshal() ([]byte, error) { return canonicalEncoder().Marshal(a) }

// ParseStateArgs reads the payload of a request, in CBOR or JSON; errors are BadInput, TooLarge or
// Unsupported. Only what every function needs is checked.
func ParseStateArgs(codec Codec, data []byte) (*StateArgs, error) {
	const op = "read arguments"
	if len(data) > MaxArgs {
		return nil, Errorf(op, TooLarge, "%d bytes, the limit is %d", len(data), MaxArgs)
	}
	a := &StateArgs{}
	if len(data) == 0 {
		return a, nil
	}
	if err := parseState(codec, data, a); err != nil {
		return nil, err
	}
	for _, key := range []*Blob{&a.Key, &a.Prefix, &a.After} {
		if len(*key) > MaxStateKey {
			return nil, Errorf(op, TooLarge, "a key of %d bytes, the limit is %d", len(*key), MaxStateKey)
		}
		if len(*key) == 0 { // there is none that is empty
			*key = nil
		}
	}
	for _, value := range []Blob{a.Value, a.Old} {
		if len(value) > MaxStateValue {
			return nil, Errorf(op, TooLarge, "a value of %d bytes, the limit is %d", len(value), MaxStateValue).
				WithHint("Keep what is large in a file.")
		}
	}
	if a.Offset < 0 || a.Length < 0 {
		return nil, Errorf(op, BadInput, "offset %d, length %d", a.Offset, a.Length)
	}
	return a, nil
}

func parseState(codec Codec, data []byte, into any) error {
	const op = "read arguments"
	var err error
	switch codec {
	case CBOR:
		err = stateDecoder.Unmarshal(data, into)
	case JSON:
		if err = CheckJSON(data); err != nil {
			return err
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err = dec.Decode(into); err == nil && dec.InputOffset() < int64(len(bytes.TrimRight(data, " \t\r\n"))) {
			err = io.ErrUnexpectedEOF // CheckJSON has seen one value only
		}
	default:
		return Errorf(op, Unsupported, "they are neither CBOR nor JSON")
	}
	if err != nil {
		return Errorf(op, BadInput, "%w", err)
	}
	return nil
}

// Marshal gives r as the payload of a reply.
func (r *StateReply) Marshal(codec Codec) ([]byte, error) {
	if codec == JSON {
		return json.Marshal(r)
	}
	return canonicalEncoder().Marshal(r)
}

// ParseStateReply reads the payload of a reply in CBOR.
func ParseStateReply(data []byte) (*StateReply, error) {
	r := &StateReply{}
	if len(data) > MaxArgs {
		return nil, Errorf("read reply", TooLarge, "%d bytes, the limit is %d", len(data), MaxArgs)
	}
	if err := stateDecoder.Unmarshal(data, r); err != nil {
		return nil, Errorf("read reply", BadInput, "%w", err)
	}
	return r, nil
}

// ValidStateName reports that a file may have this name: a letter or digit first, then also '.', '_' and
// '-', all in lower case, so that no file system takes two names for one; at most MaxStateName bytes.
func ValidStateName(s string) bool {
	if len(s) < 1 || len(s) > MaxStateName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-')) {
			return false
		}
	}
	return true
}
