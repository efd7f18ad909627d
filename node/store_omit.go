//go:build celld_omit_leveldb

package node

import (
	ds "github.com/ipfs/go-datastore"
	"go.uber.org/zap"
)

// openStore gives the DHT's store: in a celld without leveldb it is in memory.
func openStore(string, *zap.Logger) (ds.Batching, error) { return memoryStore(), nil }
