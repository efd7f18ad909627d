package cell

import (
	"context"
	"maps"

	"github.com/celldnet/celld/cellproto"
)

// version is the functions that callers of one version of the cell know.
type version struct {
	schema    cellproto.Schema
	canonical []byte               // of schema
	hash      cellproto.SchemaHash // of canonical: each connection says it
	functions map[string]*Function
}

// declare sets the functions; the older versions of the schema are there by then.
func (v *version) declare(name string, functions []*Function, docs Docs) error {
	v.functions = make(map[string]*Function, len(functions)+1)
	v.schema.Cell, v.schema.Functions = name, make(map[string]cellproto.Function, len(functions))
	for _, declared := range functions {
		f := *declared // it may be served twice, or be declared further
		if v.functions[f.name] != nil {
			return cellproto.Errorf("serve", cellproto.BadInput, "two functions are named %q", f.name)
		}
		f.docs = docs
		schema, err := f.compile()
		if err != nil {
			return err
		}
		v.functions[f.name], v.schema.Functions[f.name] = &f, schema
	}
	if err := v.schema.Validate(); err != nil {
		return err
	}
	v.canonical = v.schema.Canonical()
	v.hash = cellproto.BLAKE3(v.canonical)
	answer := func(context.Context, []byte) ([]byte, error) { return v.canonical, nil }
	v.functions[cellproto.FuncSchema] = &Function{name: cellproto.FuncSchema, raw: answer, codec: cellproto.JSON}
	return nil
}

// addOlder declares the versions that are served besides.
func (s *server) addOlder() error {
	for _, functions := range s.cfg.Older {
		v := &version{}
		if err := v.declare(s.cfg.Name, functions, s.cfg.Docs); err != nil {
			return err
		}
		if s.older == nil {
			s.older = map[string]*version{}
		}
		s.older[v.hash.String()] = v
		s.schema.Older = append(s.schema.Older, &v.schema)
	}
	return nil
}

// versionOf gives the version that the caller of f knows: the nucleus says so with the request, or the caller itself
// over a connection of its own.
func (s *server) versionOf(conn *cellproto.Conn, f *cellproto.Frame, by *counted) (*version, error) {
	if by != nil {
		if by.as == nil {
			hello, err := conn.PeerHello(s.base) // it came before the request
			if err != nil {
				return &s.version, err
			}
			by.as = &s.version
			if len(hello.MadeFor) == len(cellproto.SchemaHash{}) {
				if v := s.older[cellproto.SchemaHash(hello.MadeFor).String()]; v != nil {
					by.as = v
				}
			}
		}
		return by.as, nil
	}
	text, ok := f.Header.Meta[cellproto.MetaSchema]
	if !ok {
		return &s.version, nil
	}
	f.Header.Meta = maps.Clone(f.Header.Meta) // calls share it
	delete(f.Header.Meta, cellproto.MetaSchema)
	if v := s.older[text]; v != nil {
		return v, nil
	}
	return &s.version, cellproto.Errorf("call "+f.Header.Func, cellproto.Incompatible, "this program serves no schema %.80q", text)
}
