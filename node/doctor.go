package node

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/sandbox"
)

// doctor says what is well and what is not, and for each that is not what mends it.
func (n *nucleus) doctor(ctx context.Context) []ctl.Check {
	return []ctl.Check{
		n.checkProgram(ctx), n.checkSchema(), n.checkPeers(), n.checkReachable(), n.checkAnnounced(), n.checkClock(),
		n.checkSandbox(ctx),
	}
}

func (n *nucleus) checkProgram(context.Context) ctl.Check {
	c := ctl.Check{Name: "program", OK: true}
	if n.program == nil {
		c.Detail = "none: a nucleus without a program"
		return c
	}
	path := n.cfg.Path(n.cfg.Cell.Binary)
	info, err := os.Stat(path)
	st := n.program.State()
	switch {
	case err != nil:
		c.OK, c.Detail, c.Fix = false, fmt.Sprintf("%v", err), "cellctl build "+n.cfg.Dir
	case info.Mode().Perm()&0o111 == 0:
		c.OK, c.Detail, c.Fix = false, path+" is not executable", "chmod +x "+path
	case st.LastError != "":
		c.OK, c.Detail, c.Fix = false, st.LastError, "cellctl logs "+n.cfg.Dir
		if st.LastHint != "" {
			c.Fix = st.LastHint
		}
	default:
		c.Detail = fmt.Sprintf("%s, started %d times", st.Phase, st.Starts)
	}
	return c
}

func (n *nucleus) checkSchema() ctl.Check {
	c := ctl.Check{Name: "schema", OK: true}
	switch s := n.server.Serving().Schema; {
	case n.program == nil:
		c.Detail = "none: a nucleus without a program"
	case s == nil:
		c.OK, c.Detail, c.Fix = false, "not known yet: the program has not run", "cellctl schema "+n.cfg.Dir
	default:
		c.Detail = fmt.Sprintf("%d functions", len(s.Functions))
	}
	return c
}

func (n *nucleus) checkPeers() ctl.Check {
	st := n.dht.Status()
	c := ctl.Check{Name: "dht peers", OK: st.WANPeers+st.LANPeers > 0}
	c.Detail = fmt.Sprintf("network %s as %s: %d peers in the DHT, %d on the LAN, %d connected, %d of %d bootstrap peers, %d by mDNS",
		st.Network, st.Mode, st.WANPeers, st.LANPeers, st.Connected, st.Bootstrapped, st.BootstrapTotal, st.MDNSPeers)
	if c.OK {
		return c
	}
	if st.Err != nil {
		c.Detail += ": " + st.Err.Error()
		c.Fix = cellproto.HintOf(st.Err)
	}
	if c.Fix == "" {
		c.Fix = "check this machine's connection to the internet; a firewall must let UDP and TCP out"
		if st.Network != dht.Public {
			c.Fix = "set [network] bootstrap in cell.toml to an address that cellctl status prints on a running member, then cellctl restart " + n.cfg.Dir
		}
	}
	return c
}

func (n *nucleus) checkReachable() ctl.Check {
	c := ctl.Check{Name: "reachable", OK: true}
	switch {
	case len(n.host.Addrs()) == 0:
		c.Detail = "no: it listens on nothing, and calls others only"
	case !n.cfg.Network.IsPublic():
		c.Detail = "directly, by whoever is on the private network"
	case n.relayedOnly():
		c.OK, c.Detail = false, "through a relay only, which is slower; hole punching makes most calls direct"
		c.Fix = "forward a port of the router to [network] listen, or turn on UPnP there"
	case n.reach.get() == network.ReachabilityPublic:
		c.Detail = "directly"
	case n.reach.get() == network.ReachabilityPrivate:
		c.OK, c.Detail = false, "not from outside: behind a NAT, and no relay has been found yet"
		c.Fix = "wait a minute for a relay; else forward a port of the router to [network] listen"
	default:
		c.Detail = "not known yet: nobody has tried"
	}
	return c
}

func (n *nucleus) checkAnnounced() ctl.Check {
	c := ctl.Check{Name: "announced", OK: true}
	m, id := n.serving.published()
	if m == nil {
		c.Detail = "not published"
		if n.program != nil {
			if n.serving.changed() {
				c.OK, c.Detail = false, "the program has changed since it was published"
				c.Fix = "cellctl publish " + n.cfg.Dir
			}
		}
		return c
	}
	st := n.dht.AnnounceState(id)
	c.OK = st.Done > 0
	c.Detail = fmt.Sprintf("%s under %d of %d keys", id, st.Done, st.Keys)
	if !st.Last.IsZero() {
		c.Detail += ", last " + time.Since(st.Last).Round(time.Second).String() + " ago"
	}
	if !c.OK {
		c.Fix = "see \"dht peers\"; announcing goes on by itself"
		if st.Err != nil {
			c.Detail += ": " + st.Err.Error()
		}
	}
	return c
}

// checkSandbox says what a stranger's program would be confined by here. The owner's own programs run
// without: that there is no sandbox is nothing wrong.
func (n *nucleus) checkSandbox(ctx context.Context) ctl.Check {
	c := ctl.Check{Name: "sandbox", OK: true}
	launcher, err := sandbox.FindLauncher(os.Getenv)
	if err != nil {
		c.Detail = "none, and no program of a stranger is run here: " + err.Error()
		return c
	}
	s, err := sandbox.ProbeThrough(ctx, launcher)
	if err != nil {
		c.OK, c.Detail, c.Fix = false, err.Error(), launcher+" --probe"
		return c
	}
	c.Detail = s.String()
	return c
}

// checkClock compares with the program's own files: a clock that is far off makes adverts void.
func (n *nucleus) checkClock() ctl.Check {
	c := ctl.Check{Name: "clock", OK: true, Detail: time.Now().UTC().Format(time.RFC3339)}
	if info, err := os.Stat(n.cfg.Path("cell.toml")); err == nil && time.Until(info.ModTime()) > cellproto.MaxClockSkew {
		c.OK, c.Detail, c.Fix = false, "cell.toml is from the future: "+info.ModTime().UTC().Format(time.RFC3339), "set this machine's clock: timedatectl set-ntp true"
	}
	return c
}
