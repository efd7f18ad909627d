//go:build celld_omit_flatfs

package content

import (
	"github.com/ipfs/go-datastore"
	"go.uber.org/zap"
)

// onFiles says that blocks can be kept in files. Without flatfs they are in memory.
const onFiles = false

func openFlatfs(string, *zap.Logger) (datastore.Batching, error) { panic("built without flatfs") }

func shardOf(string) string { return "" }
