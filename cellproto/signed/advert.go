package signed

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxAdvertSchemas = 32             // hashes in one list; the whole advert is within MaxAdvert
	maxLatency       = 24 * time.Hour // of p50 and p99
)

// Advert is a provider's word on its own load for one cell. It is a claim: what the caller has itself
// observed replaces it.
type Advert struct {
	Cell    cid.Cid        // the manifest
	Peer    peer.ID        // who says so; its host key signs
	Addrs   []ma.Multiaddr // at most MaxAdvertAddrs; a last /p2p is that of Peer
	Seq     uint64         // rises with every advert of this peer for this cell, over restarts too; see NextSeq
	Issued  time.Time      // whole ms, by the provider's clock
	Expires time.Time      // at most MaxAdvertLifetime after Issued

	Name            string // of the cell
	Version         string // semver
	SchemasProvided []cellproto.SchemaHash
	SchemasAccepted []cellproto.SchemaHash
	P50, P99        time.Duration // whole µs, of the last calls; 0: not known yet
	Queue           uint32        // requests waiting now
	Capacity        uint32        // calls that it runs at one time
	FreeSlots       uint32        // of which are free now
	PriceTable      uint16        // version of the price table
	BinaryBLAKE3    Digest        // of the program; zero: not said
	Relayed         bool          // reachable through a relay only
	Repo, Ref       string        // where the program comes from, or ""
}

// advertBody is what is signed.
type advertBody struct {
	V               uint64                 `cbor:"v"`
	Cell            Link                   `cbor:"cell"`
	Peer            string                 `cbor:"peer"`
	Addrs           [][]byte               `cbor:"addrs"`
	Seq             uint64                 `cbor:"seq"`
	Issued          int64                  `cbor:"issued"`
	Expires         int64                  `cbor:"expires"`
	Name            string                 `cbor:"name"`
	Version         string                 `cbor:"version"`
	SchemasProvided []cellproto.SchemaHash `cbor:"schemas_provided"`
	SchemasAccepted []cellproto.SchemaHash `cbor:"schemas_accepted"`
	P50us           int64                  `cbor:"p50_us"`
	P99us           int64                  `cbor:"p99_us"`
	Queue           uint32                 `cbor:"queue"`
	Capacity        uint32                 `cbor:"capacity"`
	FreeSlots       uint32                 `cbor:"free_slots"`
	PriceTable      uint16                 `cbor:"price_table"`
	BinaryBLAKE3    Digest                 `cbor:"binary_blake3"`
	Relayed         bool                   `cbor:"relayed"`
	Repo            string                 `cbor:"repo"`
	Ref             string                 `cbor:"ref"`
}

// SealAdvert signs a with the host key of a.Peer, which it fills in if empty. Times are cut to ms and
// latencies to µs. Kinds: BadInput, TooLarge for MaxAdvert and the lists, Denied for another peer's key.
func SealAdvert(a Advert, key crypto.PrivKey) ([]byte, error) {
	const op = "seal advert"
	self, err := peerOf(op, key.GetPublic())
	if err != nil {
		return nil, err
	}
	if a.Peer == "" {
		a.Peer = self
	}
	if a.Peer != self {
		return nil, cellproto.Errorf(op, cellproto.Denied, "the advert is of %s, the key of %s", a.Peer, self)
	}
	b := a.body()
	if _, err := b.advert(op); err != nil {
		return nil, err
	}
	return advertObject(op, &b).seal(key, cellproto.MaxAdvert)
}

// OpenAdvert gives the advert that the peer from sent for cell. Besides what holds for every
// envelope (see the package comment): it has to be from's own (Corrupt), for this cell (Corrupt), not
// expired and not from the future by more than MaxClockSkew (BadInput), its lists within their limits
// (TooLarge), all else in form (BadInput). Whether it is newer than the one before is for Newest.
func OpenAdvert(data []byte, from peer.ID, cell cid.Cid, now time.Time) (*Advert, error) {
	const op = "open advert"
	var b advertBody
	signer, err := advertObject(op, &b).open(data, cellproto.MaxAdvert)
	if err != nil {
		return nil, err
	}
	if signer != from || b.Peer != from.String() {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%s sent an advert of %.80q, signed by %s", from, b.Peer, signer)
	}
	if !b.Cell.Equals(cell) {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "it is for cell %s, not %s", b.Cell, cell)
	}
	a, err := b.advert(op)
	if err != nil {
		return nil, err
	}
	if a.Issued.After(now.Add(cellproto.MaxClockSkew)) || !now.Before(a.Expires.Add(cellproto.MaxClockSkew)) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", &ClockError{
			Ahead: a.Issued.Sub(now), text: fmt.Sprintf("valid from %s to %s, it is %s", utc(a.Issued), utc(a.Expires), utc(now)),
		})
	}
	return a, nil
}

// ClockError is within the error about an advert that is in order but for the time: it is old, or one of
// the two clocks is off.
type ClockError struct {
	Ahead time.Duration // by which the peer's clock, when it made the advert, was ahead of the reader's
	text  string
}

func (e *ClockError) Error() string { return e.text }

// Lifetime is how long the advert holds from when it was issued. Whoever asked the peer for it just
// now adds it to the own clock; the provider's may be off by MaxClockSkew.
func (a *Advert) Lifetime() time.Duration { return a.Expires.Sub(a.Issued) }

// NextSeq gives the sequence number of an advert made now by a provider whose last was last (0: it
// does not know): the time in ms, so that it rises over restarts with nothing stored.
func NextSeq(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.UnixMilli(), 1)))
}

func advertObject(op string, b *advertBody) object {
	return object{op: op, domain: domainAdvert, kind: typeAdvert, body: b}
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (a *Advert) body() advertBody {
	b := advertBody{
		V: version, Cell: Link{a.Cell}, Peer: a.Peer.String(), Seq: a.Seq,
		Issued: a.Issued.UnixMilli(), Expires: a.Expires.UnixMilli(), Name: a.Name, Version: a.Version,
		SchemasProvided: a.SchemasProvided, SchemasAccepted: a.SchemasAccepted,
		P50us: a.P50.Microseconds(), P99us: a.P99.Microseconds(), Queue: a.Queue, Capacity: a.Capacity,
		FreeSlots: a.FreeSlots, PriceTable: a.PriceTable, BinaryBLAKE3: a.BinaryBLAKE3, Relayed: a.Relayed,
		Repo: a.Repo, Ref: a.Ref,
	}
	for _, addr := range a.Addrs {
		b.Addrs = append(b.Addrs, addr.Bytes())
	}
	return b
}

// advert checks the fields and gives them their types.
func (b *advertBody) advert(op string) (*Advert, error) {
	if n := len(b.Addrs); n > cellproto.MaxAdvertAddrs {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d addresses, the limit is %d", n, cellproto.MaxAdvertAddrs)
	}
	if n := max(len(b.SchemasProvided), len(b.SchemasAccepted)); n > maxAdvertSchemas {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d schemas, the limit is %d", n, maxAdvertSchemas)
	}
	id, errPeer := parsePeer(b.Peer)
	addrs, errAddrs := b.multiaddrs(id)
	for _, f := range []struct {
		name string
		err  error
	}{
		{"v", checkV(b.V)},
		{"cell", checkManifestCID(b.Cell.Cid)},
		{"peer", errPeer},
		{"addrs", errAddrs},
		{"seq", checkInt(int64(min(b.Seq, 1<<63-1)), 1)},
		{"issued", checkInt(b.Issued, 1)},
		{"expires", checkSpan(b.Issued, b.Expires, cellproto.MaxAdvertLifetime)},
		{"name", checkName(b.Name)},
		{"version", checkSemver(b.Version)},
		{"schemas_provided", checkSchemas(b.SchemasProvided)},
		{"schemas_accepted", checkSchemas(b.SchemasAccepted)},
		{"p50_us", checkLatency(b.P50us)},
		{"p99_us", checkLatency(b.P99us)},
		{"repo", checkOptionalRepo(b.Repo)},
		{"ref", checkRef(b.Ref)},
	} {
		if f.err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%s: %w", f.name, f.err)
		}
	}
	return &Advert{
		Cell: b.Cell.Cid, Peer: id, Addrs: addrs, Seq: b.Seq,
		Issued: time.UnixMilli(b.Issued), Expires: time.UnixMilli(b.Expires), Name: b.Name, Version: b.Version,
		SchemasProvided: b.SchemasProvided, SchemasAccepted: b.SchemasAccepted,
		P50: time.Duration(b.P50us) * time.Microsecond, P99: time.Duration(b.P99us) * time.Microsecond,
		Queue: b.Queue, Capacity: b.Capacity, FreeSlots: b.FreeSlots, PriceTable: b.PriceTable,
		BinaryBLAKE3: b.BinaryBLAKE3, Relayed: b.Relayed, Repo: b.Repo, Ref: b.Ref,
	}, nil
}

func (b *advertBody) multiaddrs(self peer.ID) ([]ma.Multiaddr, error) {
	addrs := make([]ma.Multiaddr, 0, len(b.Addrs))
	for i, raw := range b.Addrs {
		addr, err := ma.NewMultiaddrBytes(raw)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", i, err)
		}
		if !bytes.Equal(addr.Bytes(), raw) {
			return nil, fmt.Errorf("%d: not the canonical bytes of %s", i, addr)
		}
		if id, err := peer.IDFromP2PAddr(addr); err == nil && id != self {
			return nil, fmt.Errorf("%s is that of another peer", addr)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// checkSpan checks two times in ms: the second after the first, by at most limit.
func checkSpan(from, to int64, limit time.Duration) error {
	if err := checkInt(to, 1); err != nil {
		return err
	}
	if to <= from || to-from > limit.Milliseconds() {
		return fmt.Errorf("%d ms after it was issued; it has to be within 1 and %d", to-from, limit.Milliseconds())
	}
	return nil
}

func checkLatency(us int64) error {
	if us < 0 || us > maxLatency.Microseconds() {
		return fmt.Errorf("%d µs is not within 0 and %s", us, maxLatency)
	}
	return nil
}

func checkSchemas(hashes []cellproto.SchemaHash) error {
	if len(hashes) > maxAdvertSchemas {
		return fmt.Errorf("%d hashes, the limit is %d", len(hashes), maxAdvertSchemas)
	}
	if slices.Contains(hashes, cellproto.SchemaHash{}) {
		return errors.New("a hash of zeros is that of no schema")
	}
	return nil
}

func checkOptionalRepo(s string) error {
	if s == "" {
		return nil
	}
	return checkRepo(s)
}
