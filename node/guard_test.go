package node

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

func schemaOfText(t *testing.T, functions string) *cellproto.Schema {
	t.Helper()
	s, err := cellproto.ParseSchema([]byte(`{"cell":"a","functions":{` + functions + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWeigh(t *testing.T) {
	old := schemaOfText(t, `"gone":{},"add":{}`)
	now := schemaOfText(t, `"add":{},"sub":{}`)
	next := schemaOfText(t, `"add":{}`)
	first := schemaOfText(t, `"add":{},"mul":{}`)
	far := cellproto.SchemaHash{9}
	get := func(h cellproto.SchemaHash) *cellproto.Schema {
		for _, s := range []*cellproto.Schema{old, now, next, first} {
			if s.Hash() == h {
				return s
			}
		}
		return nil
	}
	used := func(hashes ...cellproto.SchemaHash) (out []call.Used) {
		for _, h := range hashes {
			out = append(out, call.Used{Schema: h, Users: []call.User{{Who: "uid:7", Says: true, Last: time.Unix(1000, 0)}}})
		}
		return out
	}
	for _, tc := range []struct {
		name         string
		before, next *cellproto.Schema
		used         []call.Used
		broken       string // functions, with spaces
		idle         int
		notes        int
	}{
		{"nobody calls", now, next, nil, "", 1, 0},
		{"somebody calls what runs", now, next, used(now.Hash()), "sub", 0, 0},
		{"somebody calls by what is broken already", now, next, used(old.Hash()), "", 1, 0},
		{"somebody calls by an older one that runs still serve", schemaOfText(t, `"add":{},"sub":{},"mul":{}`), now, used(first.Hash()), "mul", 1, 0},
		{"the new one is what they use", now, next, used(next.Hash()), "", 1, 0},
		{"a schema that was never here", now, now, used(far), "", 0, 1},
		{"nothing comes after", now, nil, used(now.Hash()), "schema", 0, 0},
		{"nothing was before", nil, now, used(first.Hash()), "mul", 0, 0},
		{"nothing changes", now, now, used(now.Hash(), first.Hash()), "", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := weigh(tc.before, tc.next, tc.used, get)
			var broken []string
			for _, row := range v.broken {
				for _, c := range row.Changes {
					fn, _, _ := strings.Cut(c, ":")
					broken = append(broken, fn)
				}
				if len(row.Callers) != 1 || row.Callers[0].Who != "uid:7" {
					t.Errorf("callers are %+v", row.Callers)
				}
			}
			if got := strings.Join(broken, " "); got != tc.broken || len(v.idle) != tc.idle || len(v.notes) != tc.notes {
				t.Errorf("broken %q, idle %d, notes %q; want %q, %d, %d", got, len(v.idle), v.notes, tc.broken, tc.idle, tc.notes)
			}
			err := v.refuse("swap a", "1.0.0", "cellctl swap")
			if (err != nil) != (tc.broken != "") || err != nil && (cellproto.KindOf(err) != cellproto.Incompatible || !strings.Contains(err.Error(), "uid:7")) {
				t.Errorf("the refusal is %v", err)
			}
		})
	}
}

func TestSchemasAreKeptAndBounded(t *testing.T) {
	dir := t.TempDir()
	s := openSchemas(dir, zap.NewNop())
	var last *cellproto.Schema
	for i := range maxSchemas + 3 {
		last = schemaOfText(t, `"f`+strings.Repeat("x", i%100)+string(rune('a'+i/100))+`":{}`)
		s.keep(last)
	}
	if len(s.had) != maxSchemas {
		t.Errorf("%d are kept, want %d", len(s.had), maxSchemas)
	}
	s = openSchemas(dir, zap.NewNop()) // as the next nucleus
	if got := s.get(last.Hash()); got == nil || got.Hash() != last.Hash() {
		t.Error("the last one is not there any more")
	}
	if s.get(cellproto.SchemaHash{1}) != nil || len(s.had) != maxSchemas {
		t.Error("one that was never there is given, or some were lost")
	}
}

// However many call, and whoever says so, what is told of it fits into a line, and nobody is left out of the count.
func TestVerdictFitsALine(t *testing.T) {
	old, next := schemaOfText(t, `"gone":{},"add":{}`), schemaOfText(t, `"add":{}`)
	const schemas, callers = maxSchemas, 300
	var used []call.Used
	for i := range schemas {
		row := call.Used{Schema: cellproto.SchemaHash{byte(i + 1)}}
		for range callers - 1 {
			name := strings.Repeat("k", 52)
			row.Users = append(row.Users, call.User{Who: "uid:4294967295 " + name, Last: time.Unix(1<<37, 123456789), By: name})
		}
		row.Users = append(row.Users, call.User{Who: "the last", Says: true})
		used = append(used, row)
	}
	v := weigh(nil, next, used, func(cellproto.SchemaHash) *cellproto.Schema { return old })
	if !v.says {
		t.Error("that one of them says what it was made for is forgotten")
	}
	err := v.refuse("build a", "1.0.0", "cellctl build")
	data, failed := json.Marshal(map[string]ctl.Fits{"result": {Broken: v.broken, Notes: v.told(), Refused: RemoteError(err)}})
	if failed != nil || len(data) > ctl.MaxLine {
		t.Errorf("%d bytes, %v", len(data), failed)
	}
	total := 0
	for _, row := range v.broken {
		total += len(row.Callers) + row.More
	}
	if total != schemas*callers || len(v.broken) != schemas {
		t.Errorf("%d callers of %d schemas", total, len(v.broken))
	}
	if want := fmt.Sprintf("and %d more", callers-shownUsers); !strings.Contains(err.Error(), want) {
		t.Errorf("the refusal does not say %q", want)
	}
}
