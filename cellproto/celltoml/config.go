// Package celltoml owns cell.toml: reading it, its defaults, and what may stand in it.
//
// It does not resolve what the file names: no path is opened, no key read, no address parsed
// beyond its first character, so that cellctl can link it and start in milliseconds.
package celltoml

import (
	"path/filepath"
	"time"
)

// FileName is the name of the file that makes a directory a cell.
const FileName = "cell.toml"

// PublicNetwork is the network that is the IPFS DHT itself; every other name is a private network.
const PublicNetwork = "public"

// Config is one cell.toml, with the defaults in place of what it does not say.
type Config struct {
	Dir string // absolute path of the cell's directory; "" when the file did not come from one

	Cell        Cell
	LifeCycle   LifeCycle
	Auth        Auth
	Resources   Resources
	SLO         SLO
	Caller      Caller
	Artefact    Artefact
	Deps        map[string]string // name -> ../path, CID, name, or git url@ref; never nil
	RemoteCells map[string]string // name -> path of a Unix socket, or multiaddr; never nil
	Patch       Patch
	Network     Network
	Privacy     Privacy
	Sandbox     Sandbox
}

// Cell says what the cell is.
type Cell struct {
	Name    string // [a-z0-9-]{1,63}
	Version string // semver 2.0.0, without a leading v
	Binary  string // the program, relative to the directory; "" for a nucleus without a program
	Schema  bool   // shown to whoever may call
	Speaks  Speaks
	State   State
	Build   string // a shell command, or "": recognise go.mod, Cargo.toml, Makefile, flake.nix
}

// State is what the owner says of what the cell keeps from one call to the next, in its program or its nucleus.
type State string

// What can be said.
const (
	StateUnsaid State = ""     // it may keep something, unless all its functions are pure
	StateNone   State = "none" // nothing by which a copy would differ
	StateKept   State = "kept" // something that a copy would not have
)

// Speaks is how the program talks to its nucleus.
type Speaks string

// The ways to speak.
const (
	Frames Speaks = "frames" // the frames of cellproto over the inherited socket
	JSONL  Speaks = "jsonl"  // one JSON object a line on stdin and stdout
)

// LifeCycle says when things stop. 0 means never.
type LifeCycle struct {
	FreezeAfter    time.Duration // without a call, then the program is stopped in place
	IdleTimeout    time.Duration // without a call, then the program stops; the nucleus stays
	NucleusTimeout time.Duration // without a call, then the nucleus stops too
	RetireAfter    time.Duration // without a call, then a caller does not count any more; and an old major version stops
	AutoCleanup    bool          // on self-destruct remove bin/ and cache/
	KeepLog        bool          // keep log/ when the nucleus stops
}

// Auth says who may call. A caller on this machine with the owner's uid always may.
type Auth struct {
	Challenge   Challenge
	AllowedKeys []string      // file names under keys/, or keys as text; only with ChallengeSig
	TokenTTL    time.Duration // 1 s to 10 min
}

// Challenge is what a caller has to prove.
type Challenge string

// The challenges.
const (
	ChallengeNone   Challenge = "none"   // nothing
	ChallengeSimple Challenge = "simple" // that it holds some key
	ChallengeSig    Challenge = "sig"    // that it holds one of AllowedKeys
)

// DefaultMemory is what a confined program may use, in bytes, whose cell does not say how much it needs. It is a
// bound and no need: a machine that has less to give may give less.
const DefaultMemory = 256 << 20

// Resources is what one instance needs.
type Resources struct {
	CPU         float64 // cores; 0.01 to 1024
	Memory      int64   // bytes; 1 MiB to 16 TiB; 0: not said, see DefaultMemory
	Disk        int64   // bytes that its state may take in data/store; 1 MiB to 16 TiB
	GPU         string  // always "" for now
	Concurrency int     // calls in flight in the program; 1 to cellproto.MaxStreams
}

// SLO is what callers of this cell may expect. 0 means no such objective.
type SLO struct {
	MaxP99Ms         int // milliseconds
	MinBandwidthMbps int // Mbit/s
	CloneOnViolation bool
}

// Caller says how this cell calls others.
type Caller struct {
	SpotCheck float64 // share of the calls of pure functions whose replies are checked; 0 to 1
}

// ArtefactType is the way to get the cell that its owner prefers.
type ArtefactType string

// The types of artefact.
const (
	ArtefactUnset  ArtefactType = ""
	ArtefactSource ArtefactType = "source" // by git: Repo and Ref
	ArtefactBinary ArtefactType = "binary" // as bytes: from URL, or published by CID
)

// Artefact says how others get the cell. What belongs to both types may be given.
type Artefact struct {
	Type      ArtefactType
	Repo      string // https:// or file:// URL of a git repository
	Ref       string // tag, branch or commit
	URL       string // https:// or file:// URL of the program
	BLAKE3    string // of the program, 64 lower-case hex digits; never "" when URL is given
	Signature string // of the program, as text
}

// Patch says whose patches are taken.
type Patch struct {
	TrustedKeys []string // file names under keys/, or keys as text
}

// Network says where the cell is found.
type Network struct {
	Name      string   // PublicNetwork, or a private network's name
	Listen    []string // multiaddrs; empty: the Unix socket only
	Bootstrap []string // multiaddrs; empty on the public network: the well-known ones of IPFS
	Static    []string // providers to ask besides those found: multiaddrs with /p2p/, or URLs or paths of advert files
	MDNS      bool
	PSK       string // file with the pre-shared key, relative to the directory; private networks only
}

// Privacy says where the cell may run.
type Privacy struct {
	Placement Placement
}

// Placement is how far a copy of the cell may go.
type Placement string

// The placements.
const (
	PlacementPublic  Placement = "public"  // anywhere
	PlacementFriends Placement = "friends" // machines of accounts that the owner trusts
	PlacementLocal   Placement = "local"   // never off this machine
)

// Sandbox says how the program is confined.
type Sandbox struct {
	Tier SandboxTier
}

// SandboxTier is how strongly a program is confined; docs/sandbox.md says what each means.
type SandboxTier string

// The tiers.
const (
	SandboxNone SandboxTier = "none" // not at all: it is the owner's own
	SandboxAuto SandboxTier = "auto" // as strongly as this machine can; where it cannot, it does not run
	SandboxT1   SandboxTier = "T1"   // so, or not at all; likewise below
	SandboxT2   SandboxTier = "T2"
	SandboxT3   SandboxTier = "T3"
)

// Default gives the configuration of an empty cell.toml. It lacks the one thing that has no
// default, the cell's name, and so does not pass Validate as it is.
func Default() *Config {
	return &Config{
		Cell:        Cell{Version: "0.1.0", Schema: true, Speaks: Frames},
		LifeCycle:   LifeCycle{FreezeAfter: 30 * time.Second, IdleTimeout: 600 * time.Second, RetireAfter: 7 * 24 * time.Hour, KeepLog: true},
		Auth:        Auth{Challenge: ChallengeSimple, TokenTTL: 10 * time.Minute},
		Resources:   Resources{CPU: 1, Disk: 64 << 20, Concurrency: 100},
		SLO:         SLO{MaxP99Ms: 150, MinBandwidthMbps: 100, CloneOnViolation: true},
		Caller:      Caller{SpotCheck: 0.01},
		Deps:        map[string]string{},
		RemoteCells: map[string]string{},
		Network: Network{
			Name:   PublicNetwork,
			Listen: []string{"/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"},
			MDNS:   true,
		},
		Privacy: Privacy{Placement: PlacementPublic},
		Sandbox: Sandbox{Tier: SandboxNone},
	}
}

// Headless reports that the cell is a nucleus without a program: a router, or a home cell.
func (c *Config) Headless() bool { return c.Cell.Binary == "" }

// Path gives the absolute path of a file that cell.toml names relative to its directory, such as
// Cell.Binary; "" stays "".
func (c *Config) Path(rel string) string {
	if rel == "" {
		return ""
	}
	return filepath.Join(c.Dir, filepath.FromSlash(rel))
}

// IsPublic reports that the network is the IPFS DHT.
func (n *Network) IsPublic() bool { return n.Name == PublicNetwork }
