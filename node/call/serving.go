package call

import (
	"slices"
	"sync"

	"github.com/celldnet/celld/cellproto"
)

// Serving is what the cell serves at the moment. It does not change once it is made.
type Serving struct {
	Cell   cellproto.CellID     // of the published manifest; "" before the first publish
	Schema *cellproto.Schema    // nil when it is not known yet
	Hash   cellproto.SchemaHash // of Schema
	also   []cellproto.CellID   // earlier versions whose callers this one can serve

	canonical []byte   // of Schema
	functions []string // sorted; the numbers of hello
	served    map[string]*served
	older     map[cellproto.SchemaHash]*Serving // of Schema, as their callers know the cell
}

// served is what each call of a function asks for.
type served struct {
	pure, idempotent bool
	args             *cellproto.ArgSpec
	fit              func() *cellproto.Fit // of the arguments, as deep as the schema says
}

// NewServing prepares what is served: the schema's bytes, the functions' numbers and the checks of
// their arguments. also names the earlier versions whose callers are served as well.
func NewServing(cell cellproto.CellID, schema *cellproto.Schema, also ...cellproto.CellID) (*Serving, error) {
	s := &Serving{Cell: cell, Schema: schema, also: also, served: map[string]*served{}}
	if schema == nil {
		return s, nil
	}
	s.canonical, s.Hash = schema.Canonical(), schema.Hash()
	for name, fn := range schema.Functions {
		spec, err := fn.Spec()
		if err != nil {
			return nil, err
		}
		s.functions = append(s.functions, name)
		s.served[name] = &served{pure: fn.Pure, idempotent: fn.Idempotent, args: spec, fit: sync.OnceValue(fn.ArgumentsFit)}
	}
	slices.Sort(s.functions)
	for _, one := range schema.Older {
		old, err := NewServing(cell, one)
		if err != nil {
			return nil, err
		}
		if s.older == nil {
			s.older = map[cellproto.SchemaHash]*Serving{}
		}
		s.older[old.Hash] = old
	}
	return s, nil
}

func (s *Serving) serves(wanted string) bool {
	return wanted == "" || wanted == string(s.Cell) || slices.Contains(s.also, cellproto.CellID(wanted))
}
