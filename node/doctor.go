package node

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/sandbox"
)

// doctor says what is well and what is not, and for each that is not what mends it.
func (n *nucleus) doctor(ctx context.Context) []ctl.Check {
	return append(diagnose(n.facts(time.Now())), n.checkSandbox(ctx), n.checkLedger(), n.checkObjectives())
}

// facts collects what diagnose looks at.
func (n *nucleus) facts(now time.Time) facts {
	f := facts{
		dir: n.cfg.Dir, now: now, schema: -1, net: n.dht.Status(), public: n.cfg.Network.IsPublic(),
		listen: n.cfg.Network.Listen, addrs: n.addrs(), relayed: n.relayedOnly(), reach: n.reach.get(), online: online(),
	}
	if n.program != nil {
		f.program = n.programFacts()
	}
	if s := n.server.Serving().Schema; s != nil {
		f.schema = len(s.Functions)
	}
	if n.cfg.Network.PSK != "" {
		f.listen, f.quic = withoutQUIC(f.listen)
	}
	var actual []string
	for _, a := range n.host.Network().ListenAddresses() {
		actual = append(actual, a.String())
	}
	f.missing = unbound(f.listen, actual)
	if m, id := n.serving.published(); m != nil {
		st := n.dht.AnnounceState(id)
		f.published, f.keys, f.done, f.last, f.announce = id.String(), st.Keys, st.Done, st.Last, st.Err
	} else if n.program != nil {
		f.changed = n.serving.changed()
	}
	f.newest, f.newestFile = newestFile(n.cfg.Dir)
	clocks := n.caller.Clocks()
	f.skew, f.skewPeers = median(clocks), len(clocks)
	return f
}

func (n *nucleus) programFacts() *programFacts {
	st := n.program.State()
	p := &programFacts{
		path: n.cfg.Path(n.cfg.Cell.Binary), phase: string(st.Phase), starts: st.Starts, lastError: st.LastError, lastHint: st.LastHint,
	}
	info, err := os.Stat(p.path)
	if p.err = err; err == nil {
		p.regular, p.executable = info.Mode().IsRegular(), info.Mode().Perm()&0o111 != 0
	}
	return p
}

// online says that some interface besides loopback is up and has an address.
func online() bool {
	all, err := net.Interfaces()
	if err != nil {
		return true // not known
	}
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		if addrs, err := i.Addrs(); err == nil && len(addrs) > 0 {
			return true
		}
	}
	return false
}

// newestFile gives the latest time of the files that the nucleus itself or its owner writes.
func newestFile(dir string) (at time.Time, name string) {
	for _, pattern := range []string{"cell.toml", "keys/*", "published/*", "log/*", "cache/*"} {
		paths, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are good
		for _, path := range paths {
			info, err := os.Stat(path)
			if err == nil && info.Mode()&fs.ModeType == 0 && info.ModTime().After(at) {
				at, name = info.ModTime(), path
			}
		}
	}
	return at, name
}

// installLauncher gives the command that puts cellbox beside this celld.
func installLauncher(err error) string {
	if self, err := os.Executable(); err == nil && os.Getenv(sandbox.EnvLauncher) == "" {
		return "install -m 755 bin/cellbox " + quote(filepath.Dir(self)+"/") + ", from where celld was built (scripts/build.sh)"
	}
	return cellproto.HintOf(err)
}

// checkSandbox says what a stranger's program would be confined by here. The owner's own programs run
// without: that there is no sandbox is nothing wrong.
func (n *nucleus) checkSandbox(ctx context.Context) ctl.Check {
	c := ctl.Check{Name: "sandbox", OK: true}
	launcher, err := sandbox.FindLauncher(os.Getenv)
	if err != nil {
		c.Detail = "none, and no program of a stranger is run here: " + err.Error()
		if runtime.GOOS == "linux" { // elsewhere it could confine nothing
			c.OK, c.Fix = false, installLauncher(err)
		}
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
