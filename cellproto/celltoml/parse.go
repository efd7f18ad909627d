package celltoml

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/celldnet/celld/cellproto"
)

// Parse reads the text of a cell.toml. The result has the defaults where the text is silent, passes
// Validate, and has no Dir. Same text, same answer.
//
// Errors are of kind BadInput, name the line ("read cell.toml:12: ...") and carry a hint; past 64
// KiB it is TooLarge.
func Parse(data []byte) (*Config, error) {
	c, err := parse(data, FileName)
	if err != nil {
		return nil, err // not "return parse(...)": a nil *cellproto.Error in an error is not nil
	}
	return c, nil
}

// parse is Parse with the name to call the file by.
func parse(data []byte, name string) (c *Config, err *cellproto.Error) {
	if len(data) > cellproto.MaxCellToml {
		return nil, tooLarge(name, int64(len(data)))
	}
	// The reader of TOML is not ours and the file may be a stranger's; Parse does not panic.
	defer func() {
		if r := recover(); r != nil {
			c, err = nil, syntaxError(name, 0, fmt.Sprint(r))
		}
	}()

	// Unknown keys go first. go-toml's own strict mode would take NAME for name, and its check for
	// keys that are given twice is quadratic: here it sees known keys only.
	entries, err := scan(data, name)
	if err != nil {
		return nil, err
	}
	lines := make(map[string]int, len(entries))
	for i := range entries {
		e := &entries[i]
		if f := e.resolve(); f != nil {
			return nil, f.err(position(name, e.line))
		}
		if p := strings.Join(e.path, "."); lines[p] == 0 {
			lines[p] = e.line
		}
	}

	var doc map[string]any
	if err := toml.Unmarshal(data, &doc); err != nil {
		return nil, decodeError(name, err)
	}
	c = Default()
	for i := range entries {
		e := &entries[i]
		if e.key == nil {
			continue
		}
		if f := e.key.set(c, e.value(doc)); f != nil {
			f.path = e.key.path + f.path
			return nil, f.err(position(name, e.line))
		}
	}
	if f := c.validate(); f != nil {
		return nil, f.err(position(name, lineOf(lines, f.path)))
	}
	return c, nil
}

// position gives the Op of an error: where a person has to look. Line 0 is the file as a whole.
func position(name string, line int) string {
	if line == 0 {
		return "read " + name
	}
	return "read " + name + ":" + strconv.Itoa(line)
}

// lineOf gives the line of the key, else of its table (the key is missing), else 0.
func lineOf(lines map[string]int, path string) int {
	path, _, _ = strings.Cut(path, "[") // the third of a list stands, as far as we know, at its key
	if n := lines[path]; n != 0 {
		return n
	}
	table, _, _ := strings.Cut(path, ".")
	return lines[table]
}

func tooLarge(name string, n int64) *cellproto.Error {
	return cellproto.Errorf(position(name, 0), cellproto.TooLarge, "%d bytes, the limit is %d", n, cellproto.MaxCellToml).
		WithHint("A cell.toml is a page of text; is this another file?")
}

func syntaxError(name string, line int, msg string) *cellproto.Error {
	return cellproto.Errorf(position(name, line), cellproto.BadInput, "%s", msg).
		WithHint("The syntax is TOML (https://toml.io): [table], then key = value, with texts in quotes.")
}

func decodeError(name string, err error) *cellproto.Error {
	line := 0
	var d *toml.DecodeError
	if errors.As(err, &d) {
		line, _ = d.Position()
	}
	return syntaxError(name, line, strings.TrimPrefix(err.Error(), "toml: "))
}

// entry is one table header or one key with its value, where it stands.
type entry struct {
	path []string
	line int
	kind unstable.Kind // Table, ArrayTable, or of the value
	key  *key          // set by resolve; nil for tables
}

// scan lists the entries in the order of the text. Inline tables count as tables where a table may
// stand; deeper ones are values.
func scan(data []byte, name string) ([]entry, *cellproto.Error) {
	var (
		p       unstable.Parser
		entries []entry
		table   []string
		line    = 1
		counted int // bytes whose line ends are in line
		newline = []byte{'\n'}
	)
	add := func(prefix []string, key unstable.Iterator, kind unstable.Kind) []string {
		path := append([]string(nil), prefix...)
		offset := counted
		for key.Next() {
			if len(path) == len(prefix) {
				offset = int(key.Node().Raw.Offset)
			}
			path = append(path, string(key.Node().Data))
		}
		line += bytes.Count(data[counted:offset], newline)
		counted = offset
		entries = append(entries, entry{path: path, line: line, kind: kind})
		return path
	}
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			table = add(nil, e.Key(), e.Kind)
			continue
		}
		path := add(table, e.Key(), e.Value().Kind)
		if e.Value().Kind == unstable.InlineTable && len(path) == 1 {
			for it := e.Value().Children(); it.Next(); {
				add(path, it.Node().Key(), it.Node().Value().Kind)
			}
		}
	}
	if err := p.Error(); err != nil {
		var pe *unstable.ParserError
		if !errors.As(err, &pe) {
			return nil, syntaxError(name, 0, err.Error())
		}
		return nil, syntaxError(name, p.Shape(p.Range(pe.Highlight)).Start.Line, pe.Message)
	}
	return entries, nil
}

// foundName says what stands where something else is wanted.
func foundName(k unstable.Kind) string {
	switch k {
	case unstable.Table, unstable.InlineTable:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	case unstable.Array:
		return "a list"
	case unstable.String:
		return "a text"
	case unstable.Bool:
		return "true or false"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a number with a fraction"
	}
	return "a date or time"
}

// resolve finds the key that the entry sets and checks that its value has a type that fits.
func (e *entry) resolve() *fault {
	table := e.path[0]
	switch {
	case isReserved(table):
		return faultf("Remove it: a cell that relied on it would not get what it says.", "[%s] is reserved for later", table)
	case len(e.path) == 1 && isTable(table):
		if e.kind != unstable.Table && e.kind != unstable.InlineTable {
			return faultf(fmt.Sprintf("Write [%s] on a line of its own, and its keys below.", table),
				"%s must be a table, not %s", table, foundName(e.kind))
		}
		return nil
	case !isTable(table):
		return e.unknown()
	}
	e.key = find(table)
	if e.key == nil {
		e.key = find(table + "." + e.path[1])
	}
	if e.key == nil {
		return e.unknown()
	}
	if e.key.kind == names {
		if f := checkName(e.path[1]); f != nil {
			return faultf(f.hint, "%s has a key that %s", table, f.msg)
		}
	}
	if len(e.path) > 2 || !e.key.takes(e.kind) {
		found := foundName(e.kind)
		if len(e.path) > 2 {
			found = "a table"
		}
		want := kindNames[e.key.kind]
		if e.key.kind == names {
			want = kindNames[text]
		}
		return faultf("Write it as in docs/cell-toml.md.", "%s.%s must be %s, not %s", table, e.path[1], want, found)
	}
	return nil
}

// takes reports that a value of this type may be given for the key.
func (k *key) takes(v unstable.Kind) bool {
	switch k.kind {
	case text, names:
		return v == unstable.String
	case flag:
		return v == unstable.Bool
	case integer:
		return v == unstable.Integer
	case number:
		return v == unstable.Integer || v == unstable.Float
	case duration:
		return v == unstable.String || v == unstable.Integer || v == unstable.Float
	case size:
		return v == unstable.String || v == unstable.Integer
	case list:
		return v == unstable.Array
	}
	return false
}

// unknown names the key, and the known one that is nearest.
func (e *entry) unknown() *fault {
	const hint = "docs/cell-toml.md lists every key. Keys are lower case."
	table := e.path[0]
	if len(e.path) == 1 && (e.kind == unstable.Table || e.kind == unstable.InlineTable || e.kind == unstable.ArrayTable) {
		return faultf(hint, "unknown table [%s]; the nearest known one is [%s]", printable(table), nearestTable(table))
	}
	if len(e.path) == 1 {
		near := nearestKey("", table)
		return faultf(hint, "unknown key %s outside of any table; the nearest known key is %q in [%s]",
			quote(table), near.last(), near.table())
	}
	name := e.path[1]
	if !isTable(table) {
		return faultf(hint, "unknown key %s in the unknown table [%s]; the nearest known table is [%s]",
			quote(name), printable(table), nearestTable(table))
	}
	near := nearestKey(table, name)
	if near.table() != table {
		return faultf(hint, "unknown key %s in [%s]; the nearest known key is %q in [%s]", quote(name), table, near.last(), near.table())
	}
	return faultf(hint, "unknown key %s in [%s]; the nearest known key is %q", quote(name), table, near.last())
}

// printable gives a name as it stands in a message, in quotes only when it needs them.
func printable(s string) string {
	q := quote(s)
	if q == `"`+s+`"` && s != "" {
		return s
	}
	return q
}

// value gives the entry's value out of the decoded document; resolve has seen to it that it is there.
func (e *entry) value(doc map[string]any) any {
	t, _ := doc[e.path[0]].(map[string]any)
	if e.key.kind == names {
		return [2]any{e.path[1], t[e.path[1]]}
	}
	return t[e.path[1]]
}
