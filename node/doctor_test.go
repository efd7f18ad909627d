package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/internal/ctl"
)

const addr = "/ip4/1.2.3.4/tcp/4001/p2p/12D3KooWRCfXnWx4nR85rsHNLgphbFceeitFJcUeszkpmb2bS2mz"

// well is a published cell on the public network with which nothing is wrong.
func well() facts {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	return facts{
		dir: "/cells/calculator", now: now, schema: 3, online: true, public: true,
		program: &programFacts{path: "/cells/calculator/bin/calculator", regular: true, executable: true, phase: "idle", starts: 1},
		net:     dht.Status{Network: dht.Public, Mode: dht.ModeServer, WANPeers: 20, Connected: 30, BootstrapTotal: 4, Bootstrapped: 4},
		listen:  []string{"/ip4/0.0.0.0/tcp/4001"}, addrs: []string{addr}, reach: network.ReachabilityPublic,
		published: "bafyone", keys: 4, done: 4, last: now.Add(-time.Minute),
		newest: now.Add(-time.Hour), newestFile: "cell.toml", skewPeers: 3,
	}
}

// What the doctor says of each thing that can be wrong, and the command that mends it.
func TestDiagnose(t *testing.T) {
	private := func(f *facts) {
		f.public, f.net = false, dht.Status{Network: "lab", Mode: dht.ModeServer}
		f.reach, f.done = network.ReachabilityUnknown, 0
	}
	hinted := cellproto.Errorf("join", cellproto.Unavailable, "no peer answers").WithHint("ping 10.0.0.1")
	for name, c := range map[string]struct {
		change func(*facts)
		check  string // the one that it is about
		ok     bool
		detail string
		fix    string
	}{
		"all is well":                 {func(*facts) {}, "dht peers", true, "20 peers in the DHT", ""},
		"headless":                    {func(f *facts) { f.program = nil; f.schema = -1; f.published = "" }, "schema", true, "without a program", ""},
		"not built":                   {func(f *facts) { f.program.err = errors.New("stat bin/calculator: no such file") }, "program", false, "no such file", "cellctl build /cells/calculator"},
		"a directory":                 {func(f *facts) { f.program.regular = false }, "program", false, "is no file", "cellctl build"},
		"not executable":              {func(f *facts) { f.program.executable = false }, "program", false, "not executable", "chmod +x /cells/calculator/bin/calculator"},
		"it crashes":                  {func(f *facts) { f.program.lastError = "exit status 2" }, "program", false, "exit status 2", "cellctl logs /cells/calculator"},
		"with a hint":                 {func(f *facts) { f.program.lastError, f.program.lastHint = "bad magic", "cellctl build" }, "program", false, "bad magic", "cellctl build"},
		"an odd path":                 {func(f *facts) { f.dir = "/it's here"; f.program.lastError = "x" }, "program", false, "x", `cellctl logs '/it'\''s here'`},
		"schema unknown":              {func(f *facts) { f.schema = -1 }, "schema", false, "has not run", "cellctl schema /cells/calculator"},
		"listens on nothing":          {func(f *facts) { f.listen, f.addrs = nil, nil }, "listening", true, "calls others only", ""},
		"the port is taken":           {func(f *facts) { f.missing = f.listen }, "listening", false, "/ip4/0.0.0.0/tcp/4001", "ss -tulpn"},
		"no address":                  {func(f *facts) { f.addrs = nil }, "listening", false, "no address", "ip addr"},
		"no network":                  {func(f *facts) { f.online, f.net.WANPeers, f.net.Bootstrapped = false, 0, 0 }, "dht peers", false, "no network", "nmcli"},
		"no bootstrap peer":           {func(f *facts) { f.net.WANPeers, f.net.Bootstrapped = 0, 0 }, "dht peers", false, "0 of 4 bootstrap", "firewall"},
		"an error with a hint":        {func(f *facts) { f.net.WANPeers, f.net.Err = 0, hinted }, "dht peers", false, "no peer answers", "ping 10.0.0.1"},
		"only the LAN":                {func(f *facts) { f.net.WANPeers, f.net.LANPeers = 0, 2 }, "dht peers", true, "2 on the LAN", ""},
		"alone, private":              {private, "dht peers", true, "alone so far on the network lab: others join it with CELL_NETWORK=lab CELL_BOOTSTRAP=" + addr, ""},
		"nobody to tell":              {private, "announced", true, "nobody to tell yet", ""},
		"alone, offline":              {func(f *facts) { private(f); f.online = false }, "dht peers", true, "alone so far", ""},
		"private, no bootstrap peer":  {func(f *facts) { private(f); f.net.BootstrapTotal = 1 }, "dht peers", false, "0 of 1 bootstrap", "cellctl restart /cells/calculator"},
		"private, not announced":      {func(f *facts) { private(f); f.net.BootstrapTotal = 1; f.announce = errors.New("no peer took it") }, "announced", false, "no peer took it", "cellctl doctor"},
		"private, listens on nothing": {func(f *facts) { private(f); f.listen, f.addrs = nil, nil }, "dht peers", false, "0 peers", "bootstrap"},
		"relayed":                     {func(f *facts) { f.relayed = true; f.reach = network.ReachabilityPrivate }, "reachable", false, "relay", "UPnP"},
		"behind a NAT":                {func(f *facts) { f.reach = network.ReachabilityPrivate }, "reachable", false, "not from outside", "wait a minute"},
		"private, behind a NAT":       {func(f *facts) { private(f); f.reach = network.ReachabilityPrivate }, "reachable", false, "not from outside", "forward a port"},
		"not known":                   {func(f *facts) { f.reach = network.ReachabilityUnknown }, "reachable", true, "nobody has tried", ""},
		"not published":               {func(f *facts) { f.published = "" }, "announced", true, "not published", ""},
		"program changed":             {func(f *facts) { f.published, f.changed = "", true }, "announced", false, "has changed", "cellctl publish /cells/calculator"},
		"partly announced":            {func(f *facts) { f.done = 1 }, "announced", true, "1 of 4 keys", ""},
		"from the future":             {func(f *facts) { f.newest = f.now.Add(6 * time.Minute) }, "clock", false, "cell.toml is from the future", "timedatectl"},
		"the clock is behind":         {func(f *facts) { f.skew = 6 * time.Minute }, "clock", false, "6m0s behind the clocks of 3 others", "timedatectl"},
		"the clock is ahead":          {func(f *facts) { f.skew = -time.Hour }, "clock", false, "1h0m0s ahead of the clocks of 3 others", "timedatectl"},
		"it drifts":                   {func(f *facts) { f.skew = 3 * time.Minute }, "clock", true, "from 5m0s on", ""},
		"one of two clocks":           {func(f *facts) { f.skew, f.skewPeers = time.Hour, 1 }, "clock", true, "one of the two is wrong", ""},
		"no other clock":              {func(f *facts) { f.skewPeers = 0 }, "clock", true, "not compared", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := well()
			c.change(&f)
			var got *ctl.Check
			for _, check := range diagnose(f) {
				if check.OK != (check.Fix == "") {
					t.Errorf("%s is ok: %t, and is mended by %q", check.Name, check.OK, check.Fix)
				}
				if check.Name == c.check {
					got = &check
				}
			}
			if got == nil {
				t.Fatalf("no check is called %q", c.check)
			}
			if got.OK != c.ok || !strings.Contains(got.Detail, c.detail) || !strings.Contains(got.Fix, c.fix) {
				t.Errorf("%+v, want ok %t with %q, mended by %q", *got, c.ok, c.detail, c.fix)
			}
		})
	}
	for _, check := range diagnose(well()) {
		if !check.OK {
			t.Errorf("with nothing wrong %+v", check)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []time.Duration
		want time.Duration
	}{{nil, 0}, {[]time.Duration{5}, 5}, {[]time.Duration{9, 1, 5}, 5}, {[]time.Duration{-400, 0, 1, 2, 900}, 1}} {
		if got := median(c.of); got != c.want {
			t.Errorf("the median of %v is %d, want %d", c.of, got, c.want)
		}
	}
}

func TestNewestFile(t *testing.T) {
	dir := t.TempDir()
	old, late := filepath.Join(dir, "cell.toml"), filepath.Join(dir, "keys", "host.key")
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	for path, when := range map[string]time.Time{old: time.Now().Add(-time.Hour), late: at} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if got, name := newestFile(dir); name != late || !got.Equal(at) {
		t.Errorf("the newest file is %s of %s", name, got)
	}
}

func TestUnbound(t *testing.T) {
	actual := []string{"/ip4/0.0.0.0/tcp/4001", "/ip4/127.0.0.1/udp/40123/quic-v1"}
	for want, ok := range map[string]bool{
		"/ip4/0.0.0.0/tcp/4001":            true,
		"/ip4/0.0.0.0/tcp/4001/":           true,
		"/ip4/0.0.0.0/tcp/0":               true,
		"/ip4/127.0.0.1/udp/0/quic-v1":     true,
		"/ip4/0.0.0.0/tcp/4002":            false,
		"/ip4/0.0.0.0/udp/0/quic-v1":       false,
		"/ip4/127.0.0.1/udp/40123":         false,
		"/ip4/0.0.0.0/tcp":                 false,
		"/ip6/::/tcp/0":                    false,
		"/ip4/127.0.0.1/udp/4001/quic-v1/": false,
	} {
		if missing := unbound([]string{want}, actual); (len(missing) == 0) != ok {
			t.Errorf("%s is listened on: %t, want %t", want, !ok, ok)
		}
	}
}
