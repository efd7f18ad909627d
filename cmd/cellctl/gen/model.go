package gen

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// kind is what a value is, in every language.
type kind uint8

const (
	anyKind kind = iota // whatever JSON can say
	boolKind
	intKind
	floatKind
	stringKind
	timeKind
	bytesKind
	enumKind // one of a few strings
	listKind
	mapKind // from strings
	structKind
	refKind // to a definition; gone once the model is linked
)

// use is a type where it is used.
type use struct {
	*typ
	null bool // it may be null
}

// typ is the type of a value.
type typ struct {
	kind     kind
	bits     int // of an integer: 8 to 64
	unsigned bool
	values   []string // of an enum
	elem     use      // of a list or map
	length   int      // of a list that has just so many elements; 0: any number
	fields   []field  // of a struct, in their order
	name     string   // of a struct or enum, in the languages; "": not named yet
	ref      string   // of a refKind: its node
	about    string   // what it is, for people
	alias    bool     // the schema has no name for the struct
	output   bool     // it was met in an output
	ordered  bool     // the order of its fields is that of positional arguments
}

// field is one field of a struct. In Go the same struct may stand for an input and an output, whose schemas
// say different things of a pointer: so what is needed to write it and to read it is kept apart.
type field struct {
	json     string // its name in JSON
	name     string // in Go
	doc      string
	typ      use  // its null is in pointer
	sure     bool // it is there, and not null
	pointer  bool // it may be null, or its struct would have to contain itself
	omit     bool // it is left out when it is empty
	need     bool // a reply without it is wrong
	sendNull bool // it is sent as null when there is none, not left out
	soft     bool // it is a pointer only to tell what is empty from what is not there
}

// function is one function of the cell.
type function struct {
	json   string
	name   string // in Go
	method string // of the client in Go: name, but for what go vet takes for another method
	cellproto.Function
	raw  bool // bytes in, bytes out
	args *typ // a struct or map; nil: it takes none, or is raw
	out  use  // no type: none, raw, or a body
}

// model is a schema, resolved and named.
type model struct {
	cell  string
	hash  cellproto.SchemaHash
	funcs []*function
	types []*typ // structs and enums, by name
}

// Bounds of what a schema may ask of the code made from it. What is nested deeper, or larger, becomes any value, a
// slice or a pointer.
const (
	maxArray   = 4096    // elements of an array in Go; a longer one is a slice
	maxDepth   = 64      // of a schema, from one definition to the next
	maxUnnamed = 32      // lists and maps within each other, as many as a reply may have
	maxWords   = 1 << 16 // values that a value holds in itself
	maxNodes   = 100_000
	maxParted  = 1_000_000 // times that a definition is compared with its like
)

// newModel reads a schema. BadInput: nothing can be made of it; the error says which function and field. TooLarge:
// past one of the bounds.
func newModel(s *cellproto.Schema) (*model, error) {
	m := &model{cell: s.Cell, hash: s.Hash()}
	b := &builder{defs: map[string]*use{}, hints: map[*typ]string{}}
	for _, name := range slices.Sorted(maps.Keys(s.Functions)) {
		f := s.Functions[name]
		fn := &function{json: name, Function: f, raw: f.Input == nil && f.Output == nil && !f.BodyIn && !f.BodyOut}
		m.funcs = append(m.funcs, fn)
		if fn.raw {
			continue
		}
		var err error
		if fn.args, err = b.arguments(name, f); err != nil {
			return nil, cellproto.Errorf("generate "+name, kindOf(err), "input: %w", err)
		}
		if f.BodyOut {
			continue
		}
		if fn.out, err = b.root(name+" output", f.Output, true); err != nil {
			return nil, cellproto.Errorf("generate "+name, kindOf(err), "output: %w", err)
		}
	}
	if err := m.link(b); err != nil {
		return nil, err
	}
	m.nameAll(b)
	return m, nil
}

// kindOf is TooLarge for an error of a bound, else BadInput.
func kindOf(err error) cellproto.Kind {
	if cellproto.KindOf(err) == cellproto.TooLarge {
		return cellproto.TooLarge
	}
	return cellproto.BadInput
}

// builder reads JSON Schemas into types.
type builder struct {
	defs    map[string]*use // by node: the place of the definition
	hints   map[*typ]string // names that a schema has for its types
	order   []string        // the nodes, as they were met
	nodes   int
	context string // of which schema it reads
	root_   map[string]json.RawMessage
	output  bool
}

// rawSchema is what is read of a JSON Schema.
type rawSchema struct {
	Ref         string                     `json:"$ref"`
	Defs        map[string]json.RawMessage `json:"$defs"`
	Type        json.RawMessage            `json:"type"`
	Format      string                     `json:"format"`
	Encoding    string                     `json:"contentEncoding"`
	Description string                     `json:"description"`
	Enum        []json.RawMessage          `json:"enum"`
	Properties  map[string]json.RawMessage `json:"properties"`
	Required    []string                   `json:"required"`
	Additional  json.RawMessage            `json:"additionalProperties"`
	Items       json.RawMessage            `json:"items"`
	AnyOf       []json.RawMessage          `json:"anyOf"`
	MinItems    *int                       `json:"minItems"`
	MaxItems    *int                       `json:"maxItems"`
	Minimum     *json.Number               `json:"minimum"`
	Maximum     *json.Number               `json:"maximum"`
	OneOf       json.RawMessage            `json:"oneOf"`
	AllOf       json.RawMessage            `json:"allOf"`
}

// arguments reads a function's input. They are a struct, in the order of the positional arguments, or a map.
func (b *builder) arguments(name string, f cellproto.Function) (*typ, error) {
	u, err := b.root(name+" input", f.Input, false)
	if err != nil {
		return nil, err
	}
	t := u.typ
	if t.kind == refKind {
		t = b.defs[t.ref].typ
	}
	switch t.kind {
	case structKind:
		if len(t.fields) == 0 {
			return nil, nil
		}
		place := places(f.Order)
		slices.SortStableFunc(t.fields, func(x, y field) int { return place(x.json) - place(y.json) })
		t.ordered = true
	case mapKind:
	default: // by name, whatever they are
		return &typ{kind: mapKind, elem: anything()}, nil
	}
	return u.typ, nil
}

// root reads the schema of one input or output.
func (b *builder) root(context string, raw json.RawMessage, output bool) (use, error) {
	b.context, b.output, b.root_ = context, output, nil
	if raw == nil {
		return anything(), nil
	}
	var s rawSchema
	if json.Unmarshal(raw, &s) == nil {
		b.root_ = s.Defs
	}
	return b.read(raw, 0)
}

// read reads one node. What it does not understand is any value.
func (b *builder) read(raw json.RawMessage, depth int) (use, error) {
	if b.nodes++; b.nodes > maxNodes {
		return use{}, cellproto.Errorf("", cellproto.TooLarge, "more than %d schemas within each other", maxNodes)
	}
	if depth > maxDepth {
		return use{}, cellproto.Errorf("", cellproto.TooLarge, "nested more than %d deep", maxDepth)
	}
	var s rawSchema
	if err := json.Unmarshal(raw, &s); err != nil { // true, false, or something that only others understand
		return anything(), nil
	}
	switch {
	case s.Ref != "":
		return b.reference(s.Ref)
	case len(s.AnyOf) == 2:
		return b.orNull(s.AnyOf, depth)
	case len(s.AnyOf) > 0 || s.OneOf != nil || s.AllOf != nil:
		return anything(), nil
	}
	name, null, ok := typeName(s.Type)
	if !ok {
		return anything(), nil
	}
	u, err := b.typed(name, &s, depth)
	if err == nil {
		u.null = null && u.kind != anyKind && !(b.output && u.nillable())
	}
	return u, err
}

// nillable says that a result of this type may be null in any case: it is empty then.
func (t *typ) nillable() bool {
	return t.kind == listKind && t.length == 0 || t.kind == mapKind || t.kind == bytesKind
}

func anything() use { return use{typ: &typ{}} }

func plain(t typ) use { return use{typ: &t} }

// typeName reads "type": one name, perhaps with "null" beside it.
func typeName(raw json.RawMessage) (name string, null, ok bool) {
	if json.Unmarshal(raw, &name) == nil {
		return name, false, true
	}
	var names []string
	if json.Unmarshal(raw, &names) != nil || len(names) != 2 {
		return "", false, false
	}
	switch {
	case names[0] == "null":
		return names[1], true, true
	case names[1] == "null":
		return names[0], true, true
	}
	return "", false, false
}

func (b *builder) typed(name string, s *rawSchema, depth int) (use, error) {
	switch name {
	case "boolean":
		return plain(typ{kind: boolKind}), nil
	case "integer":
		return use{typ: integer(s)}, nil
	case "number":
		return plain(typ{kind: floatKind}), nil
	case "string":
		return use{typ: text(s)}, nil
	case "array":
		return b.list(s, depth)
	case "object":
		return b.object(s, depth)
	}
	return anything(), nil
}

// integer gives the type of just the range that the schema has, else of 64 bits.
func integer(s *rawSchema) *typ {
	t := &typ{kind: intKind, bits: 64}
	if s.Minimum == nil {
		return t
	}
	low := s.Minimum.String()
	if low == "0" && s.Maximum == nil {
		t.unsigned = true
		return t
	}
	if s.Maximum == nil {
		return t
	}
	high := s.Maximum.String()
	for _, bits := range []int{8, 16, 32} {
		switch {
		case low == "0" && high == fmt.Sprint(uint64(math.MaxUint64)>>(64-bits)):
			t.bits, t.unsigned = bits, true
		case low == fmt.Sprint(int64(math.MinInt64)>>(64-bits)) && high == fmt.Sprint(int64(math.MaxInt64)>>(64-bits)):
			t.bits = bits
		}
	}
	return t
}

func text(s *rawSchema) *typ {
	switch {
	case s.Format == "date-time":
		return &typ{kind: timeKind}
	case s.Encoding == "base64":
		return &typ{kind: bytesKind}
	}
	values := make([]string, 0, len(s.Enum))
	for _, raw := range s.Enum {
		var v string
		if json.Unmarshal(raw, &v) != nil {
			return &typ{kind: stringKind}
		}
		values = append(values, v)
	}
	if len(values) == 0 {
		return &typ{kind: stringKind}
	}
	return &typ{kind: enumKind, values: values}
}

func (b *builder) list(s *rawSchema, depth int) (use, error) {
	t := typ{kind: listKind, elem: anything()}
	if s.MinItems != nil && s.MaxItems != nil && *s.MinItems == *s.MaxItems && *s.MinItems > 0 && *s.MinItems <= maxArray {
		t.length = *s.MinItems
	}
	var err error
	if s.Items != nil {
		t.elem, err = b.read(s.Items, depth+1)
	}
	return plain(t), err
}

func (b *builder) object(s *rawSchema, depth int) (use, error) {
	if len(s.Properties) == 0 {
		switch {
		case string(s.Additional) == "false", s.Additional == nil && b.output: // a struct without fields
			return plain(typ{kind: structKind, alias: true}), nil
		case s.Additional == nil:
			return plain(typ{kind: mapKind, elem: anything()}), nil
		}
		elem, err := b.read(s.Additional, depth+1)
		return plain(typ{kind: mapKind, elem: elem}), err
	}
	t := typ{kind: structKind, alias: true, output: b.output}
	names := slices.Sorted(maps.Keys(s.Properties))
	place := places(s.Required)
	slices.SortStableFunc(names, func(x, y string) int { return place(x) - place(y) })
	for _, name := range names {
		f, err := b.field(name, s.Properties[name], place(name) < len(s.Required), depth)
		if err != nil {
			return use{}, fmt.Errorf("%.80q: %w", name, err)
		}
		t.fields = append(t.fields, f)
	}
	return plain(t), nil
}

// places gives the place of each name in a list, and that behind it of others.
func places(list []string) func(string) int {
	at := make(map[string]int, len(list))
	for i, name := range slices.Backward(list) {
		at[name] = i
	}
	return func(name string) int {
		if i, ok := at[name]; ok {
			return i
		}
		return len(list)
	}
}

func (b *builder) field(name string, raw json.RawMessage, required bool, depth int) (field, error) {
	u, err := b.read(raw, depth+1)
	if err != nil {
		return field{}, err
	}
	f := field{
		json: name, typ: use{typ: u.typ}, sure: required && !u.null, pointer: u.null,
		omit: !required, need: required && b.output, sendNull: required && u.null && !b.output,
	}
	switch u.kind {
	case boolKind, intKind, floatKind, stringKind, timeKind:
		f.soft = b.output && !required
		f.pointer = f.pointer || f.soft
	}
	var about rawSchema
	if json.Unmarshal(raw, &about) == nil {
		f.doc = about.Description
	}
	return f, nil
}

// orNull reads {"anyOf": [X, {"type": "null"}]}.
func (b *builder) orNull(of []json.RawMessage, depth int) (use, error) {
	for i, raw := range of {
		var s rawSchema
		var name string
		if json.Unmarshal(raw, &s) == nil && json.Unmarshal(s.Type, &name) == nil && name == "null" {
			u, err := b.read(of[1-i], depth+1)
			if err == nil {
				u.null = u.kind != anyKind
			}
			return u, err
		}
	}
	return anything(), nil
}

// reference reads a definition, once.
func (b *builder) reference(ref string) (use, error) {
	name, ok := strings.CutPrefix(ref, "#/$defs/")
	if !ok {
		return anything(), nil
	}
	name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	raw, ok := b.root_[name]
	if !ok {
		return use{}, fmt.Errorf("the definition %.80q is not there", name)
	}
	node := b.context + "\x00" + name
	if b.defs[node] == nil {
		place := &use{typ: &typ{}}
		b.defs[node] = place
		b.order = append(b.order, node)
		u, err := b.read(raw, 0) // it has a name of its own: the depth is that of what has none
		if err != nil {
			return use{}, err
		}
		*place = u
		if u.kind == structKind {
			u.alias = false
			b.hints[u.typ] = name
		}
		if u.kind == enumKind {
			b.hints[u.typ] = name
		}
	}
	return plain(typ{kind: refKind, ref: node}), nil
}
