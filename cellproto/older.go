package cellproto

import "encoding/json"

// A program can go on serving the callers of versions that broke them: its schema has those versions beside its own.
// It is told for each request which of them the caller knows.

// MaxOlder is how many older versions one schema has, at most.
const MaxOlder = 8

// MetaSchema is the key of a request's meta by which a nucleus tells a program that the caller knows it by one of the
// schemas of older versions that it serves as well: the hash, in hex. A caller cannot set it.
const MetaSchema = "schema"

func parseOlder(op string, raw json.RawMessage) ([]*Schema, error) {
	var all []json.RawMessage
	if err := decodeMember(raw, &all); err != nil {
		return nil, err
	}
	if len(all) == 0 || len(all) > MaxOlder {
		return nil, Errorf(op, TooLarge, "%d older versions; they are 1 to %d", len(all), MaxOlder)
	}
	older := make([]*Schema, len(all))
	for i, one := range all {
		if members, err := objectMembers(one); err == nil && members["older"] != nil { // not as deep as anybody likes
			return nil, Errorf(op, BadInput, "an older version has none of its own")
		}
		var err error
		if older[i], err = ParseSchema(one); err != nil {
			return nil, err
		}
	}
	return older, nil
}

// validateOlder checks the older versions of a schema, which have none themselves.
func (s *Schema) validateOlder(op string) error {
	if len(s.Older) > MaxOlder {
		return Errorf(op, TooLarge, "%d older versions, the limit is %d", len(s.Older), MaxOlder)
	}
	for _, one := range s.Older {
		switch {
		case one == nil || len(one.Older) > 0:
			return Errorf(op, BadInput, "an older version has none of its own")
		case one.Cell != s.Cell:
			return Errorf(op, BadInput, "an older version is one of the cell %.80q, not of %q", one.Cell, s.Cell)
		}
		if err := one.validate(op); err != nil {
			return wrapAt(op, "older", err)
		}
	}
	return nil
}

// Version gives the version among s and its older ones that has this hash; nil: none has.
func (s *Schema) Version(hash SchemaHash) *Schema {
	if s == nil || s.Hash() == hash {
		return s
	}
	for _, one := range s.Older {
		if one.Hash() == hash {
			return one
		}
	}
	return nil
}

// VersionFor gives the version among s and its older ones that serves those who were made for old: s itself, if
// it does, else the newest; nil, and how s breaks them, if none does.
func (s *Schema) VersionFor(old *Schema) (*Schema, []Change) {
	changes := compatible(old, s)
	if len(changes) == 0 {
		return s, nil
	}
	for _, one := range s.Older {
		if len(compatible(old, one)) == 0 {
			return one, nil
		}
	}
	return nil, changes
}
