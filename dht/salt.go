package dht

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

const (
	// saltDomain begins the preimage of every salted key.
	saltDomain = "cell/provide/1"
	// saltedKeys is the number of salted keys of a CID and a day. With one of three attacked, 60 of
	// 60 lookups succeeded; a second set of identities has to be ground for each, every day.
	saltedKeys = 3
	// epochLength is how long a salted key is good for: a day, UTC.
	epochLength = 24 * time.Hour
	// epochOverlap is how long before an epoch its keys are announced, and how long after it they
	// are still looked up, so that clocks may differ and not everybody announces at midnight.
	epochOverlap = 2 * time.Hour
)

// Epoch numbers the day that t is in: days since 1970-01-01, UTC. Times before that are day 0.
func Epoch(t time.Time) uint64 {
	if t.Unix() < 0 {
		return 0
	}
	return uint64(t.Unix()) / uint64(epochLength/time.Second)
}

// SaltedKeys gives the keys under which, besides the plain one, providers of c are announced during
// epoch on network. Key i is
//
//	CIDv1(raw, sha2-256("cell/provide/1" || network || epoch || i || multihash of c))
//
// with epoch as 8 bytes, big-endian, and i, from 0, as one byte. Whoever wants to surround all of
// a CID's keys has to grind identities for each of them anew every day.
func SaltedKeys(network string, epoch uint64, c cid.Cid) [saltedKeys]cid.Cid {
	var keys [saltedKeys]cid.Cid
	for i := range keys {
		pre := make([]byte, 0, len(saltDomain)+len(network)+9+len(c.Hash()))
		pre = append(pre, saltDomain...)
		pre = append(pre, network...)
		pre = binary.BigEndian.AppendUint64(pre, epoch)
		pre = append(pre, byte(i))
		pre = append(pre, c.Hash()...)
		sum := sha256.Sum256(pre)
		hash, err := mh.Encode(sum[:], mh.SHA2_256)
		if err != nil {
			panic("dht: sha2-256 is not a known hash") // a constant code: cannot happen
		}
		keys[i] = cid.NewCidV1(cid.Raw, hash)
	}
	return keys
}

// announceKeys gives the keys under which c is to be announced at now: itself, for any IPFS node,
// the salted keys of the day, and from lead before its end those of the next.
func announceKeys(network string, c cid.Cid, now time.Time, lead time.Duration) []cid.Cid {
	epoch := Epoch(now)
	salted := SaltedKeys(network, epoch, c)
	keys := append([]cid.Cid{c}, salted[:]...)
	if Epoch(now.Add(lead)) != epoch {
		salted = SaltedKeys(network, epoch+1, c)
		keys = append(keys, salted[:]...)
	}
	return keys
}

// findKeys gives the keys to look c up under at now: itself, the salted keys of the day, and at its
// beginning those of the day before.
func findKeys(network string, c cid.Cid, now time.Time) []cid.Cid {
	epoch := Epoch(now)
	salted := SaltedKeys(network, epoch, c)
	keys := append([]cid.Cid{c}, salted[:]...)
	if before := Epoch(now.Add(-epochOverlap)); before != epoch {
		salted = SaltedKeys(network, before, c)
		keys = append(keys, salted[:]...)
	}
	return keys
}
