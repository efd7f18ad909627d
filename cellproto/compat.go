package cellproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
// an older version that they fit serves them as that. Two schemas that it would take too long to compare are not
// compatible.
func Compatible(old, next *Schema) []Change {
	if old == nil || next == nil {
		return nil // callers that rely on nothing
	}
	_, changes := next.VersionFor(old)
	return changes
}

func compatible(old, next *Schema) []Change {
	var all []Change
	steps := maxCompared
	for _, name := range sortedKeys(old.Functions) {
		before := old.Functions[name]
		after, ok := next.Functions[name]
		if !ok {
			all = append(all, Change{Func: name, What: "the function is gone"})
			continue
		}
		if !sameFunction(before, after) { // most are, and it is quick to see
			all = append(all, compareFunctions(name, before, after, &steps)...)
		}
	}
	return all
}

// sameFunction reports that callers of one are callers of the other, by what is written there.
func sameFunction(a, b Function) bool {
	return bytes.Equal(a.Input, b.Input) && bytes.Equal(a.Output, b.Output) && slices.Equal(a.Order, b.Order) &&
		a.Pure == b.Pure && a.Idempotent == b.Idempotent && a.BodyIn == b.BodyIn && a.BodyOut == b.BodyOut
}

func compareFunctions(name string, old, next Function, steps *int) (changes []Change) {
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
	in := comparison{input: true, report: report, steps: steps}
	in.whole("input", old.Input, next.Input)
	out := comparison{report: report, steps: steps}
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
	maxChanges   = 64      // of one function that are reported
	maxCompared  = 500_000 // keys and names that are looked at to compare two schemas of cells
	maxCompDepth = 64
)

// comparison compares two JSON Schemas: of an input, where the newer one may allow more, or of an
// output, where it may promise more.
type comparison struct {
	input  bool
	report func(where, what string)
	steps  *int // that are left
	dirty  map[*schemaNode]bool
	seen   map[pair]bool // what is compared, or about to be: references make circles
	queue  []place       // what is to be compared
}

type pair struct{ old, next *schemaNode }

// place is where a pair was found first.
type place struct {
	pair
	where string
	depth int
}

func (c *comparison) whole(where string, old, next json.RawMessage) {
	a, b := &document{root: anyNode}, &document{root: anyNode}
	if old != nil {
		a = compileSchema(old)
	}
	if next != nil {
		b = compileSchema(next)
	}
	c.seen, c.dirty = map[pair]bool{}, dirty(a, b)
	c.compare(where, a.root, b.root, 0)
	for len(c.queue) > 0 { // what is least deep comes first, so that a change is said of the place that people think of
		p := c.queue[0]
		c.queue = c.queue[1:]
		c.examine(p.where, p.old, p.next, p.depth)
	}
}

// compare has two schemas be compared.
func (c *comparison) compare(where string, old, next *schemaNode, depth int) {
	p := pair{old, next}
	if c.same(old, next) || c.seen[p] {
		return
	}
	c.seen[p] = true
	c.queue = append(c.queue, place{p, where, depth})
}

// examine reports what in next breaks those who rely on old.
func (c *comparison) examine(where string, old, next *schemaNode, depth int) {
	if *c.steps -= 1 + len(where)/64; *c.steps < 0 || depth > maxCompDepth {
		c.report(where, "it has changed, and is too large or too deep to compare")
		return
	}
	a, b := look(old), look(next)
	// Of an input the older one has to lie within the newer one, of an output the other way around.
	narrow, wide := &a, &b
	if !c.input {
		narrow, wide = wide, narrow
	}
	switch {
	case a.bad != nil || b.bad != nil:
		c.report(where, "it cannot be read")
		return
	case narrow.never && !narrow.null:
		return
	case wide.never && !wide.null:
		c.report(where, "nothing is allowed any more")
		return
	case wide.away:
		c.report(where, "it refers to a schema that is not looked at, and has changed")
		return
	}
	if extra := narrow.types &^ wide.types; extra&^typeInteger != 0 || extra != 0 && wide.types&typeNumber == 0 {
		c.report(where, fmt.Sprintf("the type was %v and is %v", a.types, b.types))
		return
	}
	if a.types&b.types&typeObject != 0 {
		c.compareMembers(where, &a, &b, depth)
	}
	if a.types&b.types&typeArray != 0 {
		c.compare(where+"[]", a.items.orAny(), b.items.orAny(), depth+1)
	}
	c.compareValues(where, narrow, wide)
	c.compareRest(where, narrow, wide)
}

func (n *schemaNode) orAny() *schemaNode {
	if n == nil {
		return anyNode
	}
	return n
}

// same says that two schemas say the same, in what they refer to as well.
func (c *comparison) same(a, b *schemaNode) bool {
	return a.sum == b.sum && !c.dirty[a] && !c.dirty[b]
}

// others gives the schema of those members that are not among the properties. Arguments and what comes are
// what is listed, if the schema does not say otherwise; who was promised something is to overlook the rest.
func (c *comparison) others(n *schemaNode, promised bool) *schemaNode {
	switch {
	case n.additional != nil:
		return n.additional
	case n.openEnded() || promised && !c.input:
		return anyNode
	}
	return noNode
}

// compareMembers compares the members of objects: those that either side names, and all others.
func (c *comparison) compareMembers(where string, a, b *view, depth int) {
	aOthers, bOthers := c.others(a.schemaNode, true), c.others(b.schemaNode, false)
	if narrow, wide := c.order(a, b); c.hasPatterns(narrow, wide) { // more names than those that are listed
		if c.input {
			aOthers = anyNode
		} else {
			bOthers = anyNode
		}
	}
	*c.steps -= len(a.names) + len(b.names) + len(a.required) + len(b.required)
	if *c.steps < 0 {
		c.report(where, "it has changed, and is too large or too deep to compare")
		return
	}
	for _, name := range a.names {
		at := where + "." + placeName(name)
		next, ok := b.properties[name]
		switch {
		case ok:
			c.compare(at, a.properties[name], next, depth+1)
		case bOthers.never, !c.input && b.additional == nil:
			c.report(at, "it is gone")
		default:
			c.compare(at, a.properties[name], bOthers, depth+1)
		}
	}
	for _, name := range b.names {
		switch _, ok := a.properties[name]; {
		case ok, c.input && aOthers.never:
		case aOthers.never:
			c.report(where+"."+placeName(name), "no other names were promised")
		default:
			c.compare(where+"."+placeName(name), aOthers, b.properties[name], depth+1)
		}
	}
	c.compareOthers(where, aOthers, bOthers, depth)
	c.compareRequired(where, a, b)
}

// order gives the side that has to lie within the other one first.
func (c *comparison) order(a, b *view) (narrow, wide *view) {
	if c.input {
		return a, b
	}
	return b, a
}

// hasPatterns says that names are allowed by patterns that the wider side does not have just so.
func (c *comparison) hasPatterns(narrow, wide *view) bool {
	const key = "patternProperties"
	has, ok := find(narrow.rest, key)
	other, there := find(wide.rest, key)
	return ok && !(there && c.sameConstraint(has, other))
}

// compareOthers compares what the members have to be that neither side names.
func (c *comparison) compareOthers(where string, a, b *schemaNode, depth int) {
	narrow, wide := a, b
	if !c.input {
		narrow, wide = b, a
	}
	switch {
	case narrow.never:
	case wide.never:
		c.report(where, "other names are not allowed any more")
	default:
		c.compare(where+".*", a, b, depth+1)
	}
}

func (c *comparison) compareRequired(where string, a, b *view) {
	from, in, what := a, b, "it is not always there any more"
	if c.input {
		from, in, what = b, a, "it is required now"
	}
	for _, name := range from.required {
		if !in.must[name] {
			c.report(where+"."+placeName(name), what)
		}
	}
}

// placeName is a member's name, a stranger's text, as part of a place.
func placeName(name string) string {
	name = cutText(name, MaxFuncName)
	if strings.ContainsFunc(name, func(r rune) bool { return Unprintable(r) || r == '\n' || r == '\t' }) {
		return strconv.Quote(name)
	}
	return name
}

// compareValues looks at lists of values: each that narrow allows has to be in wide.
func (c *comparison) compareValues(where string, narrow, wide *view) {
	if wide.listed == nil {
		return
	}
	if narrow.listed == nil {
		if narrow.types != typeNull || !wide.null && !wide.listed.null {
			c.report(where, "only some values are allowed on one side")
		}
		return
	}
	*c.steps -= len(wide.listed.sums) + len(narrow.listed.sums)
	if *c.steps < 0 {
		c.report(where, "it has changed, and is too large or too deep to compare")
		return
	}
	allowed := make(map[uint64]bool, len(wide.listed.sums))
	for _, sum := range wide.listed.sums {
		allowed[sum] = true
	}
	what := "the value %.80s is new"
	if c.input {
		what = "the value %.80s is not allowed any more"
	}
	for i, v := range narrow.listed.values {
		if !allowed[narrow.listed.sums[i]] && !(v == nil && wide.null) {
			c.report(where, fmt.Sprintf(what, valueText(v)))
		}
	}
	if narrow.null && !narrow.listed.null && !wide.null && !wide.listed.null {
		c.report(where, fmt.Sprintf(what, "null"))
	}
}

// valueText writes a listed value, a stranger's.
func valueText(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(cutText(s, 80))
	}
	return placeName(string(appendCanonical(nil, v)))
}

// The constraints that tighten as their number rises, or falls; and of what types the values are that a
// constraint looks at, if not of all.
var (
	lower   = keySet("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
	upper   = keySet("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")
	looksAt = map[string]jsonTypes{
		"minimum": typeInteger | typeNumber, "exclusiveMinimum": typeInteger | typeNumber, "multipleOf": typeInteger | typeNumber,
		"maximum": typeInteger | typeNumber, "exclusiveMaximum": typeInteger | typeNumber,
		"minLength": typeString, "maxLength": typeString, "pattern": typeString, "format": typeString, "contentEncoding": typeString,
		"minItems": typeArray, "maxItems": typeArray, "uniqueItems": typeArray, "prefixItems": typeArray, "contains": typeArray,
		"minProperties": typeObject, "maxProperties": typeObject, "patternProperties": typeObject, "propertyNames": typeObject,
	}
)

func (c *constraint) appliesTo(types jsonTypes) bool {
	at, ok := looksAt[c.key]
	return (!ok || at&types != 0) && !(c.key == "uniqueItems" && c.off)
}

func find(list []constraint, key string) (*constraint, bool) {
	i, ok := slices.BinarySearchFunc(list, key, func(c constraint, key string) int { return strings.Compare(c.key, key) })
	if !ok {
		return nil, false
	}
	return &list[i], true
}

// sameConstraint says that two constraints ask for the same.
func (c *comparison) sameConstraint(a, b *constraint) bool {
	return a.sum == b.sum && c.clean(a.inner, b.inner)
}

// clean says that none of the schemas lead to what has changed.
func (c *comparison) clean(a, b []*schemaNode) bool {
	isDirty := func(n *schemaNode) bool { return c.dirty[n] }
	return !slices.ContainsFunc(a, isDirty) && !slices.ContainsFunc(b, isDirty)
}

// compareRest looks at the constraints of wide: narrow has to have each, at least as tight.
func (c *comparison) compareRest(where string, narrow, wide *view) {
	*c.steps -= len(wide.rest) + len(narrow.rest) + len(wide.beside)*(1+len(narrow.beside))
	changed := func(key string) { c.report(where, fmt.Sprintf("%s has changed", placeName(key))) }
	for i := range wide.rest {
		asked := &wide.rest[i]
		if !asked.appliesTo(narrow.types) {
			continue
		}
		has, ok := find(narrow.rest, asked.key)
		if !ok || !c.sameConstraint(has, asked) && !tighter(has, asked) {
			changed(asked.key)
		}
	}
	for _, key := range wireKeys {
		has, ok := find(narrow.rest, key)
		if _, there := find(wide.rest, key); ok && !there && narrow.otherInCBOR(has, wide) {
			changed(key)
		}
	}
	for _, asked := range wide.beside {
		if !slices.ContainsFunc(narrow.beside, func(n *schemaNode) bool { return n.sum == asked.sum && c.clean(n.inner, asked.inner) }) {
			changed("what stands beside $ref")
		}
	}
}

func tighter(has, asked *constraint) bool {
	if !lower[asked.key] && !upper[asked.key] {
		return false
	}
	x, err := has.number.Float64()
	y, nerr := asked.number.Float64()
	return err == nil && nerr == nil && (lower[asked.key] && x >= y || upper[asked.key] && x <= y)
}

// wireKeys are those by which a text is something else in CBOR.
var wireKeys = []string{"contentEncoding", "format"}

// otherInCBOR says that a text of n, which has the constraint, may come in CBOR as what wide, which has it not,
// does not take: bytes are byte strings, and a time that is not set is null.
func (n *view) otherInCBOR(has *constraint, wide *view) bool {
	switch {
	case n.types&wide.types&typeString == 0 || wide.types == anyType:
		return false
	case has.key == "format":
		return n.time && wide.types&typeNull == 0
	}
	return true
}
