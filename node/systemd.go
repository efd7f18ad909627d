package node

import (
	"context"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/celldnet/celld/internal/ctl"
)

// keepWatchdog tells the service manager that the nucleus is well, if it wants to be told (WatchdogSec of
// the unit): that it answers on its own control socket, twice as often as it has to. It goes on until
// the nucleus has begun to stop, for which the manager has another limit.
func (n *nucleus) keepWatchdog(started *closers) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the watchdog of the service manager is not served", zap.Error(err))
	}
	if err != nil || within == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(within / 2)
		defer tick.Stop()
		for {
			n.tellWell(ctx, within/2)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	started.add(func() { cancel(); work.Wait() })
}

// tellWell tells that the nucleus is well, if it answers within limit.
func (n *nucleus) tellWell(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := (&ctl.Client{Dir: n.cfg.Dir}).Metrics(ctx); err != nil {
		if ctx.Err() != context.Canceled {
			n.log.Warn("the nucleus does not answer itself: the watchdog is not told that it is well", zap.Error(err))
		}
		return
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) // a manager that is gone watches no more
}
