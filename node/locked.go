package node

import (
	"path/filepath"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
)

// locked is what cell.lock says that this cell was made for, as of when its program was last replaced or started.
// A generated client says so itself; this is for the other calls.
type locked struct {
	dir string
	log *zap.Logger
	now atomic.Pointer[map[string]celllock.Cell] // by target, as the program names it
}

func newLocked(dir string, log *zap.Logger) *locked {
	p := &locked{dir: dir, log: log}
	p.read()
	return p
}

// read looks at the file again.
func (p *locked) read() {
	f, err := celllock.Read(p.dir)
	if err != nil {
		p.log.Warn("cell.lock cannot be used", zap.Error(err))
		return
	}
	cells := make(map[string]celllock.Cell, len(f.Cells))
	for _, c := range f.Cells {
		cells[c.Target] = c
		if strings.HasPrefix(c.Target, ".") {
			cells[filepath.Join(p.dir, c.Target)] = c
		}
	}
	p.now.Store(&cells)
}

// madeFor gives the schema of a target that this cell was made for, zero when that is not known.
func (p *locked) madeFor(target string) cellproto.SchemaHash {
	cells := p.now.Load()
	if cells == nil || len(*cells) == 0 {
		return cellproto.SchemaHash{}
	}
	return (*cells)[target].Schema
}
