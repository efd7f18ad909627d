package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

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

// Find waits until the DHT has a peer to ask, and passes the providers on.
func (f finder) Find(ctx context.Context, c cid.Cid) (<-chan call.Found, func() string) {
	out := make(chan call.Found)
	var progress atomic.Pointer[dht.Progress]
	go func() { // ends with the search, which ends with ctx
		defer close(out)
		f.joined(ctx)
		found, p := f.FindWithProgress(ctx, c)
		progress.Store(p)
		for p := range found {
			select {
			case out <- call.Found{Info: p.Info, Source: p.Source}:
			case <-ctx.Done():
			}
		}
	}()
	return out, func() string { return f.howFar(progress.Load()) }
}

// ResolveName waits likewise.
func (f finder) ResolveName(ctx context.Context, name string) (cid.Cid, error) {
	f.joined(ctx)
	return f.DHT.ResolveName(ctx, name)
}

// joined waits until the DHT has a peer to ask: a nucleus that was just started has none yet. It
// gives up at once when nobody is to be expected, and when ctx ends.
func (f finder) joined(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond) // the routing table does not tell
	defer tick.Stop()
	for ctx.Err() == nil {
		st := f.Status()
		if st.WANPeers+st.LANPeers > 0 || st.BootstrapTotal == 0 && st.MDNSPeers == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (f finder) howFar(p *dht.Progress) string {
	st := f.Status()
	if p == nil {
		return fmt.Sprintf("no peer of the network %s can be reached (%d of %d bootstrap peers are connected)",
			st.Network, st.Bootstrapped, st.BootstrapTotal)
	}
	return fmt.Sprintf("%d answers of the %d peers that are known in the DHT of the network %s, under %d keys, named %d providers",
		p.Asked(), st.WANPeers+st.LANPeers, st.Network, p.Keys, p.Read())
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
