package cellproto

import (
	"encoding/hex"
	"encoding/json"
	"strings"
)

// Schema is what a cell's functions take and give: the content of schema.json.
type Schema struct {
	Cell      string              `json:"cell"` // the cell's name
	Functions map[string]Function `json:"functions"`
	Older     []*Schema           `json:"older,omitempty"` // versions whose callers the program serves as well, the newest first
}

// Function is one function of a cell.
type Function struct {
	Doc string `json:"doc,omitempty"` // one sentence for people

	// Input and Output are JSON Schema 2020-12: an object or a boolean; nil says nothing. Arguments
	// are passed by name, so an input that gives a type gives "object".
	Input  json.RawMessage `json:"input,omitempty"`
	Output json.RawMessage `json:"output,omitempty"`

	// Order names the input's properties as positional arguments fill them. When it is empty, the
	// required ones come first, as "required" lists them, then the others by name.
	Order []string `json:"order,omitempty"`

	Pure       bool `json:"pure,omitempty"`       // may be raced, hedged and retried anywhere
	Idempotent bool `json:"idempotent,omitempty"` // may be retried under the same key
	Slow       bool `json:"slow,omitempty"`       // gets a goroutine of its own
	BodyIn     bool `json:"body_in,omitempty"`    // the request carries a body
	BodyOut    bool `json:"body_out,omitempty"`   // the reply carries a body
}

// ParseSchema reads schema.json: at most MaxSchema bytes and MaxFunctions functions (else TooLarge),
// JSON as CheckJSON wants it but nested up to 128 deep, no key beyond those of Schema and Function,
// spelled exactly, and what Validate asks for; else BadInput.
func ParseSchema(data []byte) (*Schema, error) {
	const op = "parse schema"
	if err := checkSchemaJSON(op, data, MaxSchema); err != nil {
		return nil, err
	}
	top, err := objectMembers(data)
	if err != nil {
		return nil, Errorf(op, BadInput, "a schema is a JSON object")
	}
	s := &Schema{}
	for _, key := range sortedKeys(top) {
		switch raw := top[key]; key {
		case "cell":
			err = decodeMember(raw, &s.Cell)
		case "functions":
			s.Functions, err = parseFunctions(op, raw)
		case "older":
			s.Older, err = parseOlder(op, raw)
		default:
			err = unknownKey(key, "cell", "functions", "older")
		}
		if err != nil {
			return nil, wrapAt(op, key, err)
		}
	}
	if s.Functions == nil {
		return nil, Errorf(op, BadInput, `the key "functions" is missing`)
	}
	if err := s.validate(op); err != nil {
		return nil, err
	}
	return s, nil
}

func parseFunctions(op string, raw json.RawMessage) (map[string]Function, error) {
	members, err := objectMembers(raw)
	if err != nil {
		return nil, err
	}
	if len(members) > MaxFunctions {
		return nil, Errorf("", TooLarge, "%d functions, the limit is %d", len(members), MaxFunctions)
	}
	functions := make(map[string]Function, len(members))
	for _, name := range sortedKeys(members) {
		f, err := parseFunction(members[name])
		if err != nil {
			return nil, wrapAt("", name, err)
		}
		functions[name] = f
	}
	return functions, nil
}

func parseFunction(raw json.RawMessage) (Function, error) {
	var f Function
	fields := map[string]any{
		"doc": &f.Doc, "input": &f.Input, "output": &f.Output, "order": &f.Order, "pure": &f.Pure,
		"idempotent": &f.Idempotent, "slow": &f.Slow, "body_in": &f.BodyIn, "body_out": &f.BodyOut,
	}
	members, err := objectMembers(raw)
	if err != nil {
		return f, err
	}
	for _, key := range sortedKeys(members) {
		field := fields[key]
		if field == nil {
			return f, wrapAt("", key, unknownKey(key, sortedKeys(fields)...))
		}
		if err := decodeMember(members[key], field); err != nil {
			return f, wrapAt("", key, err)
		}
	}
	return f, nil
}

// objectMembers splits a JSON object. Unlike decoding into a struct it tells "Doc" from "doc".
func objectMembers(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return nil, Errorf("", BadInput, "not a JSON object")
	}
	return members, nil
}

// decodeMember decodes one value; encoding/json would take null for any type.
func decodeMember(raw json.RawMessage, into any) error {
	if string(raw) == "null" {
		return Errorf("", BadInput, "null; leave the key out instead")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return Errorf("", BadInput, "%w", err)
	}
	return nil
}

func unknownKey(key string, known ...string) error {
	e := Errorf("", BadInput, "unknown key; there are %s", strings.Join(known, ", "))
	if near := nearest(key, known); near != "" {
		return e.WithHint("Did you mean %q?", near)
	}
	return e
}

// wrapAt puts the place of an error in front of it and keeps its kind and its hint.
func wrapAt(op, at string, err error) error {
	if op != "" {
		op += ": "
	}
	return &Error{Op: op + cutText(at, MaxFuncName), Kind: KindOf(err), Err: err, Hint: HintOf(err)}
}

// Validate says whether the schema keeps the rules that ParseSchema enforces, for one that was built
// in memory: the form of names, inputs and outputs that are JSON Schemas as far as this package reads
// them, and positional arguments that exist. Kinds TooLarge and BadInput.
func (s Schema) Validate() error {
	const op = "check schema"
	if canonical := s.Canonical(); canonical == nil {
		return Errorf(op, BadInput, "an input or an output is not JSON")
	} else if len(canonical) > MaxSchema {
		return Errorf(op, TooLarge, "%d bytes of JSON, the limit is %d", len(canonical), MaxSchema)
	}
	return s.validate(op)
}

func (s *Schema) validate(op string) error {
	if !ValidCellName(s.Cell) {
		return Errorf(op, BadInput, "%.80q is not the name of a cell", s.Cell).
			WithHint("A cell's name is 1 to 63 of a-z, 0-9 and '-', not '-' in front.")
	}
	if len(s.Functions) > MaxFunctions {
		return Errorf(op, TooLarge, "%d functions, the limit is %d", len(s.Functions), MaxFunctions)
	}
	if err := s.validateOlder(op); err != nil {
		return err
	}
	for _, name := range sortedKeys(s.Functions) {
		if strings.HasPrefix(name, ReservedPrefix) {
			return Errorf(op, BadInput, "function %q: names that begin with %q are the nucleus's own", name, ReservedPrefix)
		}
		if !ValidFuncName(name) {
			return Errorf(op, BadInput, "%.80q is not the name of a function", name).
				WithHint("A function's name is a letter, then letters, digits, '_', '-' and '.', at most %d.", MaxFuncName)
		}
		if err := s.Functions[name].validate(); err != nil {
			return wrapAt(op, name, err)
		}
	}
	return nil
}

func (f Function) validate() error {
	if f.Output != nil {
		if bad := compileSchema(f.Output).root.bad; bad != nil {
			return wrapAt("", "output", bad)
		}
	}
	spec, err := f.Spec()
	if err != nil {
		return wrapAt("", "input", err)
	}
	placed := make(map[string]bool, len(f.Order))
	for _, name := range f.Order {
		if !spec.has(name) {
			return Errorf("order", BadInput, "%.80q is not a property of the input", name)
		}
		if placed[name] {
			return Errorf("order", BadInput, "%q is named twice", name)
		}
		placed[name] = true
	}
	return nil
}

// Function gives the function of this name; without one the error is NotFound and its hint names
// what there is.
func (s Schema) Function(name string) (Function, error) {
	if f, ok := s.Functions[name]; ok {
		return f, nil
	}
	names := sortedKeys(s.Functions)
	e := Errorf("call "+s.Cell, NotFound, "it has no function %.128q", name)
	switch near := nearest(name, names); {
	case near != "":
		return Function{}, e.WithHint("Did you mean %q?", near)
	case len(names) == 0:
		return Function{}, e.WithHint("This cell has no functions.")
	}
	return Function{}, e.WithHint("It has: %s.", cutText(strings.Join(names, ", "), 400))
}

// Arguments is Function.Arguments for a function by name, with the usage line in the hint.
func (s Schema) Arguments(name string, argv []string) ([]byte, error) {
	f, err := s.Function(name)
	if err != nil {
		return nil, err
	}
	args, err := f.Arguments(argv)
	if err != nil {
		return nil, Errorf("call "+name, KindOf(err), "%w", err).WithHint("Usage: %s", f.Usage(name))
	}
	return args, nil
}

// Canonical gives the schema as CanonicalJSON. What is false or empty in a function is left out, so
// that a flag that is added later does not change the hash of the schemas that do not use it. It is
// nil when an input or an output is not JSON, which Validate refuses.
func (s Schema) Canonical() []byte {
	if s.Functions == nil {
		s.Functions = map[string]Function{}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	// Not CanonicalJSON itself: a schema that is too large still has a canonical form.
	canonical, err := canonicalJSON("write schema", data, len(data))
	if err != nil {
		return nil
	}
	return canonical
}

// Hash is the BLAKE3-256 of Canonical, or zero when that is nil.
func (s Schema) Hash() SchemaHash {
	canonical := s.Canonical()
	if canonical == nil {
		return SchemaHash{}
	}
	return BLAKE3(canonical)
}

// String gives the hash as 64 lower-case hexadecimal digits.
func (h SchemaHash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports that there is no schema.
func (h SchemaHash) IsZero() bool { return h == SchemaHash{} }

// MarshalText is String, so that JSON shows hashes as people write them. CBOR keeps the 32 bytes.
func (h SchemaHash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is ParseSchemaHash.
func (h *SchemaHash) UnmarshalText(text []byte) error {
	parsed, err := ParseSchemaHash(string(text))
	if err == nil {
		*h = parsed
	}
	return err
}

// ParseSchemaHash is the inverse of String. It takes lower-case digits only, so that one hash has
// one text; anything else is BadInput.
func ParseSchemaHash(text string) (SchemaHash, error) {
	var h SchemaHash
	if len(text) == hex.EncodedLen(len(h)) {
		if _, err := hex.Decode(h[:], []byte(text)); err == nil && h.String() == text {
			return h, nil
		}
	}
	return SchemaHash{}, Errorf("parse schema hash", BadInput, "%.80q is not 64 lower-case hexadecimal digits", text)
}

// ValidCellName reports that s has the form of a cell's name: 1 to 63 of a-z, 0-9 and '-'
// (SECURITY, "Limits"), the length of a DNS label, and no '-' in front, where a command line would
// take it for a flag.
func ValidCellName(s string) bool {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// ValidFuncName reports that s can name a function of a program: a letter, then letters, digits,
// '_', '-' and '.', at most MaxFuncName bytes of ASCII, not under ReservedPrefix.
func ValidFuncName(s string) bool {
	if len(s) < 1 || len(s) > MaxFuncName || len(s) >= len(ReservedPrefix) && s[:len(ReservedPrefix)] == ReservedPrefix {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '_' || c == '-' || c == '.')) {
			return false
		}
	}
	return true
}
