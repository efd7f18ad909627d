package cellproto

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
)

// document is one JSON Schema (2020-12) as a whole, read once: following a reference costs nothing then.
// It is not written to afterwards.
type document struct {
	root *schemaNode
	defs map[string]*schemaNode
}

// schemaNode is one schema within a document, as far as this package reads it.
type schemaNode struct {
	bad   error     // why it cannot be read
	never bool      // the schema is false
	open  bool      // it has keys that may allow members which are not among the properties
	time  bool      // of format date-time
	types jsonTypes // "type", else the types of the listed values
	sum   uint64    // of all but what people read and the definitions: the same sum, the same schema

	properties map[string]*schemaNode // nil: the key is not there
	names      []string               // of the properties, sorted
	required   []string
	must       map[string]bool // required
	items      *schemaNode     // nil: the key is not there
	additional *schemaNode     // nil: the key is not there
	anyOf      []*schemaNode
	orNull     *schemaNode   // it is this, or null, and says nothing else
	listed     *listed       // enum or const; nil: neither
	rest       []constraint  // the other keys but those for people, sorted
	bounds     []constraint  // those of rest that a value is checked against
	inner      []*schemaNode // all schemas within it

	ref    string      // "$ref"; "": none
	target *schemaNode // where that leads; nil: out of the document, or nowhere
}

// constraint is one key of a schema that this package compares, but knows no more of.
type constraint struct {
	key    string
	sum    uint64
	number json.Number   // "": it is none
	off    bool          // its value is false
	inner  []*schemaNode // the schemas that it holds
}

// listed are the values of an enum or const.
type listed struct {
	values  []any
	sums    []uint64
	texts   map[string]bool
	numbers map[float64]bool
	null    bool
	other   bool // there are lists or maps, with which values are not compared
	bools   [2]bool
}

// The keys of a JSON Schema: those that allow and forbid nothing, those that hold schemas, and those that
// schemaNode has fields for.
var (
	forPeople = keySet("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id")
	oneSchema = keySet("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
		"unevaluatedItems", "unevaluatedProperties", "contentSchema")
	listOfSchemas = keySet("anyOf", "oneOf", "allOf", "prefixItems")
	mapOfSchemas  = keySet("properties", "patternProperties", "dependentSchemas")
	ownField      = keySet("type", "properties", "required", "items", "additionalProperties", "enum", "const", "$ref", "$defs")
	opening       = []string{"patternProperties", "allOf", "anyOf", "oneOf", "if", "$dynamicRef", "$ref"}
	bounding      = keySet("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength",
		"minItems", "maxItems", "minProperties", "maxProperties")
)

func keySet(keys ...string) map[string]bool {
	set := make(map[string]bool, len(keys))
	for _, k := range keys {
		set[k] = true
	}
	return set
}

// anyNode is the schema that allows everything, noNode the one that allows nothing.
var (
	anyNode = &schemaNode{types: anyType, sum: sumOf(true)}
	noNode  = &schemaNode{never: true, sum: sumOf(false)}
)

// compileSchema reads a schema. What cannot be read is in the nodes.
func compileSchema(raw json.RawMessage) *document {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil || dec.More() {
		return &document{root: &schemaNode{bad: notSchema(), types: anyType}}
	}
	d := &document{defs: map[string]*schemaNode{}}
	d.root = newNode(v)
	if keys, ok := v.(map[string]any); ok {
		defs, _ := keys["$defs"].(map[string]any)
		for name, def := range defs {
			d.defs[name] = newNode(def)
		}
	}
	d.root.follow(d)
	for _, def := range d.defs {
		def.follow(d)
	}
	return d
}

func notSchema() error { return Errorf("", BadInput, "a JSON Schema is an object, true or false") }

// local gives the name of the definition that a reference within the document leads to.
func (n *schemaNode) local() (name string, ok bool) {
	name, ok = strings.CutPrefix(n.ref, "#/$defs/")
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(name), ok
}

// follow finds where the references within n lead.
func (n *schemaNode) follow(d *document) {
	if n.ref != "" {
		if name, ok := n.local(); ok {
			n.target = d.defs[name]
		}
	}
	for _, in := range n.inner {
		in.follow(d)
	}
}

func newNode(v any) *schemaNode {
	keys, ok := v.(map[string]any)
	switch {
	case v == true, ok && len(keys) == 0:
		return anyNode
	case v == false:
		return noNode
	case !ok:
		return &schemaNode{bad: notSchema(), types: anyType, sum: sumOf(v)}
	}
	n := &schemaNode{types: anyType}
	var h maphash.Hash
	h.SetSeed(jsonSeed)
	for _, key := range sortedKeys(keys) {
		if forPeople[key] || key == "$defs" {
			continue
		}
		c := constraint{key: key}
		c.inner, c.sum = n.schemas(key, keys[key])
		n.inner = append(n.inner, c.inner...)
		writeSum(&h, sumOf(key), c.sum)
		if !ownField[key] {
			n.rest = append(n.rest, c.with(keys[key]))
		}
	}
	n.sum = h.Sum64()
	n.open = slices.ContainsFunc(opening, func(key string) bool { _, ok := keys[key]; return ok })
	n.bad = n.read(keys)
	return n
}

// with notes a constraint's value.
func (c constraint) with(v any) constraint {
	c.number, _ = v.(json.Number)
	c.off = v == false
	return c
}

// schemas gives the schemas that stand under a key, and the sum of its value.
func (n *schemaNode) schemas(key string, v any) (inner []*schemaNode, sum uint64) {
	var h maphash.Hash
	h.SetSeed(jsonSeed)
	list, isList := v.([]any)
	members, isMap := v.(map[string]any)
	switch {
	case oneSchema[key]:
		inner = []*schemaNode{newNode(v)}
	case listOfSchemas[key] && isList:
		for _, e := range list {
			inner = append(inner, newNode(e))
		}
	case mapOfSchemas[key] && isMap:
		for _, name := range sortedKeys(members) {
			inner = append(inner, newNode(members[name]))
			writeSum(&h, sumOf(name))
		}
	default:
		return nil, sumOf(v)
	}
	for _, in := range inner {
		writeSum(&h, in.sum)
	}
	return inner, h.Sum64()
}

// read fills in the fields from the keys; the schemas within are in inner, in the order of the keys.
func (n *schemaNode) read(keys map[string]any) (err error) {
	next := 0
	for _, key := range sortedKeys(keys) {
		switch v := keys[key]; {
		case key == "items":
			n.items = n.inner[next]
		case key == "additionalProperties":
			n.additional = n.inner[next]
		case key == "anyOf":
			if list, ok := v.([]any); ok {
				n.anyOf = n.inner[next : next+len(list)]
			}
		case key == "properties":
			members, ok := v.(map[string]any)
			if !ok {
				return wrapAt("", key, Errorf("", BadInput, "not a JSON object"))
			}
			n.names = sortedKeys(members)
			n.properties = make(map[string]*schemaNode, len(members))
			for i, name := range n.names {
				n.properties[name] = n.inner[next+i]
			}
		}
		next += countSchemas(key, keys[key])
	}
	if err := n.readTypes(keys); err != nil {
		return err
	}
	if v, ok := keys["required"]; ok {
		if n.required, err = textList(v); err != nil {
			return wrapAt("", "required", err)
		}
		n.must = keySet(n.required...)
	}
	if v, ok := keys["$ref"]; ok {
		if n.ref, ok = v.(string); !ok {
			return wrapAt("", "$ref", Errorf("", BadInput, "it is not the address of a schema"))
		}
		n.ref = cmp.Or(n.ref, "#")
	}
	n.time = keys["format"] == "date-time"
	for _, c := range n.rest {
		if bounding[c.key] && c.number != "" {
			n.bounds = append(n.bounds, c)
		}
	}
	n.pointer()
	return nil
}

// countSchemas is how many schemas stand under a key.
func countSchemas(key string, v any) int {
	switch list := v.(type) {
	case []any:
		if listOfSchemas[key] {
			return len(list)
		}
	case map[string]any:
		if mapOfSchemas[key] {
			return len(list)
		}
	}
	if oneSchema[key] {
		return 1
	}
	return 0
}

// pointer finds {"anyOf": [X, {"type": "null"}]}, which is how a pointer is described.
func (n *schemaNode) pointer() {
	if len(n.anyOf) != 2 || !n.only(anyType, 1) {
		return
	}
	for i, in := range n.anyOf {
		if in.only(typeNull, 0) {
			n.orNull = n.anyOf[1-i]
		}
	}
}

// only says that a schema asks for types, and has so many keys besides that are not fields of a node.
func (n *schemaNode) only(types jsonTypes, rest int) bool {
	return n.bad == nil && !n.never && n.types == types && len(n.rest) == rest && n.listed == nil && n.properties == nil &&
		n.required == nil && n.items == nil && n.additional == nil && n.ref == ""
}

func (n *schemaNode) readTypes(keys map[string]any) (err error) {
	if list, ok := keys["enum"].([]any); ok {
		n.listed = newListed(list)
	}
	if v, ok := keys["const"]; ok {
		n.listed = newListed([]any{v})
	}
	if t, ok := keys["type"]; ok {
		n.types, err = parseTypes(t)
		return err
	}
	if n.listed != nil && len(n.listed.values) > 0 {
		n.types = 0
		for _, v := range n.listed.values {
			n.types |= typeOfListed(v)
		}
	}
	return nil
}

func newListed(values []any) *listed {
	l := &listed{values: values, texts: map[string]bool{}, numbers: map[float64]bool{}}
	for _, v := range values {
		l.sums = append(l.sums, sumOf(v))
		switch v := v.(type) {
		case nil:
			l.null = true
		case bool:
			l.bools[boolIndex(v)] = true
		case string:
			l.texts[v] = true
		case json.Number:
			if x, err := v.Float64(); err == nil {
				l.numbers[x] = true
			}
		default:
			l.other = true
		}
	}
	return l
}

func boolIndex(b bool) int {
	if b {
		return 1
	}
	return 0
}

func typeOfListed(v any) jsonTypes {
	switch v := v.(type) {
	case nil:
		return typeNull
	case bool:
		return typeBoolean
	case string:
		return typeString
	case []any:
		return typeArray
	case json.Number:
		return typeOf([]byte(v))
	}
	return typeObject
}

// parseTypes reads the value of "type": a name or a list of names.
func parseTypes(v any) (t jsonTypes, err error) {
	names := []string{""}
	if name, ok := v.(string); ok {
		names[0] = name
	} else if names, err = textList(v); err != nil {
		return 0, Errorf("type", BadInput, "neither a name nor a list of names")
	}
	for _, name := range names {
		i := slices.Index(jsonTypeNames[:], name)
		if i < 0 {
			return 0, Errorf("type", BadInput, "%.80q is none of %s", name, strings.Join(jsonTypeNames[:], ", "))
		}
		t |= 1 << i
	}
	if t == 0 {
		return 0, Errorf("type", BadInput, "the list is empty")
	}
	return t, nil
}

func textList(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, Errorf("", BadInput, "not a list of texts")
	}
	texts := make([]string, len(list))
	for i, e := range list {
		if texts[i], ok = e.(string); !ok {
			return nil, Errorf("", BadInput, "not a list of texts")
		}
	}
	return texts, nil
}

// sumOf gives the sum of a decoded JSON value. Sums are seeded for this process, so that nobody can prepare
// two values with one sum.
func sumOf(v any) uint64 {
	var h maphash.Hash
	h.SetSeed(jsonSeed)
	switch v := v.(type) {
	case nil:
		h.WriteByte('n')
	case bool:
		h.WriteByte('b')
		h.WriteByte(byte(boolIndex(v)))
	case string:
		h.WriteByte('s')
		h.WriteString(v)
	case json.Number:
		h.WriteByte('d')
		h.WriteString(string(v))
	case []any:
		h.WriteByte('l')
		for _, e := range v {
			writeSum(&h, sumOf(e))
		}
	case map[string]any:
		h.WriteByte('m')
		for _, key := range sortedKeys(v) {
			writeSum(&h, sumOf(key), sumOf(v[key]))
		}
	}
	return h.Sum64()
}

func writeSum(h *maphash.Hash, sums ...uint64) {
	var b [8]byte
	for _, s := range sums {
		binary.LittleEndian.PutUint64(b[:], s)
		h.Write(b[:])
	}
}

// maxRefs bounds a chain of references, so that a circle of them ends.
const maxRefs = 8

// resolve follows "$ref". What it cannot follow (another document, an anchor, a circle) is the schema that
// says nothing.
func (n *schemaNode) resolve() (*schemaNode, error) {
	for range maxRefs {
		switch {
		case n.bad != nil:
			return n, n.bad
		case n.ref == "":
			return n, nil
		case n.dangling():
			return n, Errorf("$ref", BadInput, "%.80q is not there", n.ref)
		case n.target == nil:
			return anyNode, nil
		}
		n = n.target
	}
	return anyNode, nil
}

// dangling says that the reference names a definition that is not there.
func (n *schemaNode) dangling() bool {
	_, ok := n.local()
	return ok && n.target == nil
}

// openEnded reports that names beyond the properties may be given. JSON Schema allows them unless it
// is told otherwise; here a schema that lists properties means those, so that a misspelt argument is
// an error even of schemas written by hand.
func (n *schemaNode) openEnded() bool {
	switch {
	case n.open:
		return true
	case n.additional == nil:
		return n.properties == nil
	}
	return !n.additional.never
}
