package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// MaxConsents is how many hosts one peer speaks for.
const MaxConsents = 64

// What a consent has before the name of the cell, in bytes: host, end, signature. The name has at most maxName.
const (
	consentHead = 32 + 8 + 64
	maxName     = 63
)

// Consents asks a peer which hosts of its machine agree to belong to an account: its own first, if it is one of them.
// Whether they have signed that is for who adds them to the account's key log. An error that the peer has
// sent is *Refusal.
func Consents(ctx context.Context, h host.Host, from peer.ID, account ledger.Key) (list []*ledger.Delegate, err error) {
	err = exchange(ctx, h, from, appendMessage(nil, msgJoin, account[:]), func(r io.Reader) error {
		for {
			m, err := readMessage(r, msgConsent, msgEnd, msgRefusal)
			if err != nil {
				return err
			}
			switch m.kind {
			case msgEnd:
				return nil
			case msgRefusal:
				return refusalOf(m.body)
			}
			d, err := unpackConsent(m.body)
			if err != nil {
				return err
			}
			if list = append(list, d); len(list) > MaxConsents {
				return cellproto.Errorf("read consents", cellproto.TooLarge, "more than %d hosts", MaxConsents)
			}
		}
	})
	return list, err
}

func packConsent(d *ledger.Delegate) []byte {
	body := binary.BigEndian.AppendUint64(d.Host[:len(d.Host):len(d.Host)], d.NotAfter)
	return appendMessage(nil, msgConsent, append(append(body, d.Consent[:]...), d.Cell...))
}

func unpackConsent(body []byte) (*ledger.Delegate, error) {
	if len(body) <= consentHead {
		return nil, cellproto.Errorf("read consent", cellproto.BadInput, "it has a host, an end, a signature and a name, %d bytes are none", len(body))
	}
	return &ledger.Delegate{
		Host: ledger.Key(body[:32]), NotAfter: binary.BigEndian.Uint64(body[32:40]), Consent: ledger.Signature(body[40:consentHead]),
		Cell: string(body[consentHead:]),
	}, nil
}

func (b *books) Consents(account ledger.Key) ([]*ledger.Delegate, error) {
	if f := b.t.deps.Consents; f != nil {
		return f(b.p, account)
	}
	return nil, cellproto.Errorf("join an account", cellproto.Denied, "no host here wants to")
}

// serveJoin answers who wants to know which hosts belong to an account.
func serveJoin(w io.Writer, m message, consents func(ledger.Key) ([]*ledger.Delegate, error)) error {
	if len(m.body) != len(ledger.Key{}) {
		return cellproto.Errorf("read ledger message", cellproto.BadInput, "a key has 32 bytes, not %d", len(m.body))
	}
	list, err := consents(ledger.Key(m.body))
	var answer []byte
	for _, d := range list[:min(len(list), MaxConsents)] {
		answer = append(answer, packConsent(d)...)
	}
	answer = append(answer, numbered(msgEnd, uint64(len(list)))...)
	if err != nil {
		answer = refusal(err)
	}
	_, werr := w.Write(answer)
	return errors.Join(err, werr)
}
