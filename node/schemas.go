package node

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// schemasDir has every schema that the cell had, by its hash: what a caller was made for can be older than all that
// is published. It can be deleted: those that are published are put there again.
const schemasDir = "schemas" // under cache/

const maxSchemas = 128 // files there

// schemas knows the schemas that the cell has or had.
type schemas struct {
	dir string
	log *zap.Logger

	mu  sync.Mutex
	had map[cellproto.SchemaHash]bool
}

func openSchemas(dir string, log *zap.Logger) *schemas {
	s := &schemas{dir: filepath.Join(dir, "cache", schemasDir), log: log, had: map[cellproto.SchemaHash]bool{}}
	entries, _ := os.ReadDir(s.dir) // none yet
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if hash, err := cellproto.ParseSchemaHash(name); ok && err == nil {
			s.had[hash] = true
		}
	}
	return s
}

// has says whether the cell has or had a schema.
func (s *schemas) has(hash cellproto.SchemaHash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.had[hash]
}

// keep remembers a schema; nil is none.
func (s *schemas) keep(schema *cellproto.Schema) {
	if schema == nil {
		return
	}
	for _, one := range schema.Older {
		s.keep(one)
	}
	hash := schema.Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.had[hash] {
		return
	}
	err := os.MkdirAll(s.dir, 0o700)
	if err == nil {
		err = renameio.WriteFile(s.path(hash), schema.Canonical(), 0o600)
	}
	if err != nil {
		s.log.Warn("cannot keep a schema", zap.Error(err))
		return
	}
	s.had[hash] = true
	if len(s.had) > maxSchemas {
		s.forget(hash)
	}
}

func (s *schemas) path(hash cellproto.SchemaHash) string {
	return filepath.Join(s.dir, hash.String()+".json")
}

// forget removes the oldest file but that of a schema. s.mu is held.
func (s *schemas) forget(but cellproto.SchemaHash) {
	type file struct {
		hash cellproto.SchemaHash
		at   int64
	}
	var files []file
	for hash := range s.had {
		if info, err := os.Stat(s.path(hash)); err == nil && hash != but {
			files = append(files, file{hash, info.ModTime().UnixNano()})
		}
	}
	if len(files) == 0 {
		return
	}
	oldest := slices.MinFunc(files, func(a, b file) int { return cmp.Compare(a.at, b.at) })
	_ = os.Remove(s.path(oldest.hash)) // one more than wanted does no harm
	delete(s.had, oldest.hash)
}

// get reads a schema; nil if it is not known any more, or what is there is another one.
func (s *schemas) get(hash cellproto.SchemaHash) *cellproto.Schema {
	if !s.has(hash) {
		return nil
	}
	schema, err := readSchema(s.path(hash))
	if err == nil && schema.Hash() == hash {
		return schema
	}
	s.log.Warn("a schema that was kept cannot be used", zap.Stringer("schema", hash), zap.Error(err))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.had, hash) // so that it is kept anew
	return nil
}
