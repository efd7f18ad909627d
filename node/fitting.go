package node

import (
	"sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

// fitting says what programs are to callers by their schemas, and remembers it: both are asked for with calls.
type fitting struct {
	get func(cellproto.SchemaHash) *cellproto.Schema

	mu    sync.Mutex
	known map[[2]cellproto.SchemaHash]call.Fit // made for, and live
}

func newFitting(n *nucleus) *fitting {
	get := func(hash cellproto.SchemaHash) *cellproto.Schema {
		if now := n.server.Serving(); now.Schema != nil && now.Hash == hash {
			return now.Schema // even if it could not be written down
		}
		return n.schemas.get(hash)
	}
	return &fitting{get: get, known: map[[2]cellproto.SchemaHash]call.Fit{}}
}

// of says what a program with the schema live is to those who were made for another one.
func (f *fitting) of(made, live cellproto.SchemaHash) call.Fit {
	if made == live {
		return call.Fit{Known: true}
	}
	pair := [2]cellproto.SchemaHash{made, live}
	f.mu.Lock()
	fit, ok := f.known[pair]
	f.mu.Unlock()
	if ok {
		return fit
	}
	is := f.get(live)
	if is == nil {
		return call.Fit{} // the program was not asked for it yet
	}
	fit = call.Fit{Known: true}
	was := is.Version(made)
	if was == nil {
		if was = f.get(made); was == nil {
			return fit // whoever made that up, or was made for a cell of which this is a copy: the program says
		}
	}
	as, changes := is.VersionFor(was)
	if as != nil && as != is {
		fit.As = as.Hash()
	}
	for _, c := range changes {
		if fit.Broken == nil {
			fit.Broken = map[string]string{}
		}
		if _, ok := fit.Broken[c.Func]; !ok {
			fit.Broken[c.Func] = c.String()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= maxSchemas {
		clear(f.known)
	}
	f.known[pair] = fit
	return fit
}

// whole reports that a program with one schema needs not be told what callers are who were made for another one, and
// that nothing is known to be broken for them: the hashes as their hellos have them.
func (f *fitting) whole(made, live []byte) bool {
	if len(made) != len(cellproto.SchemaHash{}) || len(live) != len(cellproto.SchemaHash{}) {
		return true
	}
	fit := f.of(cellproto.SchemaHash(made), cellproto.SchemaHash(live))
	return len(fit.Broken) == 0 && (fit.As.IsZero() || fit.As == cellproto.SchemaHash(made))
}
