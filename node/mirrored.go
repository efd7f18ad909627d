package node

import (
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/program"
	"github.com/celldnet/celld/node/sandbox"
)

// What is different in the nucleus of a mirror: its program is a stranger's.

// offline is the network of a mirror that is not announced.
const offline = "offline"

// asMirror changes a configuration, which the environment has had its say on, to that of a mirror, if the
// directory is one. A record that cannot be read is an error: without it nobody knows what the cell is.
func asMirror(cfg *celltoml.Config) (*mirror.Record, error) {
	r, err := mirror.ReadRecord(cfg.Dir)
	if err != nil || r == nil {
		return nil, err
	}
	if cfg.Sandbox.Tier == celltoml.SandboxNone {
		cfg.Sandbox.Tier = celltoml.SandboxAuto
	}
	if !r.Public {
		cfg.Network = celltoml.Network{Name: offline}
	}
	return r, nil
}

// sandboxOf says how the program is confined; nil: it is not.
func sandboxOf(cfg *celltoml.Config) (*program.Sandbox, error) {
	if cfg.Sandbox.Tier == celltoml.SandboxNone {
		return nil, nil
	}
	launcher, err := sandbox.FindLauncher(os.Getenv)
	if err != nil {
		return nil, err
	}
	tier, err := sandbox.ParseTier(string(cfg.Sandbox.Tier))
	if err != nil {
		return nil, err
	}
	return &program.Sandbox{Launcher: launcher, Config: sandbox.Config{
		Tier: tier, CPU: cfg.Resources.CPU, Memory: max(cfg.Resources.Memory, leastMemory),
	}}, nil
}

const leastMemory = 4 << 20 // what a sandbox gives at least

// reachable says whether other peers can come here at all.
func (n *nucleus) reachable() bool { return len(n.cfg.Network.Listen) > 0 }

// useEvery is how often the record of a mirror is told that it is used.
const useEvery = time.Hour

// noteUse notes in the record of a mirror when it was used last: cellctl gc goes by that. Who starts it
// uses it.
func (n *nucleus) noteUse(started *closers) {
	if n.mirror == nil {
		return
	}
	note := func(at time.Time) {
		if err := mirror.Touch(n.cfg.Dir, at); err != nil {
			n.log.Warn("cannot note that the mirror is used", zap.Error(err))
		}
	}
	note(n.begun)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(useEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				note(n.load().LastEnded)
			case <-stop:
				note(n.load().LastEnded)
				return
			}
		}
	}()
	started.add(func() { close(stop); <-ended })
}
