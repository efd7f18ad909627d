package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/node/call"
)

// finder is the DHT as node/call sees it.
type finder struct{ *dht.DHT }

// Find passes the providers on.
func (f finder) Find(ctx context.Context, c cid.Cid) (<-chan call.Found, func() string) {
	out := make(chan call.Found)
	found, progress := f.FindWithProgress(ctx, c)
	go func() { // ends with the search, which ends with ctx
		defer close(out)
		for p := range found {
			select {
			case out <- call.Found{Info: p.Info, Source: p.Source}:
			case <-ctx.Done():
			}
		}
	}()
	return out, func() string { return howFar(f.Status(), progress.Asked(), progress.Keys, progress.Read()) }
}

// ResolveName waits until the DHT has a peer to ask.
func (f finder) ResolveName(ctx context.Context, name string) (cid.Cid, error) {
	if !dht.IsName(name) {
		return cid.Undef, cellproto.Errorf("resolve "+name, cellproto.NotFound, "%w", call.ErrNoName)
	}
	f.AwaitPeers(ctx, nil)
	return f.DHT.ResolveName(ctx, name)
}

// howFar says how far a search got, for people: how many answers came, under how many keys, and how
// many providers they named.
func howFar(st dht.Status, answers, keys, providers int) string {
	peers := st.WANPeers + st.LANPeers
	text := fmt.Sprintf("the DHT of the network %s, of which %s known, gave %s under %d keys and named %s",
		st.Network, plural(peers, "peer is", "peers are"), plural(answers, "answer", "answers"), keys,
		plural(providers, "provider", "providers"))
	if peers == 0 && answers == 0 {
		text = "no peer of the network " + st.Network + " can be reached"
		if st.BootstrapTotal > 0 {
			text += fmt.Sprintf(" (%d of %d bootstrap peers connected)", st.Bootstrapped, st.BootstrapTotal)
		} else {
			text += " (it has no bootstrap peer)"
		}
	}
	if st.MDNSPeers > 0 {
		text += "; mDNS shows " + plural(st.MDNSPeers, "peer", "peers") + " on this LAN"
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// allowedKeys reads [auth] allowed_keys: peer IDs as text, or files under keys/ that hold one.
func allowedKeys(cfg *celltoml.Config) ([]peer.ID, error) {
	var out []peer.ID
	for _, entry := range cfg.Auth.AllowedKeys {
		id, err := parseKey(entry)
		if err != nil {
			path := filepath.Join(cfg.Dir, "keys", filepath.Base(entry))
			f, ferr := os.Open(path)
			if ferr != nil {
				return nil, cellproto.Errorf("read allowed_keys", cellproto.BadInput, "%q is neither a key nor a file under keys/", entry).
					WithHint("Give the peer ID that cellctl status prints at the caller, or a file that holds it.")
			}
			text, rerr := io.ReadAll(io.LimitReader(f, maxKeyFile))
			f.Close()
			if rerr != nil {
				return nil, cellproto.Errorf("read "+path, cellproto.Failed, "%w", rerr)
			}
			if id, err = parseKey(strings.TrimSpace(string(text))); err != nil {
				return nil, cellproto.Errorf("read "+path, cellproto.BadInput, "%w", err)
			}
		}
		out = append(out, id)
	}
	return out, nil
}

// parseKey reads a public key: a peer ID, which for Ed25519 is the key, or its base64 protobuf.
func parseKey(text string) (peer.ID, error) {
	if id, err := peer.Decode(text); err == nil {
		return id, nil
	}
	raw, err := crypto.ConfigDecodeKey(text)
	if err != nil {
		return "", err
	}
	key, err := crypto.UnmarshalPublicKey(raw)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(key)
}

func (n *nucleus) agent() string { return "celld/" + n.version }

// newServer makes the half that serves the program, nil for none.
func (n *nucleus) newServer(prog call.Program, outgoing func(*cellproto.Conn, *cellproto.Frame), allowed []peer.ID) *call.Server {
	return call.NewServer(call.ServerConfig{
		Name: n.cfg.Cell.Name, Agent: n.agent(), Challenge: string(n.cfg.Auth.Challenge), AllowedKeys: allowed,
		TokenTTL: n.cfg.Auth.TokenTTL, ShowSchema: n.cfg.Cell.Schema, CheckArgs: n.cfg.Cell.Speaks == celltoml.JSONL, OwnerUID: os.Getuid(), Had: n.schemas.has,
		Elsewhere: func(made []byte) bool { return n.olds.route(made) != "" }, Fit: n.fitting.of,
	}, call.ServerDeps{Program: prog, Identity: n.identity, Outgoing: outgoing, Rank: n.rank, Log: n.log.Named("server")})
}

// newCaller makes the half that calls others. What it is told to is there by then.
func (n *nucleus) newCaller() *call.Caller {
	return call.NewCaller(call.CallerConfig{
		Dir: n.cfg.Dir, Agent: n.agent(), Deps: n.cfg.Deps, RemoteCells: n.cfg.RemoteCells, SpotCheck: n.cfg.Caller.SpotCheck,
	}, call.CallerDeps{
		Host: n.host, Finder: finder{n.dht}, Blocks: n.blocks, Identity: n.identity,
		Wake: wake, Own: n.server, Mirrors: n.mirrors, Repos: n.depends, MadeFor: n.locked.madeFor, Heard: n.hearSchema, Raced: n.placer.raced, Places: n.places, Log: n.log.Named("caller"),
	})
}
