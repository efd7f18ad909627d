package node

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// newLimiter gives what holds the caps of all hosted cells together: a control group around them, if one
// can be made, else nothing but each cell's own sandbox with its share.
func newLimiter(home string, log *zap.Logger) give.Limiter {
	sum := blake3.Sum256([]byte(home)) // the nucleus after this one finds it again
	pool, err := sandbox.OpenPool(hex.EncodeToString(sum[:6]))
	if err != nil {
		log.Info("no control group can be made: each hosted cell gets a share", zap.Error(err))
		return shares{err}
	}
	return pooled{pool}
}

// pooled holds the caps by a control group.
type pooled struct{ *sandbox.Pool }

func (p pooled) Set(c give.Caps) error {
	return p.Pool.Set(sandbox.PoolLimits{
		CPU: c.CPU / 100 * float64(runtime.NumCPU()), Memory: c.Memory, Disk: c.Disk,
	})
}

func (p pooled) Used([]give.Row) give.Usage { return give.Usage(p.Pool.Used()) }

// shares is what is left without control groups: a hosted cell's sandbox holds its share of the caps, which
// it gets when it starts, by stopping its program now and then, and ending it when it takes too much memory.
type shares struct{ why error }

func (s shares) Set(give.Caps) error       { return nil }
func (s shares) Groups() map[string]string { return nil }
func (s shares) Close()                    {}

func (s shares) By() string {
	return "a share for each cell (duty cycle, watchdog), since no control group can be made: " + s.why.Error()
}

func (s shares) Used(rows []give.Row) (u give.Usage) {
	var roots []int
	for _, r := range rows {
		if text, err := os.ReadFile(filepath.Join(r.Dir, ctl.RunDir, "pid")); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 1 {
				roots = append(roots, pid)
			}
		}
	}
	return give.TreeUsage("/proc", roots)
}
