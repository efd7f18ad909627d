package node

import (
	"os"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/program"
)

// status describes the cell for people and programs.
func (n *nucleus) status() ctl.Status {
	load := n.server.Load()
	s := ctl.Status{
		Name: n.cfg.Cell.Name, Version: n.cfg.Cell.Version, State: ctl.Idle, NucleusPID: os.Getpid(),
		PeerID: n.identity.Peer.String(), Addrs: n.addrs(), Network: n.cfg.Network.Name,
		InFlight: load.InFlight, Served: load.Served, SandboxTier: "none", Dir: n.cfg.Dir,
	}
	n.serving.mu.Lock()
	if n.serving.manifest != nil {
		s.CID, s.IPNS = n.serving.id.String(), n.serving.name
	}
	n.serving.mu.Unlock()
	if n.program != nil {
		st := n.program.State()
		s.ProgramPID = st.PID
		if st.Phase == program.Running {
			s.State = ctl.Running
		}
	}
	s.Patch = n.patches.status()
	return s
}
