package node

import (
	"context"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/patcher"
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
		patcher.Deps{Swap: restarting{n}, Log: n.log.Named("patch")})
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

// restarting has a program that was replaced run by stopping the old one first. Requests wait meanwhile.
type restarting struct{ n *nucleus }

func (r restarting) Swap(ctx context.Context) error {
	if err := r.n.program.Stop(ctx); err != nil {
		return err
	}
	_, err := (watched{r.n.program, r.n.serving}).Conn(ctx)
	return err
}

func (r restarting) Settled(context.Context) error { return nil }
