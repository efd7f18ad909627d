package cell

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

type documentedBase struct {
	N int `json:"n"`
}

type documented struct {
	documentedBase
	A int    `json:"a"`
	B string `json:"b" doc:"from its tag"`
}

// What Docs say is in the schema, unless the program says otherwise; a program without them has the schema that it had.
func TestDocs(t *testing.T) {
	functions := func() []*Function {
		f := func(_ context.Context, in documented) (documented, error) { return in, nil }
		return []*Function{Func("plain", f), Func("said", f).Doc("Set.")}
	}
	const here = "github.com/celldnet/celld/cellproto/cell."
	docs := Docs{
		Functions: map[string]string{"plain": "Taken.", "said": "Not this.", "none": "There is none."},
		Fields:    map[string]map[string]string{here + "documented": {"A": "a field", "B": "not this", "N": "not this"}, here + "documentedBase": {"N": "of the base"}},
	}
	var with, without version
	if err := with.declare("c", functions(), docs); err != nil {
		t.Fatal(err)
	}
	if err := without.declare("c", functions(), Docs{}); err != nil {
		t.Fatal(err)
	}
	if changes := cellproto.Compatible(&without.schema, &with.schema); len(changes) > 0 || with.hash == without.hash {
		t.Errorf("what is said breaks callers: %v", changes)
	}
	for name, want := range map[string]string{"plain": "Taken.", "said": "Set."} {
		f := with.schema.Functions[name]
		for _, raw := range []json.RawMessage{f.Input, f.Output} {
			var s struct {
				Properties map[string]struct{ Description string }
			}
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatal(err)
			}
			p := s.Properties
			if f.Doc != want || p["a"].Description != "a field" || p["b"].Description != "from its tag" || p["n"].Description != "of the base" {
				t.Errorf("%s: %q, %s", name, f.Doc, raw)
			}
		}
	}
}
