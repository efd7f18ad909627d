package node

import (
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

func TestFitting(t *testing.T) {
	schema := func(args string, functions ...string) *cellproto.Schema {
		s := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{}}
		for _, name := range functions {
			s.Functions[name] = cellproto.Function{Input: []byte(`{"type":"object","properties":{"` + args + `":{"type":"integer"}},"required":["` + args + `"],"additionalProperties":false}`)}
		}
		return s
	}
	old, next, more := schema("a", "mul", "neg"), schema("left", "mul"), schema("a", "mul", "neg", "add")
	next.Functions["neg"] = old.Functions["neg"]
	had := map[cellproto.SchemaHash]*cellproto.Schema{old.Hash(): old, more.Hash(): more}
	f := &fitting{get: func(h cellproto.SchemaHash) *cellproto.Schema { return had[h] }, known: map[[2]cellproto.SchemaHash]call.Fit{}}

	if fit := f.of(old.Hash(), old.Hash()); !fit.Known || len(fit.Broken) > 0 {
		t.Errorf("the same: %+v", fit)
	}
	if fit := f.of(old.Hash(), more.Hash()); !fit.Known || len(fit.Broken) > 0 {
		t.Errorf("one with more functions: %+v", fit)
	}
	if fit := f.of(old.Hash(), next.Hash()); fit.Known {
		t.Errorf("a program that was not asked for its schema: %+v", fit)
	}
	had[next.Hash()] = next // it was
	fit := f.of(old.Hash(), next.Hash())
	if !fit.Known || len(fit.Broken) != 1 || !strings.Contains(fit.Broken["mul"], "input") {
		t.Errorf("one with other arguments: %+v", fit)
	}
	if fit := f.of(cellproto.SchemaHash{9}, next.Hash()); !fit.Known || len(fit.Broken) > 0 {
		t.Errorf("a caller that was made for nothing that the cell had: %+v", fit)
	}
	was, is := old.Hash(), next.Hash()
	for _, tc := range []struct {
		made, live []byte
		whole      bool
	}{{was[:], was[:], true}, {was[:], is[:], false}, {nil, is[:], true}, {was[:], nil, true}} {
		if got := f.whole(tc.made, tc.live); got != tc.whole {
			t.Errorf("made for %x, and there is %x: %v", tc.made, tc.live, got)
		}
	}
}

// A program that serves an older version as well does so for all who fit that.
func TestFittingOfOlderVersions(t *testing.T) {
	schema := func(names ...string) *cellproto.Schema {
		s := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{}}
		for _, name := range names {
			s.Functions[name] = cellproto.Function{}
		}
		return s
	}
	old, less, both := schema("mul", "neg"), schema("neg"), schema("times")
	both.Older = []*cellproto.Schema{old}
	s := openSchemas(t.TempDir(), zap.NewNop())
	s.keep(both)
	s.keep(less)
	f := &fitting{get: s.get, known: map[[2]cellproto.SchemaHash]call.Fit{}}
	live := both.Hash()
	for _, tc := range []struct {
		made  cellproto.SchemaHash
		as    cellproto.SchemaHash
		whole bool // the program can tell by itself
	}{{old.Hash(), old.Hash(), true}, {less.Hash(), old.Hash(), false}, {live, cellproto.SchemaHash{}, true}} {
		if fit := f.of(tc.made, live); !fit.Known || len(fit.Broken) > 0 || fit.As != tc.as {
			t.Errorf("%v: %+v", tc.made, fit)
		}
		if got := f.whole(tc.made[:], live[:]); got != tc.whole {
			t.Errorf("%v: handed over is %v", tc.made, got)
		}
	}
	if !s.has(old.Hash()) {
		t.Error("the older version's schema is not kept")
	}
}

// An old version is where its own callers are led, also when their schema was lost; and nobody who is served here.
func TestLookForTheOldVersionOfACaller(t *testing.T) {
	s := openSchemas(t.TempDir(), zap.NewNop())
	old := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{"mul": {}, "add": {}}}
	less := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{"mul": {}}}
	next := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{"times": {}, "add": {}}}
	fine := &cellproto.Schema{Cell: "maths", Functions: map[string]cellproto.Function{"add": {}}}
	for _, one := range []*cellproto.Schema{less, next, fine} {
		s.keep(one)
	}
	o := &olds{n: &nucleus{schemas: s}, dirs: map[string]cellproto.SchemaHash{"/v1": old.Hash()}}
	for _, tc := range []struct {
		name string
		made cellproto.SchemaHash
		want string
	}{
		{"its own", old.Hash(), "/v1"}, // it was not kept
		{"one that the next serves too", fine.Hash(), ""},
		{"the next one's", next.Hash(), ""},
		{"nobody's", cellproto.SchemaHash{9}, ""},
		{"one that cannot be compared", less.Hash(), ""},
	} {
		if got := o.look(tc.made, next); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	s.keep(old)
	if got := o.look(less.Hash(), next); got != "/v1" {
		t.Errorf("a caller whom the old version serves as well is led to %q", got)
	}
}
