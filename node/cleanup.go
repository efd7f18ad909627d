package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// trashPrefix begins the names, under run/, of what is being removed. Removing takes a while and a
// nucleus can be killed meanwhile, so a directory is taken away first, which takes no time: a cell has
// all of its bin/ or nothing of it. What is left of trash is removed by the next start.
const trashPrefix = "trash-"

// selfDestruct removes bin/ and cache/ of a cell that has retired. Everything else stays: sources,
// data/, cell.toml, keys/ and published/. Symbolic links are removed, and not followed.
func selfDestruct(dir string) error { return discard(dir, "bin", "cache") }

// discardLog removes log/.
func discardLog(dir string) error { return discard(dir, "log") }

func discard(dir string, names ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return cellproto.Errorf("clean up "+dir, cellproto.KindOf(err), "%w", err)
	}
	defer root.Close()
	var errs []error
	for i, name := range names {
		trash := filepath.Join(ctl.RunDir, fmt.Sprintf("%s%d-%d", trashPrefix, time.Now().UnixNano(), i))
		err := root.Rename(name, trash)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = root.RemoveAll(trash)
		}
		if err != nil {
			errs = append(errs, cellproto.Errorf("remove "+filepath.Join(dir, name), cellproto.KindOf(err), "%w", err))
		}
	}
	return errors.Join(errs...)
}

// sweepTrash removes what a nucleus that was killed while it cleaned up has left.
func sweepTrash(dir string, log *zap.Logger) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return // the start says why
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ctl.RunDir)
	if err != nil {
		return // nothing has ever run
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), trashPrefix) {
			if err := root.RemoveAll(filepath.Join(ctl.RunDir, e.Name())); err != nil {
				log.Warn("cannot remove what an earlier nucleus has left", zap.String("name", e.Name()), zap.Error(err))
			}
		}
	}
}

// tidy is the last thing that a nucleus does before it lets go of the cell.
func (n *nucleus) tidy() {
	dir, life := n.cfg.Dir, n.cfg.LifeCycle
	if n.retired {
		n.retireOld()
	}
	if n.retired && life.AutoCleanup {
		n.log.Info("removing bin/ and cache/, as auto_cleanup says")
		if err := selfDestruct(dir); err != nil {
			n.log.Error("cannot clean up", zap.Error(err))
		}
	}
	if n.wasReady && !life.KeepLog {
		if err := discardLog(dir); err != nil {
			n.log.Error("cannot remove the log", zap.Error(err))
		}
	}
}
