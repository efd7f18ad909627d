package dht

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	mh "github.com/multiformats/go-multihash"

	"github.com/celldnet/celld/internal/addrgroup"
)

const (
	// donorDomain begins the preimage of the key under which donors of an address prefix are found.
	donorDomain = "cell/donors/1"
	// everywhere is the widest prefix, of private networks only: on the public one it would have
	// everybody's records in one place.
	everywhere = "all"
	// maxOwnPrefixes is of how many prefixes of one width this peer takes part in.
	maxOwnPrefixes = 4
	// enoughDonors is how many of the near ones make the wider prefixes unnecessary.
	enoughDonors = 4
	// maxDonors is how many one search gives, and maxUnannounced how many of these have not said that they are donors:
	// each cell of a LAN is one of those.
	maxDonors      = 32
	maxUnannounced = 16
	// widerAfter is how long the donors of a prefix are waited for before the wider one is looked up too.
	widerAfter = time.Second
)

// donorWidths are the prefixes of an address, the narrowest first, in bits: an IPv4 /16 and an IPv6 /32
// are about one provider's customers in one region.
var donorWidths = []struct{ v4, v6 int }{{16, 32}, {8, 16}}

// DonorKey gives the key under which donors at an address prefix are announced on a network:
//
//	CIDv1(raw, sha2-256("cell/donors/1" || network || 0 || prefix))
//
// prefix is written as in "192.0.0.0/16" or "2001:db8::/32", or is "all". What is announced are this
// key's own and its salted keys, as of any CID.
func DonorKey(network, prefix string) cid.Cid {
	pre := slices.Concat([]byte(donorDomain), []byte(network), []byte{0}, []byte(prefix))
	sum := sha256.Sum256(pre)
	hash, err := mh.Encode(sum[:], mh.SHA2_256)
	if err != nil {
		panic("dht: sha2-256 is not a known hash") // a constant code: cannot happen
	}
	return cid.NewCidV1(cid.Raw, hash)
}

// donorPrefixes gives the prefixes of a peer's addresses, one list for each width, the narrowest first.
// On the public network only public addresses count; on a private one those of its own ranges are as
// good, and all its peers have one prefix in common.
func donorPrefixes(network string, addrs []ma.Multiaddr) [][]string {
	var levels [][]string
	for _, width := range donorWidths {
		var level []string
		for _, a := range addrs {
			if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil || network == Public && !manet.IsPublicAddr(a) {
				continue
			}
			ip, ok := addrgroup.IP(a)
			if !ok {
				continue
			}
			bits := width.v6
			if ip.Is4() {
				bits = width.v4
			}
			prefix, err := ip.Prefix(bits)
			if err == nil && len(level) < maxOwnPrefixes && !slices.Contains(level, prefix.String()) {
				level = append(level, prefix.String())
			}
		}
		if len(level) > 0 {
			levels = append(levels, level)
		}
	}
	if network != Public {
		levels = append(levels, []string{everywhere})
	}
	return levels
}

func (d *DHT) donorLevels() [][]string { return donorPrefixes(d.cfg.Network, d.host.Addrs()) }

// donating is what this peer announces of itself as a donor.
type donating struct {
	mu   sync.Mutex
	on   bool
	keys map[cid.Cid]bool
}

// AnnounceDonor has this peer found as a donor by those near it from now on, or not any more. It follows
// this peer's addresses.
func (d *DHT) AnnounceDonor(on bool) {
	d.donating.mu.Lock()
	d.donating.on = on
	d.donating.mu.Unlock()
	d.keepDonating()
}

// keepDonating announces the keys of this peer's addresses, and no others.
func (d *DHT) keepDonating() {
	d.donating.mu.Lock()
	defer d.donating.mu.Unlock()
	if !d.donating.on && len(d.donating.keys) == 0 {
		return
	}
	wanted := map[cid.Cid]bool{}
	if d.donating.on {
		for _, level := range d.donorLevels() {
			for _, prefix := range level {
				wanted[DonorKey(d.cfg.Network, prefix)] = true
			}
		}
	}
	for key := range d.donating.keys {
		if !wanted[key] {
			d.Withdraw(key)
		}
	}
	for key := range wanted {
		d.Announce(key) // nothing happens if it is
	}
	d.donating.keys = wanted
}

// FindDonors looks for peers that take cells up for others, those near this peer first, and gives each
// as soon as it is known, at most 32: at once peers of the static list and of the LAN, which are to be
// asked whether they do, then those that announced themselves at a prefix of this peer's addresses. A
// wider one is looked up if the narrower one has few. The channel is closed at the end, as that of Find.
func (d *DHT) FindDonors(ctx context.Context) <-chan Provider {
	out := make(chan Provider, maxDonors)
	ctx, done, ok := d.begin(ctx)
	if !ok {
		close(out)
		return out
	}
	f := &donorSearch{d: d, out: out, given: map[peer.ID]bool{}}
	go func() {
		defer done()
		defer close(out)
		for _, info := range d.static.known() {
			f.give(Provider{Info: info, Source: SourceStatic})
		}
		for _, info := range d.lan.list(d.now()) {
			f.give(Provider{Info: info, Source: SourceMDNS})
		}
		ctx, enough := context.WithCancel(ctx)
		var lookups sync.WaitGroup
		defer lookups.Wait()
		defer enough()
		for _, level := range d.donorLevels() {
			if ctx.Err() != nil || f.found() >= enoughDonors {
				return
			}
			over := make(chan struct{})
			lookups.Go(func() { defer close(over); f.lookUp(ctx, level) })
			timer := time.NewTimer(widerAfter)
			select {
			case <-over:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
		lookups.Wait()
	}()
	return out
}

// donorSearch is one FindDonors.
type donorSearch struct {
	d   *DHT
	out chan<- Provider // has room for all

	mu        sync.Mutex
	given     map[peer.ID]bool
	announced int // of these, found under a prefix
}

func (f *donorSearch) found() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.announced
}

// give passes a donor on, unless it was already, or there are too many.
func (f *donorSearch) give(p Provider) {
	info, ok := usable(p.Info)
	if !ok || info.ID == f.d.host.ID() {
		return
	}
	announced := p.Source == SourceDHT
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given[info.ID] || len(f.given) >= maxDonors || !announced && len(f.given)-f.announced >= maxUnannounced {
		return
	}
	f.given[info.ID] = true
	if announced {
		f.announced++
	}
	f.out <- Provider{Info: info, Source: p.Source}
}

// lookUp looks up the prefixes of one width.
func (f *donorSearch) lookUp(ctx context.Context, prefixes []string) {
	var all sync.WaitGroup
	for _, prefix := range prefixes {
		all.Go(func() {
			for p := range f.d.Find(ctx, DonorKey(f.d.cfg.Network, prefix)) {
				if p.Source == SourceDHT || p.Source == SourceMDNS {
					f.give(p)
				}
			}
		})
	}
	all.Wait()
}
