//go:build !celld_omit_leveldb

package node

import (
	"os"
	"path/filepath"

	ds "github.com/ipfs/go-datastore"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// openStore opens the small database of the DHT. A damaged one is moved away: it only caches.
func openStore(dir string, log *zap.Logger) (ds.Batching, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, cellproto.Errorf("open "+dir, cellproto.KindOf(err), "%w", err)
	}
	store, err := leveldb.NewDatastore(dir, nil)
	if err == nil {
		return store, nil
	}
	log.Warn("the DHT's store is damaged and starts anew", zap.Error(err))
	if err := os.RemoveAll(dir); err != nil {
		return nil, cellproto.Errorf("open "+dir, cellproto.Failed, "%w", err)
	}
	if store, err = leveldb.NewDatastore(dir, nil); err != nil {
		return nil, cellproto.Errorf("open "+dir, cellproto.Failed, "%w", err)
	}
	return store, nil
}
