package node

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// limiter holds the caps of all hosted cells together: by a control group around them, if one can be made or
// the user's systemd gives one, else by nothing but each cell's own sandbox with its share, which that holds by
// stopping the program now and then, and ending it when it takes too much memory. The Giver's goroutine uses
// it.
type limiter struct {
	name   string // of the group
	log    *zap.Logger
	opened bool
	pool   *sandbox.Pool // nil: shares
	asked  bool          // systemd was, and gave
	why    error         // there is no pool

	fetched *atomic.Int64 // bytes of programs that came for what is hosted, which are no load of others; nil: none
}

func newLimiter(home string, log *zap.Logger) *limiter {
	sum := blake3.Sum256([]byte(home)) // the nucleus after this one finds the group again
	return &limiter{name: hex.EncodeToString(sum[:6]), log: log}
}

// open makes the group when it is needed: most home cells give nothing.
func (l *limiter) open() {
	if l.opened {
		return
	}
	l.opened = true
	l.Close() // what may be left of it
	if l.pool, l.why = sandbox.OpenPool(l.name); l.pool != nil {
		return
	}
	if err := give.AskScope(context.Background()); err != nil {
		l.why = errors.Join(l.why, err)
	} else if l.pool, err = sandbox.OpenPool(l.name); err != nil {
		l.why = errors.Join(l.why, err)
	} else {
		l.asked = true
		return
	}
	l.log.Info("no control group can be made: each hosted cell gets a share", zap.Error(l.why))
}

func (l *limiter) Set(c give.Caps) error {
	if l.open(); l.pool == nil {
		return nil
	}
	err := l.pool.Set(sandbox.PoolLimits{
		CPU: c.CPU / 100 * float64(runtime.NumCPU()), Memory: c.Memory, Disk: c.Disk,
	})
	l.opened = err == nil // somebody may have removed it: the next time it is made again
	l.pool.GiveWay(!c.Firm)
	return err
}

func (l *limiter) Leave() {
	if l.pool != nil {
		l.pool.GiveWay(false)
	}
}

func (l *limiter) Groups() map[string]string {
	if l.pool == nil {
		return nil
	}
	return l.pool.Groups()
}

func (l *limiter) By() string {
	switch {
	case !l.opened:
		return ""
	case l.pool == nil:
		why := strings.ReplaceAll(l.why.Error(), "\n", "; ")
		return "a share for each cell (duty cycle, watchdog), since no control group can be made: " + why
	case l.asked:
		return l.pool.By() + ", given by systemd"
	}
	return l.pool.By()
}

func (l *limiter) Used(rows []give.Row) give.Usage {
	u := l.usedBy(rows)
	if l.fetched != nil {
		u.Disk += l.fetched.Load()
	}
	return u
}

func (l *limiter) usedBy(rows []give.Row) give.Usage {
	if l.pool != nil {
		return give.Usage(l.pool.Used())
	}
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

func (l *limiter) Close() {
	if l.pool != nil {
		l.pool.Close()
	}
}
