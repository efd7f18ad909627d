// Package dht knows where things are: which peers provide a CID, which CID a name stands for, which
// peers are on this LAN, and which ones the owner listed. It is the sole importer of kad-dht.
//
// It owns the Kademlia tables of one network (the public IPFS DHT, or a private network of its
// own), provider records and their renewal, the daily salted keys and the query filter that make
// censorship of a key expensive, IPNS records, DNSLink, mDNS, static lists, and the connections to
// bootstrap peers.
//
// It owns no bytes (see dht/content), speaks none of the cell protocols, judges no peer by what it
// says about itself, and does not make the host: that is given to New.
//
// # Order of construction
//
// New starts nothing, so that it can be called while the host is still being made, which gives the
// host a way to find the addresses of peers:
//
//	var d *dht.DHT
//	h, err := libp2p.New(libp2p.Routing(func(h host.Host) (routing.PeerRouting, error) {
//		var err error
//		d, err = dht.New(cfg, dht.Deps{Host: h, Datastore: store, Log: log})
//		return d, err
//	}))
//	err = d.Start(ctx) // the host listens by now
//
// The host passed to that function is the one to use: a host that asks this package for addresses
// must not be the host that this package dials with, or a lookup could start lookups of its own.
// Without libp2p.Routing, call New with the finished host. Stop before the host is closed, and
// close the datastore last.
package dht
