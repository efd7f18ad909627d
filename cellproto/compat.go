package cellproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Change is one way in which a newer schema breaks callers of an older one.
type Change struct {
	Func  string `json:"func"`
	Where string `json:"where,omitempty"` // "input.a.b", "output"; "": the function itself
	What  string `json:"what"`            // "the argument is required now"
}

// String gives "add: input.a: the argument is required now".
func (c Change) String() string {
	if c.Where == "" {
		return c.Func + ": " + c.What
	}
	return c.Func + ": " + c.Where + ": " + c.What
}

// Verdict is what a change of schema means to those who call.
type Verdict string

// The verdicts.
const (
	SameSchema     Verdict = "same"
	BothWays       Verdict = "compatible"                  // callers of either can call either
	ForCallersOnly Verdict = "compatible for callers only" // who is made for the newer one cannot call the older one
	Breaking       Verdict = "breaking"
)

// Comparison is what Compare says.
type Comparison struct {
	Verdict Verdict  `json:"verdict"`
	Breaks  []Change `json:"breaks,omitempty"` // callers of the older one
	Adds    []Change `json:"adds,omitempty"`   // what callers of the newer one would miss at the older one, as if that came next
}

// Compare says what it means to go from the schema old to next; nil is one that nobody relies on.
func Compare(old, next *Schema) Comparison {
	if old != nil && next != nil && old.Hash() == next.Hash() {
		return Comparison{Verdict: SameSchema}
	}
	c := Comparison{Verdict: BothWays, Breaks: Compatible(old, next), Adds: Compatible(next, old)}
	switch {
	case len(c.Breaks) > 0:
		c.Verdict = Breaking
	case len(c.Adds) > 0:
		c.Verdict = ForCallersOnly
	}
	return c
}

// Compatible gives the ways in which a program with the schema next breaks those who call it as old
// says; none: it serves them. What was allowed as input has to be allowed still, and what comes as
// output has to be what was promised. Constraints that this package does not understand may not change.
// It does not look at what people read (titles, descriptions). The result is sorted. A program whose schema has
// an older version that they fit serves them as that.
func Compatible(old, next *Schema) []Change {
	if old == nil || next == nil {
		return nil // callers that rely on nothing
	}
	_, changes := next.VersionFor(old)
	return changes
}

func compatible(old, next *Schema) []Change {
	var all []Change
	for _, name := range sortedKeys(old.Functions) {
		before := old.Functions[name]
		after, ok := next.Functions[name]
		if !ok {
			all = append(all, Change{Func: name, What: "the function is gone"})
			continue
		}
		if !sameFunction(before, after) { // most are, and it is quick to see
			all = append(all, compareFunctions(name, before, after)...)
		}
	}
	return all
}

// sameFunction reports that callers of one are callers of the other, by what is written there.
func sameFunction(a, b Function) bool {
	return bytes.Equal(a.Input, b.Input) && bytes.Equal(a.Output, b.Output) && slices.Equal(a.Order, b.Order) &&
		a.Pure == b.Pure && a.Idempotent == b.Idempotent && a.BodyIn == b.BodyIn && a.BodyOut == b.BodyOut
}

func compareFunctions(name string, old, next Function) (changes []Change) {
	report := func(where, what string) {
		c := Change{Func: name, Where: where, What: what}
		if len(changes) < maxChanges && !slices.Contains(changes, c) {
			changes = append(changes, c)
		}
	}
	lost := func(was, is bool, what string) {
		if was && !is {
			report("", what)
		}
	}
	lost(old.Pure, next.Pure, "it is not pure any more: callers that repeat it would be wrong")
	lost(old.Idempotent || old.Pure, next.Idempotent || next.Pure, "it is not idempotent any more: callers that repeat it would be wrong")
	lost(old.BodyIn, next.BodyIn, "it takes no body any more")
	lost(old.BodyOut, next.BodyOut, "its reply has no body any more")
	lost(next.BodyOut, old.BodyOut, "its reply is a body now")
	if order, now := positional(old, true), positional(next, false); len(now) < len(order) || !slices.Equal(order, now[:len(order)]) {
		report("input", fmt.Sprintf("the positional arguments were %.200q and are %.200q", order, now))
	}
	in := comparison{input: true, report: report, seen: map[[2]string]bool{}}
	in.whole("input", old.Input, next.Input)
	out := comparison{report: report, seen: map[[2]string]bool{}}
	out.whole("output", old.Output, next.Output)
	return changes
}

// positional gives the order of the arguments. Without the optional ones, if the schema does not say
// their order itself: they come by name, so that a new one shifts the others.
func positional(f Function, promised bool) []string {
	spec, err := f.Spec()
	if err != nil || f.Input == nil {
		return nil
	}
	if promised && len(f.Order) == 0 {
		return spec.order[:min(len(spec.required), len(spec.order))]
	}
	return spec.order
}

const (
	maxChanges   = 64   // of one function that are reported
	maxCompared  = 4096 // nodes of a function's schemas that are looked at
	maxCompDepth = 64
)

// comparison compares two JSON Schemas: of an input, where the newer one may allow more, or of an
// output, where it may promise more.
type comparison struct {
	input     bool
	report    func(where, what string)
	old, next schemaNode // the roots, which have the definitions
	sameDefs  bool
	seen      map[[2]string]bool // what is compared already: references make circles
}

func (c *comparison) whole(where string, old, next json.RawMessage) {
	if old == nil {
		old = json.RawMessage("true")
	}
	if next == nil {
		next = json.RawMessage("true")
	}
	var err, nerr error
	c.old, err = parseNode(old)
	c.next, nerr = parseNode(next)
	if err != nil || nerr != nil {
		c.report(where, "it cannot be read")
		return
	}
	c.sameDefs = sameJSON(c.old.keys["$defs"], c.next.keys["$defs"])
	c.compare(where, old, next, 0)
}

// compare reports what in next breaks those who rely on old.
func (c *comparison) compare(where string, old, next json.RawMessage, depth int) {
	pair := [2]string{string(old), string(next)}
	if c.seen[pair] || c.sameDefs && sameJSON(old, next) {
		return
	}
	c.seen[pair] = true
	if depth > maxCompDepth || len(c.seen) > maxCompared {
		c.report(where, "it has changed, and is too large or too deep to compare")
		return
	}
	a, err := resolve(c.old, old)
	b, nerr := resolve(c.next, next)
	if err != nil || nerr != nil {
		c.report(where, "it cannot be read")
		return
	}
	// Of an input the older one has to lie within the newer one, of an output the other way around.
	narrow, wide := a, b
	if !c.input {
		narrow, wide = b, a
	}
	switch {
	case narrow.never:
		return
	case wide.never:
		c.report(where, "nothing is allowed any more")
		return
	}
	if extra := narrow.types &^ wide.types; extra&^typeInteger != 0 || extra != 0 && wide.types&typeNumber == 0 {
		c.report(where, fmt.Sprintf("the type was %v and is %v", a.types, b.types))
		return
	}
	if a.types&b.types&typeObject != 0 {
		c.compareObjects(where, a, b, depth)
	}
	if ai, bi := a.keys["items"], b.keys["items"]; a.types&b.types&typeArray != 0 && (ai != nil || bi != nil) {
		c.compare(where+"[]", orTrue(ai), orTrue(bi), depth+1)
	}
	c.compareValues(where, narrow, wide)
	c.compareRest(where, narrow, wide)
}

func orTrue(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("true")
	}
	return raw
}

func (c *comparison) compareObjects(where string, a, b schemaNode, depth int) {
	for _, name := range sortedKeys(a.properties) {
		at := where + "." + cutText(name, MaxFuncName)
		next, ok := b.properties[name]
		switch {
		case ok:
			c.compare(at, a.properties[name], next, depth+1)
		case !c.input || !b.openEnded():
			c.report(at, "it is gone")
		}
	}
	if c.input {
		for _, name := range b.required {
			if !slices.Contains(a.required, name) {
				c.report(where+"."+cutText(name, MaxFuncName), "it is required now")
			}
		}
		if a.openEnded() && !b.openEnded() && len(a.properties) > 0 {
			c.report(where, "other names are not allowed any more")
		}
		return
	}
	for _, name := range a.required {
		if !slices.Contains(b.required, name) {
			c.report(where+"."+cutText(name, MaxFuncName), "it is not always there any more")
		}
	}
}

// compareValues looks at lists of values: each that narrow allows has to be in wide.
func (c *comparison) compareValues(where string, narrow, wide schemaNode) {
	allowed, ok := values(wide)
	if !ok {
		return
	}
	given, ok := values(narrow)
	if !ok {
		c.report(where, "only some values are allowed on one side")
		return
	}
	for _, v := range given {
		if !slices.ContainsFunc(allowed, func(w json.RawMessage) bool { return sameJSON(v, w) }) {
			what := "the value %.80s is not allowed any more"
			if !c.input {
				what = "the value %.80s is new"
			}
			c.report(where, fmt.Sprintf(what, v))
		}
	}
}

func values(n schemaNode) (list []json.RawMessage, ok bool) {
	if v, ok := n.keys["const"]; ok {
		return []json.RawMessage{v}, true
	}
	raw, ok := n.keys["enum"]
	return list, ok && json.Unmarshal(raw, &list) == nil
}

// forPeople are the keys of a JSON Schema that allow and forbid nothing, and understood those that are
// compared elsewhere.
var (
	forPeople  = []string{"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id"}
	understood = []string{"type", "properties", "required", "items", "enum", "const", "$defs", "$ref", "additionalProperties"}
	lower      = []string{"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
	upper      = []string{"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
)

// compareRest looks at the constraints of wide: narrow has to have each, at least as tight.
func (c *comparison) compareRest(where string, narrow, wide schemaNode) {
	for _, key := range sortedKeys(wide.keys) {
		if slices.Contains(forPeople, key) || slices.Contains(understood, key) {
			continue
		}
		has, ok := narrow.keys[key]
		var x, y float64
		numbers := ok && json.Unmarshal(has, &x) == nil && json.Unmarshal(wide.keys[key], &y) == nil
		switch {
		case ok && c.sameDefs && sameJSON(has, wide.keys[key]):
		case numbers && slices.Contains(lower, key) && x >= y:
		case numbers && slices.Contains(upper, key) && x <= y:
		default:
			c.report(where, fmt.Sprintf("%s has changed", cutText(key, MaxFuncName)))
		}
	}
}

// sameJSON reports that two values are the same but for spaces and the order of keys.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a == nil || b == nil {
		return false
	}
	x, err := canonicalJSON("compare", a, len(a))
	y, nerr := canonicalJSON("compare", b, len(b))
	return err == nil && nerr == nil && bytes.Equal(x, y)
}
