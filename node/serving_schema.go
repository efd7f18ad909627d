package node

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// schemaOf says which program cache/schema.json belongs to.
type schemaOf struct {
	BLAKE3 signed.Digest `json:"blake3"`
}

// savedSchema reads the schema of this very program: one that it ships, else the cached one. What is
// damaged or of another program counts as missing. s.mu is held.
func (s *serving) savedSchema() *cellproto.Schema {
	if s.n.cfg.Cell.Speaks == celltoml.JSONL {
		schema, err := readSchema(s.n.cfg.Path("schema.json"))
		if err != nil {
			s.n.log.Warn("schema.json cannot be used", zap.Error(err))
			return nil
		}
		s.saveSchema(schema)
		return schema
	}
	data, err := readBounded(s.cacheFile(schemaOfFile), maxKeyFile)
	var of schemaOf
	if err != nil || json.Unmarshal(data, &of) != nil || s.stat == nil || of.BLAKE3 != s.binary {
		return nil
	}
	schema, err := readSchema(s.cacheFile(schemaFile))
	if err != nil {
		return nil
	}
	return schema
}

func readSchema(path string) (*cellproto.Schema, error) {
	data, err := readBounded(path, cellproto.MaxSchema)
	if err != nil {
		return nil, err
	}
	return cellproto.ParseSchema(data)
}

// readBounded reads a small file that may have come with a copied directory: no more than limit bytes
// of it (TooLarge).
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.Failed, "%w", err)
	}
	if int64(len(data)) > limit {
		return nil, cellproto.Errorf("read "+path, cellproto.TooLarge, "more than %d bytes", limit)
	}
	return data, nil
}

// saveSchema keeps the schema for callers on this machine and for the next start. s.mu is held.
func (s *serving) saveSchema(schema *cellproto.Schema) {
	of, err := json.Marshal(schemaOf{s.binary})
	if err == nil {
		err = s.write(schemaFile, schema.Canonical())
	}
	if err == nil {
		err = s.write(schemaOfFile, of)
	}
	if err != nil {
		s.n.log.Warn("cannot cache the schema", zap.Error(err))
	}
}

const schemaTimeout = 5 * time.Second // for the program to give its schema

// schemaOf asks the program at the end of conn for its schema; nil if its hello names none.
func (n *nucleus) schemaOf(ctx context.Context, conn *cellproto.Conn) (*cellproto.Schema, error) {
	hello, err := conn.PeerHello(ctx)
	if err != nil || len(hello.Schema) == 0 {
		return nil, err
	}
	schema, err := askSchema(ctx, conn)
	if err != nil {
		return nil, err
	}
	if hash := schema.Hash(); string(hash[:]) != string(hello.Schema) {
		return nil, cellproto.Errorf("ask the program for its schema", cellproto.Incompatible,
			"its hello names another schema than it gives").WithHint("The hash is that of the schema's canonical JSON; see docs/protocol.md.")
	}
	return schema, nil
}

func askSchema(ctx context.Context, conn *cellproto.Conn) (*cellproto.Schema, error) {
	reply, err := conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
	if err != nil {
		return nil, err
	}
	raw, err := reply.Bytes(cellproto.MaxSchema)
	if err != nil {
		return nil, err
	}
	return cellproto.ParseSchema(raw)
}
