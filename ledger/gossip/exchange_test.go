package gossip

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

func newHost(t *testing.T) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// signer answers as it is told.
type signer struct {
	*Log
	sign func(from ledger.Key, bill, before []byte) ([]byte, error)
}

func (s signer) Since(from uint64) ([][]byte, uint64) { return s.Log.Since(from, maxPull) }
func (s signer) Head(ledger.Key, []byte) error        { return nil }

func (s signer) Consents(ledger.Key) ([]*ledger.Delegate, error) { return nil, nil }

func (s signer) Sign(from ledger.Key, bill, before []byte) ([]byte, error) {
	return s.sign(from, bill, before)
}

func (s signer) Entries(id ledger.Key, from uint64, _ int) ([][]byte, uint64) {
	return [][]byte{id[:2], {byte(from)}}, 9
}

func TestExchange(t *testing.T) {
	a, b := newHost(t), newHost(t)
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	s := signer{Log: NewLog(100)}
	ended := make(chan error, 10)
	b.SetStreamHandler(cellproto.ProtocolLedger, func(st network.Stream) {
		err := Serve(st, s)
		if err != nil {
			st.Reset()
		} else {
			st.Close()
		}
		ended <- err
	})
	self, err := KeyOf(a.ID())
	if err != nil {
		t.Fatal(err)
	}
	s.sign = func(from ledger.Key, bill, before []byte) ([]byte, error) {
		if from != self || string(before) != "before" {
			t.Errorf("a bill of %s, after %q", from, before)
		}
		return append([]byte("signed "), bill...), nil
	}
	got, err := Bill(t.Context(), a, b.ID(), []byte("bill"), []byte("before"))
	if err != nil || string(got) != "signed bill" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.Publish("x", []byte("news"))
	s.Publish("y", bytes.Repeat([]byte("z"), 900))
	news, next, err := Pull(t.Context(), a, b.ID(), 0)
	if err != nil || next != 102 || len(news) != 2 || string(news[0]) != "news" {
		t.Errorf("%q, next %d, %v", news, next, err)
	}
	<-ended
	if news, next, err = Pull(t.Context(), a, b.ID(), next); err != nil || next != 102 || len(news) != 0 {
		t.Errorf("%q, next %d, %v", news, next, err)
	}
	<-ended
	news, length, err := KeyLog(t.Context(), a, b.ID(), ledger.Key{1, 2}, 7)
	if err != nil || length != 9 || len(news) != 2 || string(news[0]) != "\x01\x02" || string(news[1]) != "\x07" {
		t.Errorf("%q, length %d, %v", news, length, err)
	}
	<-ended
}

// A refusal comes with its kind and its words, without what drives a terminal.
func TestRefusal(t *testing.T) {
	a, b := newHost(t), newHost(t)
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	s := signer{sign: func(ledger.Key, []byte, []byte) ([]byte, error) {
		return nil, cellproto.Errorf("check bill", cellproto.Denied, "\x1b[31m%s", strings.Repeat("no ", 200))
	}}
	b.SetStreamHandler(cellproto.ProtocolLedger, func(st network.Stream) {
		if err := Serve(st, s); err != nil {
			st.Reset()
		}
	})
	for range 100 { // a reset that is too early is not always seen
		_, err := Bill(t.Context(), a, b.ID(), []byte("bill"), nil)
		var r *Refusal
		if !errors.As(err, &r) || r.Kind != cellproto.Denied || strings.Contains(r.Text, "\x1b") || len(r.Text) > maxRefusal {
			t.Fatalf("%#v", err)
		}
	}
}

// Whoever sends nonsense is to blame; whoever sends nothing is not waited for for ever, and is not.
func TestServeNonsense(t *testing.T) {
	a, b := newHost(t), newHost(t)
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	b.SetStreamHandler(cellproto.ProtocolLedger, func(st network.Stream) {
		err := Serve(st, signer{Log: NewLog(1)})
		st.Reset()
		ended <- err
	})
	for name, c := range map[string]struct {
		data []byte
		want cellproto.Kind
	}{
		"another type": {[]byte{msgEnd, 0, 0}, cellproto.BadInput},
		"no number":    {[]byte{msgPull, 0, 1, 1}, cellproto.BadInput},
		"no key":       {[]byte{msgLog, 0, 1, 1}, cellproto.BadInput},
		"a long key":   {[]byte{msgLog, 0, 41}, cellproto.TooLarge},
		"no bill":      {[]byte{msgBill, 0, 1, 1}, cellproto.BadInput},
		"too long":     {[]byte{msgBill, 255, 255}, cellproto.TooLarge},
		"cut off":      {[]byte{msgBill, 1}, cellproto.Unavailable},
	} {
		st, err := a.NewStream(t.Context(), b.ID(), cellproto.ProtocolLedger)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(c.data); err != nil {
			t.Fatal(err)
		}
		st.CloseWrite()
		select {
		case err := <-ended:
			if cellproto.KindOf(err) != c.want {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: it hangs", name)
		}
		st.Reset()
	}
	// A host without an Ed25519 key has no place in the ledger.
	key, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := peer.IDFromPrivateKey(key)
	if _, err := KeyOf(id); cellproto.KindOf(err) != cellproto.Unsupported {
		t.Error(err)
	}
}
