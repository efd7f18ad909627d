package cellproto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of checking one value. A schema is a stranger's, and can ask for any amount of work: past them the
// value passes.
const (
	maxFitSteps = 20_000 // and one more for each byte of the value
	maxFitBytes = 256 << 10
)

// Fit checks values against what a function's schema says of its reply or its arguments. It is read once, and
// checks many, concurrently. nil lets everything pass.
type Fit struct {
	what string
	kind Kind
	root *schemaNode
}

// ReplyFit is for replies: whether they are what the function's output promises in types, members, elements, lists
// of values and bounds; constraints beyond that are not looked at. Its errors are BadReply and name the place. A raw
// reply and a body have no type, and pass.
func (f Function) ReplyFit() *Fit {
	if f.BodyOut || f.Output == nil {
		return nil
	}
	return &Fit{what: "reply", kind: BadReply, root: compileSchema(f.Output).root}
}

// ArgumentsFit is ReplyFit for arguments and the function's input: BadInput.
func (f Function) ArgumentsFit() *Fit {
	if f.Input == nil {
		return nil
	}
	return &Fit{what: "arguments", kind: BadInput, root: compileSchema(f.Input).root}
}

// Check says whether a value fits. What is past 256 KiB, or nested deeper than 64, passes.
func (t *Fit) Check(codec Codec, payload []byte) error {
	if t == nil || len(payload) > maxFitBytes || t.root == anyNode {
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
		if deep := (*cbor.MaxNestedLevelError)(nil); errors.As(err, &deep) {
			return nil
		}
	default:
		return nil
	}
	if err != nil {
		return Errorf("check the "+t.what, t.kind, "cannot be decoded: %w", err)
	}
	w := fitting{steps: maxFitSteps + len(payload), cbor: codec == CBOR}
	if m := w.value(t.root, v, 0); m != nil {
		return Errorf("check the "+t.what, t.kind, "%s %s", cutText(t.what+m.at, MaxErrorText/2), m.what)
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
	steps int  // that are left
	cbor  bool // the value was in CBOR
	quiet bool // nobody reads what does not fit
}

// misfit is why a value does not fit: at is its place below the value that was asked about.
type misfit struct{ at, what string }

var somewhere = &misfit{what: "is none of what is allowed"}

func (w *fitting) fail(format string, args ...any) *misfit {
	if w.quiet {
		return somewhere
	}
	return &misfit{what: fmt.Sprintf(format, args...)}
}

// under puts a place in front of that of m. Long places are cut.
func (w *fitting) under(m *misfit, place func() string) *misfit {
	if m != nil && !w.quiet && len(m.at) < MaxErrorText/2 {
		m.at = place() + m.at
	}
	return m
}

func (w *fitting) underName(m *misfit, name string) *misfit {
	return w.under(m, func() string { return "." + placeName(name) })
}

// value checks v, and what stands beside a reference as well as where that leads.
func (w *fitting) value(n *schemaNode, v any, depth int) *misfit {
	for range maxRefs {
		if w.steps--; w.steps < 0 || depth > maxCompDepth || n.bad != nil || n == anyNode {
			return nil
		}
		if m := w.own(n, v, depth); m != nil || n.target == nil {
			return m
		}
		n = n.target
	}
	return nil
}

// own checks v against what n itself says.
func (w *fitting) own(n *schemaNode, v any, depth int) *misfit {
	switch {
	case n.never:
		return w.fail("has no value that is allowed")
	case v == nil && w.cbor && n.time: // a time that is not set
		return nil
	}
	if n.anyOf != nil {
		if m := w.anyOf(n, v, depth); m != nil {
			return m
		}
	}
	got := typesOfValue(v)
	if n.types&got == 0 {
		return w.fail("is of type %v, not %v", got, n.types)
	}
	if n.listed != nil && !n.listed.has(v) {
		return w.fail("has a value that is not listed")
	}
	switch v := v.(type) {
	case map[string]any:
		return w.members(n, v, depth)
	case map[any]any:
		return w.anyMembers(n, v, depth)
	case []any:
		return w.elements(n, v, depth)
	case string:
		if n.bounds != nil {
			w.steps -= len(v) / 16
			return w.count(n, "minLength", "maxLength", utf8.RuneCountInString(v))
		}
	default:
		return w.bounds(n, v)
	}
	return nil
}

// anyOf passes a value that fits one of the alternatives.
func (w *fitting) anyOf(n *schemaNode, v any, depth int) *misfit {
	if n.orNull != nil {
		if v == nil {
			return nil
		}
		return w.value(n.orNull, v, depth+1)
	}
	quiet := w.quiet
	w.quiet = true
	defer func() { w.quiet = quiet }()
	for _, in := range n.anyOf {
		if w.value(in, v, depth+1) == nil {
			return nil
		}
	}
	return &misfit{what: somewhere.what}
}

func (w *fitting) elements(n *schemaNode, v []any, depth int) *misfit {
	if m := w.count(n, "minItems", "maxItems", len(v)); m != nil || n.items == nil {
		return m
	}
	for i, e := range v {
		if m := w.value(n.items, e, depth+1); m != nil {
			return w.under(m, func() string { return fmt.Sprintf("[%d]", i) })
		}
	}
	return nil
}

// anyMembers is members of a map whose keys may be anything, as far as the decoder knows.
func (w *fitting) anyMembers(n *schemaNode, v map[any]any, depth int) *misfit {
	named := make(map[string]any, len(v))
	for k, m := range v {
		name, ok := k.(string)
		if !ok {
			return w.fail("has a key that is not text")
		}
		named[name] = m
	}
	return w.members(n, named, depth)
}

func (w *fitting) members(n *schemaNode, v map[string]any, depth int) *misfit {
	if m := w.count(n, "minProperties", "maxProperties", len(v)); m != nil {
		return m
	}
	for _, name := range n.required { // all but the last one that is looked at are members
		if _, ok := v[name]; !ok {
			return w.fail("lacks %.80q", name)
		}
	}
	names := n.names
	if len(v) < len(names) {
		names = sortedKeys(v)
	}
	for _, name := range names {
		m, there := v[name]
		if p := n.properties[name]; there && p != nil {
			if m := w.value(p, m, depth+1); m != nil {
				return w.underName(m, name)
			}
		}
	}
	return w.others(n, v, depth)
}

// others checks the members that the schema does not name.
func (w *fitting) others(n *schemaNode, v map[string]any, depth int) *misfit {
	if _, patterns := find(n.rest, "patternProperties"); patterns || n.additional == nil {
		return nil
	}
	for _, name := range sortedKeys(v) {
		if n.properties[name] == nil {
			if m := w.value(n.additional, v[name], depth+1); m != nil {
				return w.underName(m, name)
			}
		}
	}
	return nil
}

func (w *fitting) count(n *schemaNode, least, most string, count int) *misfit {
	for _, c := range n.bounds {
		x, err := c.number.Float64()
		if err == nil && (c.key == least && float64(count) < x || c.key == most && float64(count) > x) {
			return w.past(c)
		}
	}
	return nil
}

func (w *fitting) past(c constraint) *misfit { return w.fail("is past %s %.40s", c.key, c.number) }

func (w *fitting) bounds(n *schemaNode, v any) *misfit {
	x, ok := number(v)
	if !ok {
		return nil
	}
	for _, c := range n.bounds {
		y, err := c.number.Float64()
		if err != nil {
			continue
		}
		if c.key == "minimum" && x < y || c.key == "maximum" && x > y ||
			c.key == "exclusiveMinimum" && x <= y || c.key == "exclusiveMaximum" && x >= y {
			return w.past(c)
		}
	}
	return nil
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

// has says whether a decoded value is listed.
func (l *listed) has(v any) bool {
	switch v := v.(type) {
	case string:
		return l.texts[v]
	case nil:
		return l.null
	case bool:
		return l.bools[boolIndex(v)]
	}
	x, ok := number(v)
	return !ok || l.numbers[x] // lists and maps are not compared
}
