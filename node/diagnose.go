package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/internal/ctl"
)

// facts is what the doctor looks at. diagnose makes findings of it and of nothing else.
type facts struct {
	dir string
	now time.Time

	program *programFacts // nil: headless
	schema  int           // functions; -1: not known

	online  bool // some interface besides loopback is up and has an address
	net     dht.Status
	public  bool
	listen  []string // as configured
	missing []string // of these, on which it does not listen
	quic    []string // configured too, but the network has a pre-shared key, for which QUIC has no place
	addrs   []string // what others can dial, with the peer ID

	relayed bool // others reach it through a relay only
	reach   network.Reachability

	published string // CID; ""
	changed   bool   // the program is not the one that was published
	keys      int    // under which it is announced
	done      int
	last      time.Time
	announce  error

	newest     time.Time     // the latest time of a file of the cell's
	newestFile string        // its name
	skew       time.Duration // median of what the clocks of others are ahead of this one
	skewPeers  int           // how many others
}

type programFacts struct {
	path       string
	err        error // of looking at the file
	regular    bool
	executable bool
	phase      string
	starts     uint64
	lastError  string
	lastHint   string
}

// diagnose says what is well and what is not, and for each that is not what mends it.
func diagnose(f facts) []ctl.Check {
	checks := []ctl.Check{f.checkProgram(), f.checkSchema(), f.checkListen(), f.checkPeers()}
	return append(checks, f.checkReachable(), f.checkAnnounced(), f.checkClock())
}

func good(name, format string, args ...any) ctl.Check {
	return ctl.Check{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func wrong(name, fix, format string, args ...any) ctl.Check {
	return ctl.Check{Name: name, Detail: fmt.Sprintf(format, args...), Fix: fix}
}

// quote makes one word of a path for the shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:@,+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (f *facts) checkProgram() ctl.Check {
	const name = "program"
	p := f.program
	switch {
	case p == nil:
		return good(name, "none: a nucleus without a program")
	case p.err != nil:
		return wrong(name, "cellctl build "+quote(f.dir), "%v", p.err)
	case !p.regular:
		return wrong(name, "cellctl build "+quote(f.dir), "%s is no file", p.path)
	case !p.executable:
		return wrong(name, "chmod +x "+quote(p.path), "%s is not executable", p.path)
	case p.lastError != "":
		fix := p.lastHint
		if fix == "" {
			fix = "cellctl logs " + quote(f.dir)
		}
		return wrong(name, fix, "%s", p.lastError)
	}
	return good(name, "%s, started %d times", p.phase, p.starts)
}

func (f *facts) checkSchema() ctl.Check {
	const name = "schema"
	switch {
	case f.program == nil:
		return good(name, "none: a nucleus without a program")
	case f.schema < 0:
		return wrong(name, "cellctl schema "+quote(f.dir), "not known yet: the program has not run")
	}
	return good(name, "%d functions", f.schema)
}

func (f *facts) checkListen() ctl.Check {
	const name = "listening"
	fix := "ss -tulpn to see who has the port, then change [network] listen in cell.toml and: cellctl restart " + quote(f.dir)
	without := ""
	if len(f.quic) > 0 {
		without = "; not on QUIC, which has no place for the network's pre-shared key"
	}
	switch {
	case len(f.listen) == 0 && len(f.quic) > 0:
		return wrong(name, "add \"/ip4/0.0.0.0/tcp/0\" to [network] listen in cell.toml, then: cellctl restart "+quote(f.dir),
			"on nothing: a network with a pre-shared key has no QUIC, and no address with TCP is configured")
	case len(f.listen) == 0:
		return good(name, "on nothing: it calls others only")
	case len(f.missing) > 0:
		return wrong(name, fix, "not on %s: a port is taken, or there is no such address here", strings.Join(f.missing, ", "))
	case len(f.addrs) == 0:
		return wrong(name, "ip addr, then connect this machine: nmcli networking on", "on %s, but this machine has no address", strings.Join(f.listen, ", "))
	}
	return good(name, "%s%s", strings.Join(f.addrs, ", "), without)
}

// withoutQUIC divides the configured addresses into those of QUIC and the others.
func withoutQUIC(configured []string) (listen, quic []string) {
	for _, c := range configured {
		if slices.Contains(strings.Split(c, "/"), "udp") {
			quic = append(quic, c)
		} else {
			listen = append(listen, c)
		}
	}
	return listen, quic
}

// unbound gives those of the configured addresses on which a host does not listen. Port 0 is any.
func unbound(configured, actual []string) (missing []string) {
	fits := func(want, have []string) bool {
		for i, part := range want {
			port := i > 0 && (want[i-1] == "tcp" || want[i-1] == "udp")
			if i >= len(have) || part != have[i] && !(port && part == "0") {
				return false
			}
		}
		return len(want) == len(have)
	}
	for _, c := range configured {
		want := strings.Split(strings.TrimSuffix(c, "/"), "/")
		if !slices.ContainsFunc(actual, func(a string) bool { return fits(want, strings.Split(a, "/")) }) {
			missing = append(missing, c)
		}
	}
	return missing
}

func (f *facts) checkPeers() ctl.Check {
	const name = "dht peers"
	st := f.net
	detail := fmt.Sprintf("network %s as %s: %d peers in the DHT, %d on the LAN, %d connected, %d of %d bootstrap peers, %d by mDNS",
		st.Network, st.Mode, st.WANPeers, st.LANPeers, st.Connected, st.Bootstrapped, st.BootstrapTotal, st.MDNSPeers)
	switch {
	case st.WANPeers+st.LANPeers > 0:
		return good(name, "%s", detail)
	case f.alone():
		return good(name, "alone so far on the network %s: others join it with CELL_NETWORK=%s CELL_BOOTSTRAP=%s",
			st.Network, st.Network, strings.Join(f.addrs[:min(len(f.addrs), 1)], ","))
	case !f.online:
		return wrong(name, "ip addr, then connect this machine: nmcli networking on", "%s: this machine has no network", detail)
	}
	fix := ""
	if st.Err != nil {
		detail += ": " + st.Err.Error()
		fix = cellproto.HintOf(st.Err)
	}
	switch {
	case fix != "":
	case st.Network == dht.Public:
		fix = "check this machine's connection to the internet; a firewall must let UDP and TCP out"
	default:
		fix = "set [network] bootstrap in cell.toml to an address that cellctl status prints on a running member, then: cellctl restart " + quote(f.dir)
	}
	return wrong(name, fix, "%s", detail)
}

// alone says that nobody is expected: on a private network that no bootstrap peer is named for, the
// first member is where others begin.
func (f *facts) alone() bool {
	return f.net.Network != dht.Public && f.net.BootstrapTotal == 0 && f.net.WANPeers+f.net.LANPeers == 0 && len(f.addrs) > 0
}

func (f *facts) checkReachable() ctl.Check {
	const name = "reachable"
	forward := "forward a port of the router to [network] listen in cell.toml, or turn on UPnP there, then: cellctl restart " + quote(f.dir)
	switch {
	case len(f.addrs) == 0:
		return good(name, "no: it listens on nothing, and calls others only")
	case f.relayed:
		return wrong(name, forward, "through a relay only, which is slower; hole punching makes most calls direct")
	case f.reach == network.ReachabilityPublic:
		return good(name, "directly, by whoever has its address")
	case f.reach == network.ReachabilityPrivate:
		return wrong(name, "wait a minute for a relay: cellctl doctor "+quote(f.dir)+"; or "+forward,
			"not from outside: behind a NAT, and no relay has been found yet")
	case !f.public:
		return good(name, "by whoever is on the same network; from outside it is not known: nobody has tried")
	}
	return good(name, "not known yet: nobody has tried")
}

func (f *facts) checkAnnounced() ctl.Check {
	const name = "announced"
	detail := fmt.Sprintf("%s under %d of %d keys", f.published, f.done, f.keys)
	if !f.last.IsZero() {
		detail += ", last " + f.now.Sub(f.last).Round(time.Second).String() + " ago"
	}
	switch {
	case f.changed:
		return wrong(name, "cellctl publish "+quote(f.dir), "the program has changed since it was published")
	case f.published == "":
		return good(name, "not published")
	case f.done > 0:
		return good(name, "%s", detail)
	case f.alone():
		return good(name, "%s: there is nobody to tell yet", detail)
	}
	if f.announce != nil {
		detail += ": " + f.announce.Error()
	}
	return wrong(name, "see \"dht peers\"; announcing goes on by itself: cellctl doctor "+quote(f.dir), "%s", detail)
}

// checkClock compares with the clocks of others, as their adverts show them, and with the cell's own
// files. What is off by more than MaxClockSkew makes adverts and tokens void.
func (f *facts) checkClock() ctl.Check {
	const name, fix = "clock", "set this machine's clock: timedatectl set-ntp true"
	now := f.now.UTC().Format(time.RFC3339)
	ahead := "behind"
	if f.skew < 0 {
		ahead = "ahead of"
	}
	switch off := f.skew.Abs().Round(time.Second); {
	case f.newest.Sub(f.now) > cellproto.MaxClockSkew:
		return wrong(name, fix, "it is %s, and %s is from the future: %s", now, f.newestFile, f.newest.UTC().Format(time.RFC3339))
	case f.skewPeers >= 2 && off > cellproto.MaxClockSkew:
		return wrong(name, fix, "%s, %s %s the clocks of %d others: adverts and tokens are void", now, off, ahead, f.skewPeers)
	case f.skewPeers >= 2 && off > cellproto.MaxClockSkew/2:
		return good(name, "%s, already %s %s the clocks of %d others: from %s on adverts and tokens are void",
			now, off, ahead, f.skewPeers, cellproto.MaxClockSkew)
	case f.skewPeers == 1 && off > cellproto.MaxClockSkew:
		return good(name, "%s, %s %s that of another peer: one of the two is wrong", now, off, ahead)
	case f.skewPeers > 0:
		return good(name, "%s, compared with %d others", now, f.skewPeers)
	}
	return good(name, "%s, not compared with others yet", now)
}

// median gives the middle one of some durations; of none, 0.
func median(of []time.Duration) time.Duration {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}
