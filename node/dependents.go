package node

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/internal/ctl"
)

const (
	// lockCheckTimeout bounds one check of a dependency.
	lockCheckTimeout = 10 * time.Second
	// lockCheckEvery is how long a dependency is left alone after it was checked: who serves it can say at any
	// time that it has changed, and comparing two schemas is work.
	lockCheckEvery = 5 * time.Second
)

// checks compares what the cells of cell.lock are now with what this cell was made for, whenever one of them says
// which schema it has: when it is connected to, and when that changes.
type checks struct {
	lock   *locked
	dir    string
	schema func(ctx context.Context, target string) (*cellproto.Schema, error)
	log    *zap.Logger

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	due    chan struct{} // capacity 1: something is to be checked

	mu     sync.Mutex
	wanted map[string]bool                  // targets to be checked
	begun  map[string]time.Time             // the last check of a target, within lockCheckEvery
	heard  map[[2]cellproto.SchemaHash]bool // made for, and what was said last
	rows   map[string]ctl.DependencyCheck   // by target
}

const maxHeard = 1024

func newChecks(n *nucleus, started *closers) *checks {
	c := &checks{
		lock: n.locked, dir: n.cfg.Dir, log: n.log.Named("checks"), due: make(chan struct{}, 1),
		schema: func(ctx context.Context, target string) (*cellproto.Schema, error) {
			return n.caller.Schema(ctx, target)
		},
		wanted: map[string]bool{}, begun: map[string]time.Time{}, heard: map[[2]cellproto.SchemaHash]bool{}, rows: map[string]ctl.DependencyCheck{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.work.Go(c.run)
	end := once(func() { c.cancel(); c.work.Wait() })
	started.add(end)
	n.upgrades.goodbye.add(end)
	return c
}

// hear takes note that a cell which was called as one with the schema made says that it has live. It does not wait.
func (c *checks) hear(made, live cellproto.SchemaHash) {
	cells := c.lock.now.Load()
	if cells == nil || made.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pair := [2]cellproto.SchemaHash{made, live}
	if c.heard[pair] {
		return
	}
	for other := range c.heard { // what was said before does not hold any more
		if other[0] == made {
			delete(c.heard, other)
		}
	}
	if len(c.heard) >= maxHeard {
		clear(c.heard)
	}
	c.heard[pair] = true
	for target, cell := range *cells {
		if cell.Schema == made && cell.Target == target {
			c.wanted[target] = true
		}
	}
	select {
	case c.due <- struct{}{}:
	default:
	}
}

func (c *checks) run() {
	later := time.NewTimer(0) // for those that are left alone for a while
	defer later.Stop()
	for {
		select {
		case <-c.due:
		case <-later.C:
		case <-c.ctx.Done():
			return
		}
		ripe, wait := c.ripe(time.Now())
		for _, target := range ripe {
			c.check(target)
		}
		if wait > 0 {
			later.Reset(wait)
		}
	}
}

// ripe takes the targets that may be checked now, and says how long it is until another one may; 0: there is none.
func (c *checks) ripe(now time.Time) (ripe []string, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for target, at := range c.begun {
		if now.Sub(at) >= lockCheckEvery {
			delete(c.begun, target)
		}
	}
	for target := range c.wanted {
		at, ok := c.begun[target]
		if !ok {
			delete(c.wanted, target)
			c.begun[target] = now
			ripe = append(ripe, target)
			continue
		}
		if left := lockCheckEvery - now.Sub(at); wait == 0 || left < wait {
			wait = left
		}
	}
	return ripe, wait
}

// check compares one cell, by asking it: an older version that goes on for this cell is not what it has become.
func (c *checks) check(target string) {
	cells := c.lock.now.Load()
	cell, ok := (*cells)[target]
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, lockCheckTimeout)
	defer cancel()
	live, err := c.schema(ctx, target)
	if c.ctx.Err() != nil {
		return
	}
	row := dependencyRow(&cell, c.dir, live, err)
	row.Checked = time.Now().UTC()
	if row.State == ctl.DependencyBreaking || row.State == ctl.DependencyCompatible {
		c.log.Info("a cell that this one was made for has another schema",
			zap.String("target", target), zap.String("state", row.State), zap.Strings("changes", row.Changes))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows[target] = row
}

// dependencyRow says what live, which could not be had if err is not nil, means to who was made for a cell of the lock.
func dependencyRow(cell *celllock.Cell, dir string, live *cellproto.Schema, err error) ctl.DependencyCheck {
	row := ctl.DependencyCheck{Target: cell.Target, Cell: cell.Cell, State: ctl.DependencyUnknown, Locked: cell.Schema.String(), Changes: []string{}}
	if err != nil {
		row.Error = err.Error()
		return row
	}
	row.Live = live.Hash().String()
	if live.Hash() == cell.Schema {
		row.State = ctl.DependencySame
		return row
	}
	was, err := cell.ReadSchema(dir)
	if err != nil {
		row.Error = err.Error()
		return row
	}
	row.State = ctl.DependencyCompatible
	if broken := cellproto.Compatible(was, live); len(broken) > 0 {
		row.State = ctl.DependencyBreaking
		for _, c := range broken {
			row.Changes = append(row.Changes, c.String())
		}
		return row
	}
	for name := range live.Functions {
		if _, ok := was.Functions[name]; !ok {
			row.Changes = append(row.Changes, name+": it is new")
		}
	}
	for _, c := range cellproto.Compatible(live, was) { // who is made for the newer one would miss it at the older
		if text := c.Func + ": it takes or gives more"; was.Functions[c.Func].Input != nil && !slices.Contains(row.Changes, text) {
			row.Changes = append(row.Changes, text)
		}
	}
	slices.Sort(row.Changes)
	return row
}

// status gives what is known of each cell in the lock.
func (c *checks) status() (rows []ctl.DependencyCheck) {
	cells := c.lock.now.Load()
	if cells == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for target, cell := range *cells {
		if cell.Target != target {
			continue
		}
		row, ok := c.rows[target]
		if !ok || row.Locked != cell.Schema.String() {
			row = ctl.DependencyCheck{Target: target, Cell: cell.Cell, State: ctl.DependencyUnknown, Locked: cell.Schema.String(), Changes: []string{}}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b ctl.DependencyCheck) int { return strings.Compare(a.Target, b.Target) })
	return rows
}

// hearSchema is what the caller tells.
func (n *nucleus) hearSchema(made, live cellproto.SchemaHash) {
	if c := n.checks.Load(); c != nil {
		c.hear(made, live)
	}
}
