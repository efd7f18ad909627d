package cellproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of checking one value. A schema is a stranger's, and can ask for any amount of work: past them the
// value passes.
const (
	maxFitSteps = 20_000
	maxFitBytes = 256 << 10 // of a reply; a larger one passes
)

// FitReply says whether a reply is what the function's output promises: types, members, elements, lists of
// values and bounds of numbers; constraints beyond that are not looked at. The error is BadReply and names
// the place. A raw reply has no type, and passes.
func (f Function) FitReply(codec Codec, payload []byte) error {
	if f.BodyOut {
		return nil
	}
	return fit("reply", BadReply, f.Output, codec, payload)
}

// FitArguments is FitReply for arguments and the function's input: BadInput.
func (f Function) FitArguments(codec Codec, payload []byte) error {
	return fit("arguments", BadInput, f.Input, codec, payload)
}

func fit(what string, kind Kind, schema json.RawMessage, codec Codec, payload []byte) error {
	if schema == nil || len(payload) > maxFitBytes {
		return nil
	}
	var v any
	var err error
	switch codec {
	case JSON:
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.UseNumber()
		if err = dec.Decode(&v); err == nil && dec.More() {
			err = fmt.Errorf("something follows the value")
		}
	case CBOR:
		err = fitCBOR.Unmarshal(payload, &v)
	default:
		return nil
	}
	if err != nil {
		return Errorf("check the "+what, kind, "cannot be decoded: %w", err)
	}
	root, err := parseNode(schema)
	if err != nil {
		return nil
	}
	w := fitting{root: root}
	if w.value(what, schema, v, 0); w.fault != "" {
		return Errorf("check the "+what, kind, "%s", w.fault)
	}
	return nil
}

var fitCBOR = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 2 * MaxArgsDepth, IndefLength: cbor.IndefLengthForbidden,
		MaxArrayElements: maxFitBytes, MaxMapPairs: maxFitBytes, IntDec: cbor.IntDecConvertSignedOrBigInt,
	}.DecMode()
	if err != nil {
		panic(err) // the options contradict each other
	}
	return m
}()

// fitting checks one value.
type fitting struct {
	root  schemaNode
	steps int
	fault string // the first; "": none
}

func (w *fitting) fail(at, format string, args ...any) {
	if w.fault == "" {
		w.fault = cutText(at, MaxErrorText/2) + " " + fmt.Sprintf(format, args...)
	}
}

func (w *fitting) value(at string, raw json.RawMessage, v any, depth int) {
	if w.steps++; w.steps > maxFitSteps || depth > maxCompDepth || w.fault != "" {
		return
	}
	n, err := resolve(w.root, raw)
	if err != nil {
		return
	}
	if n.never {
		w.fail(at, "has no value that is allowed")
		return
	}
	if alternatives, ok := n.keys["anyOf"]; ok {
		w.anyOf(at, alternatives, v, depth)
	}
	got := typesOfValue(v)
	if n.types&got == 0 {
		w.fail(at, "is of type %v, not %v", got&^typeNumber|got&typeNumber, n.types)
		return
	}
	if allowed, ok := values(n); ok && !slices.ContainsFunc(allowed, func(a json.RawMessage) bool { return sameValue(a, v) }) {
		w.fail(at, "has a value that is not listed")
		return
	}
	switch v := v.(type) {
	case map[string]any:
		w.members(at, n, len(v), func(name string) (any, bool) { m, ok := v[name]; return m, ok }, depth)
		w.additional(at, n, v, depth)
	case map[any]any:
		named := make(map[string]any, len(v))
		for k, m := range v {
			name, ok := k.(string)
			if !ok {
				w.fail(at, "has a key that is not text")
				return
			}
			named[name] = m
		}
		w.value(at, raw, named, depth)
	case []any:
		w.count(at, n, "minItems", "maxItems", len(v))
		if items := n.keys["items"]; items != nil {
			for i, e := range v {
				w.value(fmt.Sprintf("%s[%d]", at, i), items, e, depth+1)
			}
		}
	case string:
		w.count(at, n, "minLength", "maxLength", utf8.RuneCountInString(v))
	default:
		w.bounds(at, n, v)
	}
}

// anyOf passes a value that fits one of the alternatives.
func (w *fitting) anyOf(at string, alternatives json.RawMessage, v any, depth int) {
	var list []json.RawMessage
	if json.Unmarshal(alternatives, &list) != nil {
		return
	}
	for _, raw := range list {
		try := fitting{root: w.root, steps: w.steps}
		try.value(at, raw, v, depth+1)
		if w.steps = try.steps; try.fault == "" {
			return
		}
	}
	w.fail(at, "is none of what is allowed")
}

func (w *fitting) members(at string, n schemaNode, count int, get func(string) (any, bool), depth int) {
	w.count(at, n, "minProperties", "maxProperties", count)
	for _, name := range n.required {
		if _, ok := get(name); !ok {
			w.fail(at, "lacks %.80q", name)
		}
	}
	for _, name := range sortedKeys(n.properties) {
		if m, ok := get(name); ok {
			w.value(at+"."+cutText(name, MaxFuncName), n.properties[name], m, depth+1)
		}
	}
}

// additional checks the members that the schema does not name.
func (w *fitting) additional(at string, n schemaNode, v map[string]any, depth int) {
	more, ok := n.keys["additionalProperties"]
	if _, patterns := n.keys["patternProperties"]; !ok || patterns {
		return
	}
	for _, name := range sortedKeys(v) {
		if n.properties[name] == nil {
			w.value(at+"."+cutText(name, MaxFuncName), more, v[name], depth+1)
		}
	}
}

func (w *fitting) count(at string, n schemaNode, least, most string, count int) {
	w.limit(at, n, least, func(x float64) bool { return float64(count) >= x })
	w.limit(at, n, most, func(x float64) bool { return float64(count) <= x })
}

func (w *fitting) limit(at string, n schemaNode, key string, ok func(float64) bool) {
	raw, there := n.keys[key]
	var x float64
	if there && json.Unmarshal(raw, &x) == nil && !ok(x) {
		w.fail(at, "is past %s %.40s", key, raw)
	}
}

func (w *fitting) bounds(at string, n schemaNode, v any) {
	x, ok := number(v)
	if !ok {
		return
	}
	w.limit(at, n, "minimum", func(y float64) bool { return x >= y })
	w.limit(at, n, "maximum", func(y float64) bool { return x <= y })
	w.limit(at, n, "exclusiveMinimum", func(y float64) bool { return x > y })
	w.limit(at, n, "exclusiveMaximum", func(y float64) bool { return x < y })
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		x, err := v.Float64()
		return x, err == nil
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	case big.Int:
		x, _ := new(big.Float).SetInt(&v).Float64()
		return x, true
	}
	return 0, false
}

// typesOfValue gives the types that a decoded value has: an integer is a number too. Bytes and times, which CBOR
// has, are texts in JSON.
func typesOfValue(v any) jsonTypes {
	switch v := v.(type) {
	case nil:
		return typeNull
	case bool:
		return typeBoolean
	case string, []byte:
		return typeString
	case []any:
		return typeArray
	case map[string]any, map[any]any:
		return typeObject
	case int64, uint64, big.Int:
		return typeInteger | typeNumber
	case float64, json.Number:
		x, _ := number(v)
		if x == math.Trunc(x) {
			return typeInteger | typeNumber
		}
		return typeNumber
	}
	return anyType
}

// sameValue compares a value that a schema lists with a decoded one.
func sameValue(listed json.RawMessage, v any) bool {
	switch v := v.(type) {
	case string:
		var s string
		return json.Unmarshal(listed, &s) == nil && s == v
	case nil:
		return string(listed) == "null"
	case bool:
		return string(listed) == fmt.Sprint(v)
	}
	x, ok := number(v)
	if !ok {
		return true // lists and maps of values are not looked at
	}
	var y float64
	return json.Unmarshal(listed, &y) == nil && x == y
}
