package gossip

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// KeyLogs is what a question for a key log is answered from.
type KeyLogs interface {
	// Entries gives the key log of an identity from one entry on, then its cheques, at most room bytes of
	// them; and how long the log is.
	Entries(id ledger.Key, from uint64, room int) (entries [][]byte, length uint64)
}

// KeyLog gives what a peer has of the key log of an identity from one entry on, and of its cheques, and says how
// many entries the peer says that the log has.
func KeyLog(ctx context.Context, h host.Host, from peer.ID, id ledger.Key, at uint64) (list [][]byte, length uint64, err error) {
	err = exchange(ctx, h, from, packLog(id, at), func(r io.Reader) (err error) {
		list, length, err = entries(r)
		return err
	})
	return list, length, err
}

func packLog(id ledger.Key, at uint64) []byte {
	return appendMessage(nil, msgLog, binary.BigEndian.AppendUint64(id[:len(id):len(id)], at))
}

func unpackLog(body []byte) (id ledger.Key, at uint64, err error) {
	if len(body) != len(id)+8 {
		return id, 0, cellproto.Errorf("read ledger message", cellproto.BadInput, "a key and a number have 40 bytes, not %d", len(body))
	}
	return ledger.Key(body[:len(id)]), binary.BigEndian.Uint64(body[len(id):]), nil
}

func serveLog(w io.Writer, m message, logs KeyLogs) error {
	id, at, err := unpackLog(m.body)
	if err != nil {
		return err
	}
	list, length := logs.Entries(id, at, maxPull)
	return writeEntries(w, list, length)
}
