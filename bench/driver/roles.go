package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/dht/content"
	"github.com/celldnet/celld/internal/rawtcp"
	"github.com/celldnet/celld/node/call"
)

// role is this process as a part of a benchmark.
func role(name string, args []string) error {
	if path := os.Getenv("BENCH_CPUPROFILE"); path != "" {
		f, err := os.Create(fmt.Sprintf("%s.%s.%d", path, name, os.Getpid()))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch {
	case name == "call-socket" && len(args) >= 1:
		return callSocket(args)
	case name == "call-local" && len(args) == 2:
		return callLocal(cell.LocalConfig{Dir: args[0]}, rawCall(args[1]))
	case name == "call-local-relayed" && len(args) == 2:
		return callLocal(cell.LocalConfig{Dir: args[0], Relay: true}, rawCall(args[1]))
	case name == "call-local-message" && len(args) == 1:
		return callLocal(cell.LocalConfig{Dir: args[0]}, messageCall)
	case name == "call-cid" && len(args) == 3:
		return callCID(args[0], args[1], args[2])
	case name == "copy" && len(args) == 2:
		return load.Copier(args[0], args[1])
	case name == "hold" && len(args) == 1:
		return hold(args[0])
	}
	return fmt.Errorf("there is no role %q with %d arguments", name, len(args))
}

// callSocket calls "echo" over a Unix socket: that of a nucleus, or of a program. With a second
// argument the call is for the cell of that CID, which the nucleus then calls in turn.
func callSocket(args []string) error {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	to := ""
	if len(args) > 1 {
		to = args[1]
	}
	newCall, err := load.Frames(conn, to)
	if err != nil {
		return err
	}
	return load.Worker(newCall)
}

// found is the finder of a caller that was told where the provider is: finding is not what is
// measured here.
type found peer.AddrInfo

func (f found) Find(context.Context, cid.Cid) (<-chan call.Found, func() string) {
	out := make(chan call.Found, 1)
	out <- call.Found{Info: peer.AddrInfo(f), Source: "static"}
	close(out)
	return out, func() string { return "one provider was named" }
}

func (f found) ResolveName(_ context.Context, name string) (cid.Cid, error) {
	return cid.Undef, cellproto.Errorf("resolve "+name, cellproto.NotFound, "there are no names here")
}

// newHost is a libp2p host on loopback, over TCP, otherwise as it comes.
func newHost() (host.Host, crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		return nil, nil, err
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.Transport(rawtcp.New), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	return h, key, err
}

// callCID is the client half of a nucleus with its callers in one process.
func callCID(target, addr, dir string) error {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return err
	}
	h, key, err := newHost()
	if err != nil {
		return err
	}
	defer h.Close()
	blocks, err := content.New(content.Config{}, content.Deps{Host: h})
	if err != nil {
		return err
	}
	blocks.Start()
	defer blocks.Stop()
	caller := call.NewCaller(call.CallerConfig{Dir: dir, Agent: "bench"}, call.CallerDeps{
		Host: h, Finder: found(*info), Blocks: blocks, Identity: call.Identity{Peer: h.ID(), Host: key}, Log: zap.NewNop(),
	})
	defer caller.Close()
	return load.Worker(func() (load.Call, error) {
		payload := load.Payload()
		return func() error {
			r, err := caller.Call(context.Background(), target, &cellproto.Request{Header: cellproto.Header{Func: "echo"}, Payload: payload})
			if err != nil {
				return err
			}
			return load.Check(payload, r.Reply.Payload)
		}, nil
	})
}

// order is what a holder of artefacts is asked for, one line of JSON each: to add a file, or to
// fetch one from a peer. It answers with what it took in ns.
type order struct {
	Add  string        `json:"add,omitempty"` // path
	Get  *content.File `json:"get,omitempty"`
	From string        `json:"from,omitempty"` // multiaddr with the peer
	To   string        `json:"to,omitempty"`   // path
}

type done struct {
	File  content.File `json:"file"`
	Took  int64        `json:"took"`
	Error string       `json:"error,omitempty"`
}

// hold is a nucleus as far as artefacts go: a host and a block store on the disk.
func hold(dir string) error {
	h, _, err := newHost()
	if err != nil {
		return err
	}
	defer h.Close()
	store, err := content.New(content.Config{Dir: filepath.Join(dir, "blocks")}, content.Deps{Host: h})
	if err != nil {
		return err
	}
	store.Start()
	defer store.Stop()
	load.Ready(fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID()))
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the driver has closed it
		}
		d := obey(store, &o)
		if err := out.Encode(d); err != nil {
			return err
		}
	}
}

// obey carries out one order. The time is that of the store alone.
func obey(store *content.Store, o *order) done {
	var d done
	var err error
	begin := time.Now()
	if o.Add != "" {
		d.File, err = store.AddFile(context.Background(), o.Add)
	} else {
		var info *peer.AddrInfo
		if info, err = peer.AddrInfoFromString(o.From); err == nil {
			err = store.FetchFile(context.Background(), *o.Get, []peer.AddrInfo{*info}, o.To, 0o600, nil)
		}
	}
	d.Took = time.Since(begin).Nanoseconds()
	if err != nil {
		d.Error = err.Error()
	}
	return d
}
