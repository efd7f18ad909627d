package dht

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxLANPeers bounds what strangers on the LAN can make this peer remember.
	maxLANPeers = 32
	// lanPeerTTL is how long a peer of the LAN is remembered after it was last heard of. Records of
	// the library's multicast responder live for 3,200 s, and one is not reported again before.
	lanPeerTTL = time.Hour
	// lanGrace is how long after mDNS was started its first answers may be on their way.
	lanGrace = 3 * time.Second
)

// serviceName gives the DNS-SD service of a network: peers of other networks are not even seen. A
// DNS label has at most 63 bytes, so that long names are hashed.
func serviceName(network string) string {
	const prefix, suffix = "_cell-", "._udp"
	if len(prefix)+len(network) > 63 {
		sum := sha256.Sum256([]byte(network))
		network = hex.EncodeToString(sum[:12])
	}
	return prefix + network + suffix
}

// lanPeers are the peers that mDNS has shown: what they claim, not yet tried.
type lanPeers struct {
	news chan struct{} // a peer came

	mu    sync.Mutex
	peers map[peer.ID]lanPeer

	service io.Closer // nil: mDNS is off; set before anything runs, as is began
	began   time.Time
	found   func(peer.AddrInfo)
}

type lanPeer struct {
	info peer.AddrInfo
	seen time.Time
}

func newLANPeers() *lanPeers {
	return &lanPeers{news: make(chan struct{}, 1), peers: make(map[peer.ID]lanPeer)}
}

// start begins to announce and to listen on the LAN.
func (l *lanPeers) start(d *DHT) error {
	l.found = func(info peer.AddrInfo) {
		if info.ID == d.host.ID() || d.ctx.Err() != nil {
			return
		}
		info, ok := usable(info)
		if !ok {
			return
		}
		d.host.Peerstore().AddAddrs(info.ID, info.Addrs, lanPeerTTL)
		if d.seen != nil {
			d.seen(info.ID) // before anybody can want to dial it
		}
		l.add(info, d.now())
	}
	service := newMDNS(d.host, serviceName(d.cfg.Network), l)
	if err := service.Start(); err != nil {
		_ = service.Close()
		return err
	}
	l.service, l.began = service, d.now()
	return nil
}

// stop ends announcing and listening.
func (l *lanPeers) stop() {
	if l.service != nil {
		_ = l.service.Close()
	}
}

// HandlePeerFound is called by the mDNS service, in a goroutine of its own for each peer.
func (l *lanPeers) HandlePeerFound(info peer.AddrInfo) { l.found(info) }

// add remembers a usable peer that was heard of at now, in place of the oldest if there are too many.
func (l *lanPeers) add(info peer.AddrInfo, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	_, known := l.peers[info.ID]
	if !known && len(l.peers) >= maxLANPeers {
		var oldest peer.ID
		for id, p := range l.peers {
			if oldest == "" || p.seen.Before(l.peers[oldest].seen) {
				oldest = id
			}
		}
		delete(l.peers, oldest)
	}
	l.peers[info.ID] = lanPeer{info: info, seen: now}
	if !known {
		select {
		case l.news <- struct{}{}:
		default:
		}
	}
}

// list gives the peers that are not expired at now.
func (l *lanPeers) list(now time.Time) []peer.AddrInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	infos := make([]peer.AddrInfo, 0, len(l.peers))
	for _, p := range l.peers {
		infos = append(infos, p.info)
	}
	return infos
}

// expects says whether a peer was seen, or may be at any moment.
func (l *lanPeers) expects(now time.Time) bool {
	return len(l.list(now)) > 0 || l.service != nil && now.Sub(l.began) < lanGrace
}

// expire forgets peers not heard of for lanPeerTTL; the caller holds the lock.
func (l *lanPeers) expire(now time.Time) {
	for id, p := range l.peers {
		if now.Sub(p.seen) >= lanPeerTTL {
			delete(l.peers, id)
		}
	}
}
