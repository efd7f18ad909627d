package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// A host says which of its machine's hosts belong to the account that is asked for, and no other.
func TestConsents(t *testing.T) {
	a, b := newTown(t), newTown(t)
	connect(t, a.host, b.host)
	ask := func(account byte) ([]*ledger.Delegate, error) {
		return Consents(t.Context(), a.host, b.host.ID(), ledger.Key{account})
	}
	refused := func(name string, err error) {
		t.Helper()
		var r *Refusal
		if !errors.As(err, &r) || r.Kind != cellproto.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := ask(1)
	refused("a host that wants nothing", err)
	hosts := 2
	b.travel.deps.Consents = func(p peer.ID, account ledger.Key) (list []*ledger.Delegate, err error) {
		if account != (ledger.Key{1}) || p != a.host.ID() {
			return nil, cellproto.Errorf("test", cellproto.Denied, "no")
		}
		for i := range hosts {
			list = append(list, &ledger.Delegate{Host: ledger.Key{2, byte(i)}, Cell: "work", NotAfter: 77, Consent: ledger.Signature{3}})
		}
		return list, nil
	}
	list, err := ask(1)
	if err != nil || len(list) != 2 || *list[1] != (ledger.Delegate{Host: ledger.Key{2, 1}, Cell: "work", NotAfter: 77, Consent: ledger.Signature{3}}) {
		t.Errorf("%v %v", list, err)
	}
	_, err = ask(4)
	refused("another account", err)
	hosts = MaxConsents + 1
	if list, err = ask(1); err != nil || len(list) != MaxConsents {
		t.Errorf("of too many %d: %v", len(list), err)
	}
	if n := b.charged.Load(); n != 0 {
		t.Errorf("charged %d times", n)
	}
}

// Answers that nobody gives are not taken.
func TestBadConsents(t *testing.T) {
	a, b := newHost(t), newHost(t)
	connect(t, a, b)
	good := packConsent(&ledger.Delegate{Host: ledger.Key{2}, Cell: "work", NotAfter: 1})
	for name, c := range map[string]struct {
		answer []byte
		want   cellproto.Kind
	}{
		"another message":  {appendMessage(nil, msgReceipt, []byte{1}), cellproto.BadInput},
		"without a name":   {appendMessage(nil, msgConsent, make([]byte, consentHead)), cellproto.BadInput},
		"too long a name":  {appendMessage(nil, msgConsent, make([]byte, consentHead+maxName+1)), cellproto.TooLarge},
		"too many":         {bytes.Repeat(good, MaxConsents+1), cellproto.TooLarge},
		"without an end":   {good, cellproto.Unavailable},
		"an empty refusal": {appendMessage(nil, msgRefusal, nil), cellproto.BadInput},
	} {
		b.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
			_, _ = readMessage(s, msgJoin)
			_, _ = s.Write(c.answer)
			s.Close()
		})
		if _, err := Consents(t.Context(), a, b.ID(), ledger.Key{1}); cellproto.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The bytes that docs/protocol.md shows.
func TestConsentVector(t *testing.T) {
	d := &ledger.Delegate{Host: ledger.Key(bytes.Repeat([]byte{0xaa}, 32)), NotAfter: 258, Consent: ledger.Signature(bytes.Repeat([]byte{0xbb}, 64)), Cell: "ab"}
	want := "0a006a" + strings.Repeat("aa", 32) + "0000000000000102" + strings.Repeat("bb", 64) + "6162"
	if got := fmt.Sprintf("%x", packConsent(d)); got != want {
		t.Errorf("a consent is %s", got)
	}
}

func FuzzConsent(f *testing.F) {
	f.Add(packConsent(&ledger.Delegate{Host: ledger.Key{1}, Cell: "work", NotAfter: 5})[3:])
	f.Add(make([]byte, consentHead))
	f.Fuzz(func(t *testing.T, body []byte) {
		if d, err := unpackConsent(body); err == nil && len(body) <= limits[msgConsent] && !bytes.Equal(packConsent(d)[3:], body) {
			t.Errorf("%+v was read from %x", d, body)
		}
	})
}
