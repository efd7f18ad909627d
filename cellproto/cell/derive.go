package cell

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Enumerator is implemented by string types that have few values, on the value. Enum is called on
// the zero value; other values are refused in arguments.
type Enumerator interface{ Enum() []string }

// Schemer is implemented by types that describe themselves, on the value: what they marshal to is
// not what their Go type says. JSONSchema is called on the zero value and gives a JSON Schema.
type Schemer interface{ JSONSchema() json.RawMessage }

// node is one JSON Schema (2020-12). The empty one allows everything.
type node = map[string]any

// derivation derives the schema of one type. Named structs become $defs, so that types may be
// recursive and generated clients have names for them.
type derivation struct {
	output  bool // nil lists and maps are null in JSON
	docs    Docs
	defs    node
	structs map[reflect.Type]*definition
}

type definition struct {
	name  string
	uses  int
	order []string
	shape *shape

	pointer *shape // of a pointer to it; nil: there is none
}

// deriveInput gives the JSON Schema of a function's arguments, their shape, and their order.
func deriveInput(t reflect.Type, docs Docs) (json.RawMessage, *shape, []string, error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	isMap := t.Kind() == reflect.Map && t.Key().Kind() == reflect.String
	if t.Kind() != reflect.Struct && !isMap || custom(t) || t == timeType {
		return nil, nil, nil, fmt.Errorf("%v is neither a struct nor a map with strings as keys", t)
	}
	d := derivation{docs: docs}
	schema, s, order, err := d.root(t)
	if err != nil {
		return nil, nil, nil, err
	}
	if s.null { // a map, whose root is an object all the same
		root := *s
		root.null = false
		s = &root
	}
	return schema, s, order, nil
}

// deriveOutput gives the JSON Schema of a function's result.
func deriveOutput(t reflect.Type, docs Docs) (json.RawMessage, error) {
	d := derivation{output: true, docs: docs}
	schema, _, _, err := d.root(t)
	return schema, err
}

func (d *derivation) root(t reflect.Type) (json.RawMessage, *shape, []string, error) {
	d.defs, d.structs = node{}, map[reflect.Type]*definition{}
	n, s, err := d.derive(t)
	if err != nil {
		return nil, nil, nil, err
	}
	var order []string
	if def := d.structs[t]; def != nil {
		order = def.order
		if def.uses == 1 { // by the root alone: no need of a reference
			n = d.defs[def.name].(node)
			delete(d.defs, def.name)
		}
	}
	if len(d.defs) > 0 {
		n = maps.Clone(n)
		n["$defs"] = d.defs
	}
	schema, err := json.Marshal(n)
	return schema, s, order, err
}

var (
	timeType      = reflect.TypeFor[time.Time]()
	numberType    = reflect.TypeFor[json.Number]()
	rawType       = reflect.TypeFor[json.RawMessage]()
	enumType      = reflect.TypeFor[Enumerator]()
	schemerType   = reflect.TypeFor[Schemer]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textUnmarshal = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonUnmarshal = reflect.TypeFor[json.Unmarshaler]()
)

const unsupported = "values of type %v cannot be sent"

// custom reports that the type decides itself how it is shown.
func custom(t reflect.Type) bool {
	return implements(t, schemerType) || implements(t, jsonMarshaler) || implements(t, jsonUnmarshal) ||
		implements(t, textMarshaler) || implements(t, textUnmarshal)
}

func implements(t, i reflect.Type) bool {
	return t.Kind() != reflect.Interface && (t.Implements(i) || reflect.PointerTo(t).Implements(i))
}

func (d *derivation) derive(t reflect.Type) (node, *shape, error) {
	switch {
	case t.Kind() == reflect.Pointer:
		n, s, err := d.derive(t.Elem())
		if err != nil {
			return nil, nil, err
		}
		if def := d.structs[t.Elem()]; def != nil {
			return orNull(n), def.orNull(), nil
		}
		nullable := *s
		nullable.null = true
		return orNull(n), &nullable, nil
	case t == timeType: // a zero time is null in CBOR
		return node{"type": "string", "format": "date-time"}, &shape{null: true}, nil
	case t == numberType:
		return nil, nil, fmt.Errorf(unsupported, t)
	case t == rawType:
		return node{}, anything, nil
	case custom(t):
		return d.custom(t)
	case implements(t, enumType) && t.Kind() == reflect.String:
		values := reflect.New(t).Interface().(Enumerator).Enum()
		return node{"type": "string", "enum": values}, &shape{enum: values}, nil
	}
	return d.plain(t)
}

// custom describes a type that marshals itself: as text, as it says, or as anything.
func (d *derivation) custom(t reflect.Type) (node, *shape, error) {
	if e, ok := reflect.New(t).Interface().(Schemer); ok {
		var n node
		if err := json.Unmarshal(e.JSONSchema(), &n); err != nil {
			return nil, nil, fmt.Errorf("JSONSchema of %v: %w", t, err)
		}
		return n, anything, nil
	}
	if implements(t, jsonMarshaler) || implements(t, jsonUnmarshal) {
		return node{}, anything, nil
	}
	return node{"type": "string"}, &shape{}, nil
}

func (d *derivation) plain(t reflect.Type) (node, *shape, error) {
	switch t.Kind() {
	case reflect.Bool:
		return node{"type": "boolean"}, &shape{}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return integer(t), &shape{}, nil
	case reflect.Float32, reflect.Float64:
		return node{"type": "number"}, &shape{}, nil
	case reflect.String:
		return node{"type": "string"}, &shape{}, nil
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return node{}, anything, nil
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return d.container(node{"type": "string", "contentEncoding": "base64"}), &shape{null: true}, nil
		}
		n, s, err := d.derive(t.Elem())
		return d.container(node{"type": "array", "items": n}), &shape{elem: s, null: true}, err
	case reflect.Array:
		n, s, err := d.derive(t.Elem())
		size := t.Len()
		return node{"type": "array", "items": n, "minItems": size, "maxItems": size}, &shape{elem: s, length: size}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String || custom(t.Key()) {
			return nil, nil, fmt.Errorf("keys of %v are not strings", t)
		}
		n, s, err := d.derive(t.Elem())
		return d.container(node{"type": "object", "additionalProperties": n}), &shape{elem: s, null: true}, err
	case reflect.Struct:
		return d.structure(t)
	}
	return nil, nil, fmt.Errorf(unsupported, t)
}

// container says that a result may be null. Arguments may be too, but nobody needs to know.
func (d *derivation) container(n node) node {
	if d.output {
		return orNull(n)
	}
	return n
}

func orNull(n node) node {
	switch typ := n["type"].(type) {
	case string:
		if n["enum"] != nil {
			break // the list would have to have a null as well
		}
		n = maps.Clone(n)
		n["type"] = []string{typ, "null"}
		return n
	case []string:
		return n
	}
	if len(n) == 0 {
		return n
	}
	return node{"anyOf": []node{n, {"type": "null"}}}
}

// integer gives the range where it is narrower than what every JSON reader has.
func integer(t reflect.Type) node {
	n := node{"type": "integer"}
	bits := t.Bits()
	switch unsigned := t.Kind() >= reflect.Uint; {
	case unsigned && bits < 64:
		n["minimum"], n["maximum"] = 0, uint64(math.MaxUint64)>>(64-bits)
	case unsigned:
		n["minimum"] = 0
	case bits < 64:
		n["minimum"], n["maximum"] = int64(math.MinInt64)>>(64-bits), int64(math.MaxInt64)>>(64-bits)
	}
	return n
}

// structure gives a reference to the definition of a named struct, or an unnamed one itself.
func (d *derivation) structure(t reflect.Type) (node, *shape, error) {
	def := d.structs[t]
	if def == nil {
		def = &definition{shape: &shape{fields: map[string]field{}}}
		if t.Name() == "" {
			n, err := d.object(t, def)
			return n, def.shape, err
		}
		def.name = d.unusedName(t)
		d.structs[t] = def
		d.defs[def.name] = node{} // the name is taken
		n, err := d.object(t, def)
		if err != nil {
			return nil, nil, err
		}
		d.defs[def.name] = n
	}
	def.uses++
	return node{"$ref": "#/$defs/" + def.name}, def.shape, nil
}

// orNull is the definition's shape for a pointer. It shares the fields, which may not all be there
// yet, and fills in the rest when they are.
func (def *definition) orNull() *shape {
	if def.pointer == nil {
		def.pointer = &shape{fields: def.shape.fields, required: def.shape.required, null: true}
	}
	return def.pointer
}

// object describes a struct with its fields, in their order.
func (d *derivation) object(t reflect.Type, def *definition) (node, error) {
	fields, err := jsonFields(t)
	if err != nil {
		return nil, err
	}
	properties := node{}
	for _, f := range fields {
		n, s, err := d.derive(f.Type)
		if err != nil {
			return nil, fmt.Errorf("field %s.%s: %w", t, f.Name, err)
		}
		if f.optional && d.output && !mayHoldNull(f.Type) {
			n = notNull(n)
		}
		if doc := d.docs.field(f.of, f.StructField); doc != "" {
			n = maps.Clone(n)
			n["description"] = doc
		}
		properties[f.name] = n
		def.order = append(def.order, f.name)
		entry := field{shape: s}
		if !f.optional && (d.output || f.Type.Kind() != reflect.Pointer) {
			def.shape.required = append(def.shape.required, f.name)
			entry.required = len(def.shape.required)
		}
		def.shape.fields[f.name] = entry
	}
	n := node{"type": "object", "properties": properties}
	if len(def.shape.required) > 0 {
		n["required"] = def.shape.required
	}
	if !d.output {
		n["additionalProperties"] = false
	}
	if def.pointer != nil {
		def.pointer.required = def.shape.required
	}
	return n, nil
}

// mayHoldNull says that a field of type t which is not empty can still be null: a pointer to what is nil.
func mayHoldNull(t reflect.Type) bool {
	if t.Kind() != reflect.Pointer {
		return false
	}
	switch t.Elem().Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return true
	}
	return false
}

// notNull takes back container's null of a field that is left out instead.
func notNull(n node) node {
	if types, ok := n["type"].([]string); ok {
		n = maps.Clone(n)
		n["type"] = types[0]
	}
	return n
}

// unusedName gives the type's name without its package, with a number when another type has it.
func (d *derivation) unusedName(t reflect.Type) string {
	var parts []string
	for _, part := range strings.FieldsFunc(t.Name(), func(r rune) bool { return strings.ContainsRune("[],*· ", r) }) {
		parts = append(parts, part[strings.LastIndexAny(part, "./")+1:])
	}
	base := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.Join(parts, "_"))
	name := base
	for i := 2; d.defs[name] != nil; i++ {
		name = fmt.Sprintf("%s%d", base, i)
	}
	return name
}

// jsonField is a field as encoding/json sees it.
type jsonField struct {
	reflect.StructField
	of       reflect.Type // the struct that declares it
	name     string
	depth    int
	optional bool
}

// jsonFields gives the fields of t that are sent, those of embedded structs among them. Where
// encoding/json would silently drop fields of one name, or read two spellings of a tag differently
// from CBOR, it fails.
func jsonFields(t reflect.Type) ([]jsonField, error) {
	fields, err := collect(t, 0, nil)
	if err != nil {
		return nil, err
	}
	least := map[string]int{}
	for _, f := range fields {
		if depth, ok := least[f.name]; !ok || f.depth < depth {
			least[f.name] = f.depth
		}
	}
	fields = slices.DeleteFunc(fields, func(f jsonField) bool { return f.depth > least[f.name] })
	seen := map[string]bool{}
	for _, f := range fields {
		if seen[f.name] {
			return nil, fmt.Errorf("two fields of %v are named %q", t, f.name)
		}
		seen[f.name] = true
	}
	return fields, nil
}

func collect(t reflect.Type, depth int, within []reflect.Type) ([]jsonField, error) {
	if slices.Contains(within, t) {
		return nil, fmt.Errorf("%v embeds itself", t)
	}
	var fields []jsonField
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Tag.Get("json") == "-" {
			continue
		}
		if _, ok := f.Tag.Lookup("cbor"); ok {
			return nil, fmt.Errorf("field %v.%s has a cbor tag; the json tag is for both", t, f.Name)
		}
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			if custom(f.Type) {
				return nil, fmt.Errorf("field %v.%s embeds a type that marshals itself; name the field", t, f.Name)
			}
			inner, err := collect(f.Type, depth+1, append(within, t))
			if err != nil {
				return nil, err
			}
			fields = append(fields, inner...)
			continue
		}
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Pointer {
			return nil, fmt.Errorf("field %v.%s embeds a pointer; embed the struct or name the field", t, f.Name)
		}
		if !f.IsExported() {
			continue
		}
		j := jsonField{StructField: f, of: t, name: name, depth: depth}
		if name == "" {
			j.name = f.Name
		} else if strings.ContainsAny(name, "\"'`\\") { // encoding/json would pass over such a name
			return nil, fmt.Errorf("field %v.%s: the name %q has a quote or a backslash", t, f.Name, name)
		}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "omitempty", "omitzero":
				j.optional = true
			case "":
			default:
				return nil, fmt.Errorf("field %v.%s: the json option %q is not supported", t, f.Name, option)
			}
		}
		fields = append(fields, j)
	}
	return fields, nil
}
