package cellproto

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// ArgSpec is what a function's input schema says about its arguments at the top level: their names,
// which are required, and which of the JSON types each may have. It is read once and checks many;
// what it lets through can still break the schema further down.
type ArgSpec struct {
	order    []string // positional
	types    map[string]jsonTypes
	required []string
	open     bool // other names are allowed, or it cannot be known which are
}

// jsonTypes is a set of the seven types that JSON Schema knows.
type jsonTypes uint8

const (
	typeNull jsonTypes = 1 << iota
	typeBoolean
	typeInteger
	typeNumber
	typeString
	typeArray
	typeObject
	anyType jsonTypes = 1<<iota - 1
)

var jsonTypeNames = [...]string{"null", "boolean", "integer", "number", "string", "array", "object"}

func (t jsonTypes) String() string {
	if t == anyType {
		return "any"
	}
	var names []string
	for i, name := range jsonTypeNames {
		if bit := jsonTypes(1) << i; t&bit != 0 && !(bit == typeInteger && t&typeNumber != 0) {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Spec reads the function's input. Without one every argument is allowed. The error is BadInput: the
// input is not a JSON Schema, or not one of an object.
func (f Function) Spec() (*ArgSpec, error) {
	s := &ArgSpec{open: true, order: f.Order}
	if f.Input == nil {
		return s, nil
	}
	input, err := compileSchema(f.Input).root.resolve()
	if err != nil {
		return nil, err
	}
	if input.never || input.types&typeObject == 0 {
		return nil, Errorf("", BadInput, "arguments are passed by name, so the input has to be of type object")
	}
	s.required = input.required
	s.types = make(map[string]jsonTypes, len(input.properties))
	for _, name := range input.names {
		p, err := input.properties[name].resolve()
		if err != nil {
			return nil, wrapAt("", name, err)
		}
		s.types[name] = p.types
	}
	for _, name := range s.required {
		if !s.has(name) {
			s.types[name] = anyType
		}
	}
	s.open = input.openEnded()
	if len(s.order) == 0 {
		s.order = defaultOrder(s)
	}
	return s, nil
}

func defaultOrder(s *ArgSpec) []string {
	order := make([]string, 0, len(s.types))
	placed := make(map[string]bool, len(s.types))
	for _, names := range [][]string{s.required, sortedKeys(s.types)} {
		for _, name := range names {
			if s.has(name) && !placed[name] {
				placed[name] = true
				order = append(order, name)
			}
		}
	}
	return order
}

func (s *ArgSpec) has(name string) bool { _, ok := s.types[name]; return ok }

// Arguments makes JSON arguments of what stands on a command line: values in the order of the
// schema ("3 4"), then by name ("a=3 b=4"). "x=y" is by name when the input has a property x, or when
// no string is expected at its place. Values are typed by the schema: text for a string, the JSON
// notation for all else; where a string is one of several types, what is not JSON is a string. The
// error is BadInput, names the argument and has the usage in its hint; TooLarge as in CheckJSON.
func (f Function) Arguments(argv []string) ([]byte, error) {
	s, err := f.Spec()
	if err != nil {
		return nil, err
	}
	return s.Arguments(argv)
}

// Arguments is Function.Arguments.
func (s *ArgSpec) Arguments(argv []string) ([]byte, error) {
	values, err := s.assign(argv)
	if err != nil {
		return nil, err
	}
	for _, name := range s.required {
		if _, ok := values[name]; !ok {
			return nil, s.badArg("the argument %s is missing", s.label(name))
		}
	}
	args := []byte{'{'}
	for _, name := range sortedKeys(values) {
		if len(args) > 1 {
			args = append(args, ',')
		}
		args = append(append(appendJSONString(args, name), ':'), values[name]...)
	}
	args = append(args, '}')
	if err := CheckJSON(args); err != nil {
		return nil, err
	}
	return args, nil
}

// assign gives each value of argv to its argument, as JSON.
func (s *ArgSpec) assign(argv []string) (map[string][]byte, error) {
	values := make(map[string][]byte, len(argv))
	named := false
	for i, arg := range argv {
		name, text, ok := strings.Cut(arg, "=")
		switch {
		case ok && (s.has(name) || s.byName(i, name)):
			named = true
		case named:
			return nil, s.badArg("argument %d, %.80q, has no name, but the one before has", i+1, arg)
		case i >= len(s.order):
			return nil, s.badArg("argument %d, %.80q, is one too many", i+1, arg)
		default:
			name, text = s.order[i], arg
		}
		if !s.has(name) && !s.open {
			if near := nearest(name, sortedKeys(s.types)); near != "" {
				return nil, s.badArg("there is no argument %.80q; did you mean %q?", name, near)
			}
			return nil, s.badArg("there is no argument %.80q", name)
		}
		if _, twice := values[name]; twice {
			return nil, s.badArg("the argument %s is given twice", s.label(name))
		}
		value, ok := jsonValue(s.typeOf(name), text)
		if !ok || !utf8.ValidString(name) {
			return nil, s.badArg("the argument %s cannot be %.80q", s.label(name), text)
		}
		values[name] = value
	}
	return values, nil
}

// byName decides on "name=text" in place i when the input has no such property.
func (s *ArgSpec) byName(i int, name string) bool {
	if !ValidFuncName(name) {
		return false
	}
	return i >= len(s.order) || s.typeOf(s.order[i])&typeString == 0
}

func (s *ArgSpec) typeOf(name string) jsonTypes {
	if t, ok := s.types[name]; ok {
		return t
	}
	return anyType
}

// jsonValue reads text as one of the types t.
func jsonValue(t jsonTypes, text string) ([]byte, bool) {
	if t != typeString && CheckJSON([]byte(text)) == nil {
		value := []byte(strings.Trim(text, " \t\r\n"))
		if t.allow(typeOf(value)) {
			return value, true
		}
	}
	if t&typeString == 0 || !utf8.ValidString(text) {
		return nil, false
	}
	return appendJSONString(nil, text), true
}

// typeOf gives the type of a JSON value that has been checked and has no space around it.
func typeOf(value []byte) jsonTypes {
	switch value[0] {
	case '{':
		return typeObject
	case '[':
		return typeArray
	case '"':
		return typeString
	case 't', 'f':
		return typeBoolean
	case 'n':
		return typeNull
	}
	if integral(string(value)) {
		return typeInteger
	}
	return typeNumber
}

// allow reports that a value of type one may stand where t is asked for.
func (t jsonTypes) allow(one jsonTypes) bool {
	return t&one != 0 || one == typeInteger && t&typeNumber != 0
}

// integral reports that a JSON number has no fraction; 1.0 and 1e2 have none (JSON Schema
// validation, 6.1.1). It works on the text: 1e999999999 must not become a number of that size.
func integral(number string) bool {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(mantissa, "-"), ".")
	digits := strings.TrimRight(whole+fraction, "0")
	if digits == "" {
		return true
	}
	places := len(digits) - len(whole) // behind the point; negative when zeros were cut off before it
	exp := 0
	if exponent != "" {
		var err error
		if exp, err = strconv.Atoi(exponent); err != nil {
			return exponent[0] != '-' // out of range
		}
	}
	return places <= exp
}

// CheckArgs says whether args may be passed to the function, as far as the top level of its input
// says: CheckJSON, then an object with known names, the required ones among them, each of a type that
// it may have. A schema that lists properties and does not mention "additionalProperties" means those
// properties and no others. Kinds BadInput and TooLarge. It reads the schema each time: whoever checks
// many calls keeps a Spec.
func (f Function) CheckArgs(args []byte) error {
	s, err := f.Spec()
	if err != nil {
		return err
	}
	return s.Check(args)
}

// Check is Function.CheckArgs.
func (s *ArgSpec) Check(args []byte) error {
	if err := CheckJSON(args); err != nil {
		return err
	}
	members, err := objectMembers(args)
	if err != nil {
		return s.badArg("the arguments are not a JSON object")
	}
	for _, name := range sortedKeys(members) {
		if !s.has(name) && !s.open {
			return s.badArg("there is no argument %.80q", name)
		}
		if !s.typeOf(name).allow(typeOf(members[name])) {
			return s.badArg("the argument %s cannot be %s", s.label(name), typeOf(members[name]))
		}
	}
	for _, name := range s.required {
		if _, ok := members[name]; !ok {
			return s.badArg("the argument %s is missing", s.label(name))
		}
	}
	return nil
}

func (s *ArgSpec) badArg(format string, args ...any) error {
	return Errorf("arguments", BadInput, format, args...).WithHint("Expected: %s", s.Usage(""))
}

func (s *ArgSpec) label(name string) string { return shownArg(name) + ":" + s.typeOf(name).String() }

// shownArg is the name of an argument, a stranger's, as part of a line that people read.
func shownArg(name string) string { return placeName(cutText(name, 80)) }

// Usage gives one line that shows how the function is called, as "add a:integer b:integer"; what is
// optional stands in brackets, and what has no place is written "c=integer".
func (f Function) Usage(name string) string {
	s, err := f.Spec()
	if err != nil {
		return name
	}
	return s.Usage(name)
}

// Usage is Function.Usage; with no name it gives the arguments alone.
func (s *ArgSpec) Usage(name string) string {
	words := []string{name}
	required, placed := keySet(s.required...), keySet(s.order...)
	add := func(arg, word string) {
		if !required[arg] {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	for _, arg := range s.order {
		add(arg, s.label(arg))
	}
	for _, arg := range sortedKeys(s.types) {
		if !placed[arg] {
			add(arg, shownArg(arg)+"="+s.typeOf(arg).String())
		}
	}
	if s.open {
		words = append(words, "[name=value ...]")
	}
	line := strings.TrimSpace(strings.Join(words, " "))
	if line == "" {
		return "no arguments"
	}
	return line
}

// nearest gives the one of names that a person who wrote got most likely meant, or "".
func nearest(got string, names []string) string {
	if len(got) > MaxFuncName {
		return ""
	}
	best, bestAt := "", (utf8.RuneCountInString(got)+1)/3+1
	for _, name := range names {
		if d := editDistance(got, name, bestAt); d < bestAt {
			best, bestAt = name, d
		}
	}
	return best
}

// editDistance is Levenshtein's, in bytes; past limit it is limit+1.
func editDistance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit+1)
}
