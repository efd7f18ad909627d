//go:build !celld_omit_flatfs

package content

import (
	"os"

	flatfs "github.com/ipfs/go-ds-flatfs"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// onFiles says that blocks can be kept in files.
const onFiles = true

// shard names the directory of a block's file by one character of its key: 32 of them are enough for
// what a cell keeps.
var shard = flatfs.NextToLast(1)

func shardOf(name string) string { return shard.Func()(name) }

func openFlatfs(dir string, log *zap.Logger) (*flatfs.Datastore, error) {
	data, err := flatfs.CreateOrOpen(dir, shard, false)
	if err == nil {
		return data, nil
	}
	if kind := cellproto.KindOf(err); kind == cellproto.Denied {
		return nil, err
	}
	log.Warn("cannot open the block store, starting with an empty one", zap.String("dir", dir), zap.Error(err))
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	return flatfs.CreateOrOpen(dir, shard, false)
}
