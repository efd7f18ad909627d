package node

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/host"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/dht/content"
)

// startNetwork starts the host, the DHT and the block store.
func (n *nucleus) startNetwork(ctx context.Context, started *closers) error {
	net := n.cfg.Network
	g := newGater(!net.IsPublic(), slices.Concat(net.Bootstrap, net.Static, remoteAddrs(n.cfg)))
	n.gater = g
	d := newDials(g)
	n.places = d.places
	h, err := n.openHost(d)
	if err != nil {
		return err
	}
	// What is added twice is closed before another celld takes over, too.
	end := func(f func()) { f = once(f); started.add(f); n.upgrades.goodbye.add(f) }
	end(func() { h.Close() })
	n.host = h
	if n.reach, err = watchReachability(h); err != nil {
		return err
	}
	started.add(n.reach.close)
	store := memoryStore()
	if n.profile != Router {
		if store, err = openStore(filepath.Join(n.cfg.Dir, "cache", "dht"), n.log); err != nil {
			return err
		}
	}
	end(func() { store.Close() })
	n.dht, err = dht.New(dht.Config{
		Network: net.Name, Bootstrap: net.Bootstrap, MDNS: net.MDNS, Static: staticList(n.cfg),
		ServerMode: n.profile.serverMode(),
	}, dht.Deps{Host: h, Datastore: store, Log: n.log.Named("dht"), Seen: g.allow, Listed: g.listed})
	if err != nil {
		return err
	}
	if err := n.dht.Start(ctx); err != nil {
		return err
	}
	end(n.dht.Stop)
	blocks := n.profile.content(n.cfg.Dir)
	blocks.Withhold = n.cfg.Privacy.Placement == celltoml.PlacementLocal // also what was published before
	n.blocks, err = content.New(blocks, content.Deps{
		Host: h, Routing: n.dht.Routing(), Originals: n.originals.path,
		Charge: n.charge, Friend: n.friends.only(n.cfg.Privacy.Placement), Log: n.log,
	})
	if err != nil {
		return err
	}
	n.blocks.Start()
	end(n.blocks.Stop)
	return nil
}

// openHost makes the host, where the celld before had it if that is possible.
func (n *nucleus) openHost(d *dials) (host.Host, error) {
	agent, same := "celld/"+n.version, *n.cfg
	if same.Network.Listen = n.listenAddrs(); !slices.Equal(same.Network.Listen, n.cfg.Network.Listen) {
		h, err := newHost(&same, n.profile, n.identity.Host, d, agent)
		if err == nil {
			return h, nil
		}
		n.log.Warn("the addresses of the celld before cannot be listened on", zap.Error(err))
	}
	return newHost(n.cfg, n.profile, n.identity.Host, d, agent)
}

// staticList gives [network] static with paths that are relative to the cell made absolute.
func staticList(cfg *celltoml.Config) []string {
	out := slices.Clone(cfg.Network.Static)
	for i, s := range out {
		if !strings.HasPrefix(s, "/") && !strings.Contains(s, "://") {
			out[i] = filepath.Join(cfg.Dir, s)
		}
	}
	return out
}

func remoteAddrs(cfg *celltoml.Config) []string {
	var out []string
	for _, a := range cfg.RemoteCells {
		out = append(out, a)
	}
	return out
}
