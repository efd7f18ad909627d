package node

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
)

// A caller writes its objectives by hand (mirror.ObjectiveFile): what is wrong with them it has to hear of.

// objectives gives how many files with objectives the caller in dir has, and what is wrong with each that does not count.
func objectives(dir string) (count int, faults []string) {
	cache := filepath.Join(dir, ".cell-cache")
	of, _ := filepath.Glob(filepath.Join(cache, "*", mirror.ObjectiveFile)) // the pattern is good, but for an odd dir
	for _, path := range append([]string{filepath.Join(cache, mirror.ObjectiveFile)}, of...) {
		err := checkObjective(path)
		if os.IsNotExist(err) {
			continue
		}
		count++
		if err != nil {
			name, rerr := filepath.Rel(dir, path)
			if rerr != nil {
				name = path
			}
			faults = append(faults, fmt.Sprintf("%s does not count: %s", name, whyOf(err)))
		}
	}
	return count, faults
}

// checkObjective reads one file as a race does.
func checkObjective(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return cellproto.Errorf("read "+path, cellproto.BadInput, "it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 8<<10)) // more than counts
	if err == nil {
		_, err = mirror.ParseObjective(data, nil)
	}
	return err
}

func (n *nucleus) checkObjectives() ctl.Check {
	const name = "objectives"
	count, faults := objectives(n.cfg.Dir)
	if len(faults) > 0 {
		return wrong(name, `write it like {"max_p99_ms": 150, "clone_on_violation": true}`, "%s", strings.Join(faults, "; "))
	}
	if count == 0 {
		return good(name, "none of its own (.cell-cache/%s): no copies are made for it", mirror.ObjectiveFile)
	}
	return good(name, "%d of its own", count)
}
