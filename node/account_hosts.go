package node

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// hostsFile says where on this machine the hosts of the account are. It can be deleted: a cell says so again
// when its delegation is renewed.
const (
	hostsFile    = "hosts.json" // under cache/ of the home cell
	maxHostsFile = 1 << 20      // bytes
	maxHostDirs  = 256          // as many hosts as an account has
)

// hostDirs knows where the cells are whose hosts are the account's.
type hostDirs struct {
	path string
	log  *zap.Logger
	mu   sync.Mutex
	dirs map[string]string // peer ID -> directory
}

func openHostDirs(path string, log *zap.Logger) *hostDirs {
	h := &hostDirs{path: path, log: log, dirs: map[string]string{}}
	if data, err := readBounded(path, maxHostsFile); err == nil {
		if err := json.Unmarshal(data, &h.dirs); err != nil || len(h.dirs) > maxHostDirs {
			h.dirs = map[string]string{}
		}
	}
	return h
}

func (h *hostDirs) all() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.dirs)
}

// note remembers a directory, for the next nucleus too.
func (h *hostDirs) note(host, dir string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for other, d := range h.dirs { // a copy of a cell that has got a host key of its own
		if d == dir {
			delete(h.dirs, other)
		}
	}
	if len(h.dirs) >= maxHostDirs {
		return
	}
	h.dirs[host] = dir
	h.save()
}

func (h *hostDirs) forget(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.dirs, host)
	h.save()
}

func (h *hostDirs) save() {
	data, err := json.Marshal(h.dirs)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(h.path), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(h.path, data, 0o600)
	}
	if err != nil {
		h.log.Warn("cannot write down where the cells of the account are", zap.Error(err))
	}
}

// isCell says whether a directory has a cell.
func isCell(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, celltoml.FileName))
	return err == nil
}

// checkDir refuses what cannot be the directory of a cell.
func checkDir(op, dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || len(dir) > 4096 || !isCell(dir) {
		return cellproto.Errorf(op, cellproto.BadInput, "%.200q is not the directory of a cell", dir)
	}
	return nil
}
