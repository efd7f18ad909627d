package dht

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	ds "github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// Public is the name of the network that is the IPFS DHT itself.
const Public = "public"

// What Config.ServerMode may be.
const (
	ModeAuto   = "auto"   // public: a server once AutoNAT says that others can reach us; private: unless it says that they cannot
	ModeServer = "server" // answer other peers' queries
	ModeClient = "client" // only ask
)

// Limits of the configuration.
const (
	maxBootstrap = 64 // bootstrap addresses
	maxStatic    = 64 // entries of the static list
)

// networkName is the form of a private network's name. It is part of a protocol ID.
var networkName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Config says which network to join and how. The zero value is a good one: the public network.
type Config struct {
	Network    string   // Public, or a private network's name, [a-z0-9-]{1,63}; "" is Public
	Bootstrap  []string // multiaddrs that end in /p2p/<peer>, at most 64; none on Public: the well-known IPFS bootstrap peers
	MDNS       bool     // announce this peer on the LAN by multicast, and listen for others
	ServerMode string   // ModeAuto, ModeServer or ModeClient; "" is ModeAuto
	Static     []string // at most 64 multiaddrs with /p2p/<peer>, or URLs (http, https) or paths of advert files
}

// withDefaults fills in what was left empty.
func (c Config) withDefaults() Config {
	if c.Network == "" {
		c.Network = Public
	}
	if c.ServerMode == "" {
		c.ServerMode = ModeAuto
	}
	return c
}

// Validate reports the first thing in c that cannot work, of kind BadInput.
func (c Config) Validate() error {
	const op = "configure the DHT"
	c = c.withDefaults()
	if !networkName.MatchString(c.Network) {
		return cellproto.Errorf(op, cellproto.BadInput, "network name %q is not of the form [a-z0-9-]{1,63}", c.Network).
			WithHint("Use %q, or lower-case letters, digits and dashes.", Public)
	}
	switch c.ServerMode {
	case ModeAuto, ModeServer, ModeClient:
	default:
		return cellproto.Errorf(op, cellproto.BadInput, "server mode %q is not one of auto, server, client", c.ServerMode)
	}
	if len(c.Bootstrap) > maxBootstrap {
		return cellproto.Errorf(op, cellproto.TooLarge, "%d bootstrap addresses, at most %d are allowed", len(c.Bootstrap), maxBootstrap)
	}
	if _, err := addrInfos(c.Bootstrap); err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "bootstrap: %w", err).
			WithHint("A bootstrap address is a multiaddr that ends in /p2p/<peer>, as `cellctl status --json` prints under addrs.")
	}
	if len(c.Static) > maxStatic {
		return cellproto.Errorf(op, cellproto.TooLarge, "%d entries in the static list, at most %d are allowed", len(c.Static), maxStatic)
	}
	for _, s := range c.Static {
		if err := checkStatic(s); err != nil {
			return cellproto.Errorf(op, cellproto.BadInput, "static list: %w", err)
		}
	}
	return nil
}

// checkStatic refuses an entry that can never give an address.
func checkStatic(s string) error {
	switch kindOfStatic(s) {
	case staticAddr:
		_, err := addrInfos([]string{s})
		return err
	case staticURL:
		u, err := url.Parse(s)
		if err != nil {
			return err
		}
		if u.Host == "" {
			return fmt.Errorf("URL %q names no host", s)
		}
	case staticFile:
		if strings.TrimSpace(s) == "" {
			return errors.New("an entry is empty")
		}
	}
	return nil
}

// addrInfos parses multiaddrs that end in /p2p/<peer>, and merges those of one peer.
func addrInfos(addrs []string) ([]peer.AddrInfo, error) {
	parsed := make([]ma.Multiaddr, 0, len(addrs))
	for _, s := range addrs {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a multiaddr: %w", s, err)
		}
		info, err := peer.AddrInfoFromP2pAddr(a)
		if err != nil {
			return nil, fmt.Errorf("%q does not end in /p2p/<peer>: %w", s, err)
		}
		if len(info.Addrs) == 0 {
			return nil, fmt.Errorf("%q names a peer but no address", s)
		}
		parsed = append(parsed, a)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(parsed...)
	if err != nil {
		return nil, err
	}
	// The library gives them in map order; the order of the list is the owner's.
	order := make(map[peer.ID]int, len(infos))
	for i, info := range infos {
		order[info.ID] = i
	}
	sorted := make([]peer.AddrInfo, 0, len(infos))
	for _, a := range parsed {
		_, id := peer.SplitAddr(a)
		if i, ok := order[id]; ok {
			sorted = append(sorted, infos[i])
			delete(order, id)
		}
	}
	return sorted, nil
}

// TXTResolver looks TXT records up; *net.Resolver is one.
type TXTResolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Deps is what a DHT works with.
type Deps struct {
	Host      host.Host   // not closed by this package
	Datastore ds.Batching // records, and the sequence numbers of names; not closed here; nil: in memory
	Log       *zap.Logger // named by the caller; nil: none
	DNS       TXTResolver // nil: the system's resolver
	// Seen is told of each peer that mDNS shows, before it is offered to anybody; nil: nobody is.
	Seen func(peer.ID)
	// Listed is told of the peer that an advert file or URL of the static list names, before it is offered to anybody, and
	// whether it is a file of this machine; nil: nobody is.
	Listed func(info peer.AddrInfo, file bool)
}
