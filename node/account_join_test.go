package node

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/ledger/gossip"
)

// networked gives the home cell a host, at which it answers.
func (o *account) networked(t *testing.T) peer.AddrInfo {
	t.Helper()
	key, err := loadKey(o.home, hostKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	a := o.a
	a.n.host, a.ctx = h, t.Context()
	o.dirs = openHostDirs(filepath.Join(o.home, "cache", hostsFile), zap.NewNop())
	a.travel = gossip.NewTravel(gossip.Config{Net: a.net, Key: a.key, Account: o.id}, gossip.Deps{
		Host: h, Ledger: a.led, Charge: func(peer.ID, error) {}, Consents: o.consents, Log: zap.NewNop(),
	})
	h.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
		if err := a.travel.Serve(s, a); err != nil {
			s.Reset()
			return
		}
		s.Close()
	})
	t.Cleanup(a.running.Wait)
	return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
}

// consent is what the host of another cell of this computer agrees to.
func (o *account) consent(t *testing.T, seed byte) *ledger.Delegate {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	d := &ledger.Delegate{Host: ledger.KeyOf(key), Cell: "work", NotAfter: uint64(time.Now().Add(hostTerm).UnixMilli())}
	if err := d.SignConsent(o.a.net, o.id, key); err != nil {
		t.Fatal(err)
	}
	return d
}

// joined opens the home cell of another computer that belongs to o's account, if it wants to.
func (o *account) joined(t *testing.T, wants bool) *account {
	t.Helper()
	home := t.TempDir()
	if wants {
		if err := writeID(filepath.Join(home, "keys", joinedFile), o.id); err != nil {
			t.Fatal(err)
		}
	}
	b := openHome(t, home, nil)
	if b.elsewhere() != wants || (b.id == o.id) != wants {
		t.Fatalf("it belongs to %s", textOf(b.id))
	}
	if err := o.a.n.host.Connect(t.Context(), b.networked(t)); err != nil {
		t.Fatal(err)
	}
	return b
}

func all(ledger.Key) bool { return true }

// Another computer is admitted when both sides say so, with its cells; a nucleus that is killed in between goes on
// where it was. Later only those are renewed that belong to the account already.
func TestAdmit(t *testing.T) {
	home := t.TempDir()
	a := openHome(t, home, nil)
	a.networked(t)
	now := time.Now()
	stranger := a.joined(t, false)
	if _, err := a.admit(t.Context(), stranger.a.n.host.ID(), now, all); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("a computer that has not joined: %v", err)
	}
	if n := a.state(a.id).Len; n != 0 {
		t.Errorf("%d entries were signed", n)
	}
	b := a.joined(t, true)
	if err := b.ready(t.Context(), "test", nil); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("it signs for the account: %v", err)
	}
	if err := b.takeIn(t.Context(), stranger.consent(t, 7), now); cellproto.KindOf(err) != cellproto.Corrupt {
		t.Errorf("a cell of another account: %v", err)
	}
	for seed := byte(7); seed < 10; seed++ {
		if err := b.takeIn(t.Context(), b.consent(t, seed), now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.state(b.id).Hosts); n != 0 {
		t.Errorf("%d hosts were taken in by asking", n)
	}

	p := b.a.n.host.ID()
	one := 0
	admitted, err := a.admit(t.Context(), p, now, func(ledger.Key) bool { one++; return one <= 2 })
	if err != nil || len(admitted) != 2 {
		t.Fatalf("%q %v", admitted, err)
	}
	if err := a.a.led.Close(); err != nil { // here it is killed
		t.Fatal(err)
	}
	a.a.n.host.Close()
	a = openHome(t, home, nil)
	if err := b.a.n.host.Connect(t.Context(), a.networked(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.admit(t.Context(), p, now, all); err != nil {
			t.Fatal(err)
		}
		if s := a.state(a.id); len(s.Hosts) != 5 || s.Len != 6 { // the beginning, and one for each
			t.Fatalf("%d hosts, %d entries", len(s.Hosts), s.Len)
		}
	}
	b.a.running.Wait() // it follows the log
	if s := b.state(b.id); !lasts(s.Hosts[b.a.self].NotAfter, now) {
		t.Errorf("it has not heard that it was admitted: %+v", s)
	}

	// Ten months later.
	if err := b.takeIn(t.Context(), b.consent(t, 11), now); err != nil {
		t.Fatal(err)
	}
	for seed := byte(7); seed < 10; seed++ { // as if they were of the first computer, and asked themselves
		a.dirs.note(textOf(b.consent(t, seed).Host), filepath.Join("/", string('0'+rune(seed))))
	}
	before := a.state(a.id)
	a.renew(t.Context(), now.Add(300*24*time.Hour))
	s := a.state(a.id)
	if len(s.Hosts) != 5 || s.Hosts[b.a.self].NotAfter <= before.Hosts[b.a.self].NotAfter {
		t.Errorf("renewed: %+v", s.Hosts)
	}
}

func TestEndingSoon(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	end := func(in time.Duration) uint64 { return uint64(now.Add(in).UnixMilli()) }
	key := func(seed byte) ledger.Key {
		return ledger.KeyOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	}
	s := &ledger.KeyState{Hosts: map[ledger.Key]ledger.Delegation{
		key(1): {NotAfter: end(time.Hour)}, key(2): {NotAfter: end(hostTerm)}, key(3): {NotAfter: end(time.Hour), Revoked: true},
		key(4): {NotAfter: end(-time.Hour)}, key(5): {NotAfter: end(time.Hour)},
	}}
	if got := endingSoon(s, map[string]string{textOf(key(5)): "/work"}, now); len(got) != 1 || got[0] != key(1) {
		t.Errorf("%v", got)
	}
}

// A file that names no account is not taken for none: the cells would count as another account's.
func TestJoinedFile(t *testing.T) {
	home := t.TempDir()
	if _, err := loadKey(home, accountKeyFile); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, "keys", joinedFile)
	for _, text := range []string{"", "nobody", somePeer + " " + somePeer, string(make([]byte, maxIDFile+1))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := openKeyring(home); cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if err := os.WriteFile(path, []byte(somePeer+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, id, err := openKeyring(home); err != nil || textOf(id) != somePeer {
		t.Errorf("%s %v", textOf(id), err)
	}
}
