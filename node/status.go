package node

import (
	"os"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/program"
)

// status describes the cell for people and programs.
func (n *nucleus) status() ctl.Status {
	load := n.load()
	s := ctl.Status{
		Name: n.cfg.Cell.Name, Version: n.serving.releaseVersion(), State: ctl.Idle, NucleusPID: os.Getpid(),
		PeerID: n.identity.Peer.String(), Addrs: n.addrs(), Network: n.cfg.Network.Name,
		InFlight: load.InFlight, Served: load.Served, SandboxTier: string(n.cfg.Sandbox.Tier), Dir: n.cfg.Dir, Profile: string(n.profile),
		Celld: n.version, CelldStarted: n.started.UTC(), Upgrade: n.upgraded,
	}
	n.serving.mu.Lock()
	if n.serving.manifest != nil {
		s.CID, s.IPNS = n.serving.id.String(), n.serving.name
	}
	n.serving.mu.Unlock()
	if n.program != nil {
		st := n.program.State()
		s.ProgramPID = st.PID
		s.Starts, s.Crashes, s.LastExit = st.Starts, st.Crashes, st.LastExit
		s.LastError, s.LastHint = st.LastError, st.LastHint
		if st.Tier != "" {
			s.SandboxTier = st.Tier
		}
		s.LogCut, s.BadLines = st.Counters.LogCut, st.Counters.BadLines
		if st.Swap.Phase != program.SwapNone {
			s.Swap = &ctl.SwapStatus{
				State: string(st.Swap.Phase), Reason: st.Swap.Reason, Hint: st.Swap.Hint, Since: st.Swap.Since.UTC(),
			}
		}
		switch st.Phase {
		case program.Running:
			s.State = ctl.Running
		case program.Frozen:
			s.State = ctl.Frozen
		}
	}
	s.SchemasInUse = n.schemaUsers()
	if c := n.checks.Load(); c != nil {
		s.Dependencies = c.status()
	}
	if err := n.accounts.trouble(); err != nil {
		s.Ledger = err.Error()
	}
	s.LedgerDamage = n.accounts.damage()
	if t := n.accounts.travel; t != nil {
		s.LedgerEntries = t.Counts()
	}
	_, s.Objectives = objectives(n.cfg.Dir)
	s.Patch, s.Placements = n.patches.status(), n.placer.rows()
	return s
}
