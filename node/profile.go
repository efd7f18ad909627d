package node

import (
	"path/filepath"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/dht/content"
)

// Profile says what sort of machine a nucleus runs on.
type Profile string

// The profiles.
const (
	Ordinary Profile = ""       // a computer
	Router   Profile = "router" // a small one with flash memory: it holds little, and writes little
)

// ParseProfile reads the name of a profile.
func ParseProfile(name string) (Profile, error) {
	switch p := Profile(name); p {
	case Ordinary, Router:
		return p, nil
	case "ordinary":
		return Ordinary, nil
	}
	return "", cellproto.Errorf("read the profile", cellproto.BadInput, "there is no profile %.80q", name).
		WithHint("It is %q, or on other machines \"ordinary\", or left out.", Router)
}

// routerBlocks is what the blocks of a router may take of its memory, in bytes.
const routerBlocks = 16 << 20

// conns gives how many connections are kept. Each costs some 30 KiB.
func (p Profile) conns() (low, high int) {
	if p == Router {
		return 12, 32
	}
	return connsLow, connsHigh
}

// serverMode gives the part in the DHT. A router asks others, who have the memory and the connections.
func (p Profile) serverMode() string {
	if p == Router {
		return dht.ModeClient
	}
	return dht.ModeAuto
}

// content gives where blocks are kept, and how many: on a router in memory, since each is had again.
func (p Profile) content(dir string) content.Config {
	if p == Router {
		return content.Config{MaxBlocks: routerBlocks}
	}
	return content.Config{Dir: filepath.Join(dir, "cache", "blocks")}
}

// confine has a router run no program but in a sandbox: where none works, none runs.
func (p Profile) confine(cfg *celltoml.Config) {
	if p == Router && cfg.Sandbox.Tier == celltoml.SandboxNone {
		cfg.Sandbox.Tier = celltoml.SandboxAuto
	}
}

// memoryStore is a datastore that ends with the process.
func memoryStore() ds.Batching { return dssync.MutexWrap(ds.NewMapDatastore()) }
