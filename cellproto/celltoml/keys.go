package celltoml

import (
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// kind is what may stand to the right of a key.
type kind uint8

const (
	text     kind = iota // *string
	flag                 // *bool
	integer              // *int
	number               // *float64
	duration             // *time.Duration
	size                 // *int64, bytes
	list                 // *[]string
	names                // *map[string]string: the key is a whole table of free names
)

var kindNames = [...]string{
	text: "a text in quotes", flag: "true or false", integer: "a whole number", number: "a number",
	duration: `a duration such as "10m", or a number of seconds`,
	size:     `a size such as "256MiB", or a number of bytes`,
	list:     `a list of texts, ["a", "b"]`,
	names:    "a table",
}

// key is one key of cell.toml. The table below is the only place that knows them: reading,
// checking, and finding the nearest one to a misspelling all go through it. It holds constants and
// functions without captures only, so that the linker lays it out and starting costs nothing.
type key struct {
	path     string
	kind     kind
	at       func(*Config) any   // where the value goes: the pointer that kind names
	optional bool                // of texts: may be ""; of sizes: may be 0, which says nothing
	choices  []string            // of texts: the only ones
	check    func(string) *fault // of a text that is not "", of every text of a list or table
	min, max float64             // of numbers; of durations in s, of sizes in bytes; of lists and tables max is the count
}

// Bounds that keep sums of what a file says far from overflowing, and a hostile file cheap.
const (
	maxText     = 4 << 10          // bytes of any text
	maxDuration = 10 * 365 * 86400 // s
	maxTokenTTL = 600              // s; cellproto.TokenTTL, past which no token is believed
	maxCPU      = 1024
	minMemory   = 1 << 20
	maxMemory   = 16 << 40
	maxP99Ms    = 3600 * 1000
	maxMbps     = 1000 * 1000
	maxList     = 64  // entries of a list
	maxNames    = 256 // entries of [deps] or [remote_cells]
)

var keys = [...]key{
	{path: "cell.name", kind: text, at: func(c *Config) any { return &c.Cell.Name }, check: checkName},
	{path: "cell.version", kind: text, at: func(c *Config) any { return &c.Cell.Version }, check: checkVersion},
	{path: "cell.binary", kind: text, at: func(c *Config) any { return &c.Cell.Binary }, optional: true, check: checkPath},
	{path: "cell.schema", kind: flag, at: func(c *Config) any { return &c.Cell.Schema }},
	{path: "cell.speaks", kind: text, at: func(c *Config) any { return (*string)(&c.Cell.Speaks) },
		check: checkSpeaks, choices: []string{string(Frames), string(JSONL)}},
	{path: "cell.state", kind: text, at: func(c *Config) any { return (*string)(&c.Cell.State) }, optional: true,
		choices: []string{string(StateNone), string(StateKept)}},
	{path: "cell.build", kind: text, at: func(c *Config) any { return &c.Cell.Build }, optional: true},

	{path: "life_cycle.freeze_after", kind: duration, at: func(c *Config) any { return &c.LifeCycle.FreezeAfter }, max: maxDuration},
	{path: "life_cycle.idle_timeout", kind: duration, at: func(c *Config) any { return &c.LifeCycle.IdleTimeout }, max: maxDuration},
	{path: "life_cycle.nucleus_timeout", kind: duration, at: func(c *Config) any { return &c.LifeCycle.NucleusTimeout }, max: maxDuration},
	{path: "life_cycle.retire_after", kind: duration, at: func(c *Config) any { return &c.LifeCycle.RetireAfter }, min: 1, max: maxDuration},
	{path: "life_cycle.auto_cleanup", kind: flag, at: func(c *Config) any { return &c.LifeCycle.AutoCleanup }},
	{path: "life_cycle.keep_log", kind: flag, at: func(c *Config) any { return &c.LifeCycle.KeepLog }},

	{path: "auth.challenge", kind: text, at: func(c *Config) any { return (*string)(&c.Auth.Challenge) },
		choices: []string{string(ChallengeNone), string(ChallengeSimple), string(ChallengeSig)}},
	{path: "auth.allowed_keys", kind: list, at: func(c *Config) any { return &c.Auth.AllowedKeys }, check: checkKey, max: maxList},
	{path: "auth.token_ttl", kind: duration, at: func(c *Config) any { return &c.Auth.TokenTTL }, min: 1, max: maxTokenTTL},

	{path: "resources.cpu", kind: number, at: func(c *Config) any { return &c.Resources.CPU }, min: 0.01, max: maxCPU},
	{path: "resources.memory", kind: size, at: func(c *Config) any { return &c.Resources.Memory }, optional: true, min: minMemory, max: maxMemory},
	{path: "resources.disk", kind: size, at: func(c *Config) any { return &c.Resources.Disk }, min: minMemory, max: maxMemory},
	{path: "resources.gpu", kind: text, at: func(c *Config) any { return &c.Resources.GPU }, optional: true, check: checkReserved},
	{path: "resources.concurrency", kind: integer, at: func(c *Config) any { return &c.Resources.Concurrency }, min: 1, max: cellproto.MaxStreams},

	{path: "slo.max_p99_ms", kind: integer, at: func(c *Config) any { return &c.SLO.MaxP99Ms }, max: maxP99Ms},
	{path: "slo.min_bandwidth_mbps", kind: integer, at: func(c *Config) any { return &c.SLO.MinBandwidthMbps }, max: maxMbps},
	{path: "slo.clone_on_violation", kind: flag, at: func(c *Config) any { return &c.SLO.CloneOnViolation }},

	{path: "caller.spot_check", kind: number, at: func(c *Config) any { return &c.Caller.SpotCheck }, max: 1},

	{path: "artefact.type", kind: text, at: func(c *Config) any { return (*string)(&c.Artefact.Type) }, optional: true,
		choices: []string{string(ArtefactSource), string(ArtefactBinary)}},
	{path: "artefact.repo", kind: text, at: func(c *Config) any { return &c.Artefact.Repo }, optional: true, check: checkURL},
	{path: "artefact.ref", kind: text, at: func(c *Config) any { return &c.Artefact.Ref }, optional: true, check: checkRef},
	{path: "artefact.url", kind: text, at: func(c *Config) any { return &c.Artefact.URL }, optional: true, check: checkReserved},
	{path: "artefact.blake3", kind: text, at: func(c *Config) any { return &c.Artefact.BLAKE3 }, optional: true, check: checkBLAKE3},
	{path: "artefact.signature", kind: text, at: func(c *Config) any { return &c.Artefact.Signature }, optional: true, check: checkReserved},

	{path: "deps", kind: names, at: func(c *Config) any { return &c.Deps }, check: checkDep, max: maxNames},
	{path: "remote_cells", kind: names, at: func(c *Config) any { return &c.RemoteCells }, check: checkRemote, max: maxNames},

	{path: "patch.trusted_keys", kind: list, at: func(c *Config) any { return &c.Patch.TrustedKeys }, check: checkKey, max: maxList},

	{path: "network.name", kind: text, at: func(c *Config) any { return &c.Network.Name }, check: checkName},
	{path: "network.listen", kind: list, at: func(c *Config) any { return &c.Network.Listen }, check: checkMultiaddr, max: maxList},
	{path: "network.bootstrap", kind: list, at: func(c *Config) any { return &c.Network.Bootstrap }, check: checkMultiaddr, max: maxList},
	{path: "network.static", kind: list, at: func(c *Config) any { return &c.Network.Static }, check: checkStatic, max: maxList},
	{path: "network.mdns", kind: flag, at: func(c *Config) any { return &c.Network.MDNS }},
	{path: "network.psk", kind: text, at: func(c *Config) any { return &c.Network.PSK }, optional: true, check: checkPath},

	{path: "privacy.placement", kind: text, at: func(c *Config) any { return (*string)(&c.Privacy.Placement) },
		choices: []string{string(PlacementPublic), string(PlacementFriends), string(PlacementLocal)}},

	{path: "sandbox.tier", kind: text, at: func(c *Config) any { return (*string)(&c.Sandbox.Tier) },
		choices: []string{string(SandboxNone), string(SandboxAuto), string(SandboxT1), string(SandboxT2), string(SandboxT3)}},
}

// reserved tables belong to later versions. Taking them silently now would change what a cell does
// on the day that one of them begins to mean something.
var reserved = [...]string{"consensus", "audit", "tunnel", "bridge"}

func isReserved(table string) bool {
	for _, r := range reserved {
		if r == table {
			return true
		}
	}
	return false
}

// find gives the key with this path, or nil.
func find(path string) *key {
	for i := range keys {
		if keys[i].path == path {
			return &keys[i]
		}
	}
	return nil
}

// table gives the part of the path before the dot; a key of kind names is a table itself.
func (k *key) table() string {
	t, _, _ := strings.Cut(k.path, ".")
	return t
}

// last gives the part of the path after the dot.
func (k *key) last() string { return k.path[strings.LastIndexByte(k.path, '.')+1:] }

func isTable(name string) bool {
	for i := range keys {
		if keys[i].table() == name {
			return true
		}
	}
	return false
}

// nearestTable gives the known table whose name takes the fewest edits.
func nearestTable(name string) string {
	best, least := "", -1
	for i := range keys {
		t := keys[i].table()
		if d := distance(clip(name), t); least < 0 || d < least {
			best, least = t, d
		}
	}
	return best
}

// nearestKey gives the known key that was most likely meant by name in table: one of that very name
// in another table, else the one of this table whose name takes the fewest edits, else (table is
// not known) the one of any. The first of equals wins, so that the answer is always the same.
func nearestKey(table, name string) *key {
	for i := range keys {
		if keys[i].kind != names && keys[i].last() == name {
			return &keys[i]
		}
	}
	var best *key
	least := -1
	known := isTable(table)
	for i := range keys {
		if keys[i].kind == names || known && keys[i].table() != table {
			continue
		}
		if d := distance(clip(name), keys[i].last()); least < 0 || d < least {
			best, least = &keys[i], d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions, substitutions and swaps
// of neighbours (the commonest slip of a hand) cost 1 each. Bytes, since every known key is ASCII.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
