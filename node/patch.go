package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/patcher"
	"github.com/celldnet/celld/node/program"
)

// patches is what keeps the program what the patches in patch/ make of it.
type patches struct {
	patcher *patcher.Patcher
	fault   error // of trusted_keys: nobody is trusted then
}

// startPatches begins to apply patches, if the cell has to do with them: it trusts somebody, or there
// is a directory for them. A key that cannot be read is no reason not to serve.
func (n *nucleus) startPatches(started *closers) error {
	n.patches = &patches{}
	if n.program == nil {
		return nil
	}
	if len(n.cfg.Patch.TrustedKeys) == 0 {
		if _, err := os.Lstat(filepath.Join(n.cfg.Dir, "patch")); err != nil {
			return nil
		}
	}
	keys, err := patch.TrustedKeys(n.cfg.Dir, n.cfg.Patch.TrustedKeys)
	if err != nil {
		n.log.Warn("no patch is applied", zap.Error(err), zap.String("hint", cellproto.HintOf(err)))
		n.patches.fault = err
	}
	p, err := patcher.New(patcher.Config{Dir: n.cfg.Dir, Program: n.cfg.Cell.Binary, Trusted: keys, UID: os.Getuid()},
		patcher.Deps{Swap: patchSwap{n}, Log: n.log.Named("patch")})
	if err != nil {
		return err
	}
	p.Start()
	started.add(p.Stop)
	n.patches.patcher = p
	return nil
}

func (p *patches) status() []ctl.Patch {
	if p.patcher == nil {
		return nil
	}
	entries := p.patcher.Status()
	if p.fault != nil {
		entries = append([]ctl.Patch{{File: ".", State: ctl.PatchRefused, Reason: p.fault.Error()}}, entries...)
	}
	return entries
}

// byPatch is why a program is swapped that patches have made.
const byPatch = "a patch"

// patchSwap has a program that patches have made take over as any other does.
type patchSwap struct{ n *nucleus }

func (s patchSwap) Swap(ctx context.Context) error {
	_, err := s.n.swaps.swap(ctx, swapRequest{By: byPatch}, func(string) {})
	return err
}

const (
	trialLook  = 100 * time.Millisecond // how often a program on trial is looked at, which tells nobody when it ends
	trialLimit = 15 * time.Second       // three times as long as a trial takes
)

// Settled waits for the end of the new program's trial.
func (s patchSwap) Settled(ctx context.Context) error {
	tick := time.NewTicker(trialLook)
	defer tick.Stop()
	limit := time.NewTimer(trialLimit)
	defer limit.Stop()
	for {
		switch state := s.n.program.State().Swap; state.Phase {
		case program.SwapTrial:
		case program.SwapRolledBack:
			return errors.New(state.Reason)
		default:
			return nil
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
