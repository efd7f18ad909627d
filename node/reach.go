package node

import (
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"

	"github.com/celldnet/celld/cellproto"
)

// reachability keeps what AutoNAT found out: whether others can reach this host.
type reachability struct {
	state atomic.Int32 // network.Reachability
	sub   event.Subscription
	done  chan struct{}
}

func watchReachability(h host.Host) (*reachability, error) {
	sub, err := h.EventBus().Subscribe(new(event.EvtLocalReachabilityChanged), eventbus.Name("nucleus"))
	if err != nil {
		return nil, cellproto.Errorf("watch reachability", cellproto.Failed, "%w", err)
	}
	r := &reachability{sub: sub, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for e := range sub.Out() {
			r.state.Store(int32(e.(event.EvtLocalReachabilityChanged).Reachability))
		}
	}()
	return r, nil
}

func (r *reachability) get() network.Reachability { return network.Reachability(r.state.Load()) }

func (r *reachability) close() {
	r.sub.Close()
	<-r.done
}
