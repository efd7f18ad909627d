package node

import (
	"cmp"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/give"
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

// builtFrom says whether this is a mirror whose program was built here from the source that a manifest names.
func (n *nucleus) builtFrom(m *signed.Manifest, program signed.Digest) bool {
	return n.mirror != nil && n.mirror.BuiltFrom(m, program)
}

// place has the nucleus of a hosted cell keep within the bounds of who hosts it, whoever has started it.
// Without the group that holds them it does not start.
func (n *nucleus) place() (err error) {
	if n.placed, err = give.ReadPlacement(n.cfg.Dir); err != nil || n.placed == nil {
		return err
	}
	if n.mirror == nil {
		return cellproto.Errorf("start "+n.cfg.Cell.Name, cellproto.BadInput, "%s is there, and it is no mirror", give.PlacementFile).
			WithHint("Remove %s, or the cell.", filepath.Join(n.cfg.Dir, give.PlacementFile))
	}
	lower()
	if len(n.placed.Groups) > 0 {
		n.cgroup, err = sandbox.EnterPool(n.placed.Groups, filepath.Base(n.cfg.Dir))
	}
	return err
}

// bound keeps a program within the bounds of who hosts it. Inside a group that holds them a bound of its own
// on the processors would be refused.
func bound(c *sandbox.Config, p *give.Placement, cgroup string) {
	if p == nil {
		return
	}
	c.Memory = max(min(c.Memory, p.Memory), leastMemory)
	if p.Disk > 0 { // also inside of a group: an ordinary user's holds no disk
		c.ReadRate = max(p.Disk, leastRate)
	}
	if len(p.Groups) > 0 {
		c.CPU, c.Cgroup = 0, cgroup
		return
	}
	if c.CPU == 0 || c.CPU > p.CPU {
		c.CPU = max(p.CPU, leastCPU)
	}
}

// sandboxOf says how the program is confined; nil: it is not.
func (n *nucleus) sandboxOf() (*program.Sandbox, error) {
	cfg := n.cfg
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
	box := &program.Sandbox{Launcher: launcher, Config: sandbox.Config{
		Tier: tier, CPU: cfg.Resources.CPU, Memory: max(cmp.Or(cfg.Resources.Memory, celltoml.DefaultMemory), leastMemory),
	}}
	bound(&box.Config, n.placed, n.cgroup)
	return box, nil
}

// What a sandbox gives at least.
const (
	leastMemory = 4 << 20
	leastCPU    = 0.01
)

const leastRate = 64 << 10 // bytes a second of the state that is kept at least

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
