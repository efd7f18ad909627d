package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/call"
	"github.com/celldnet/celld/node/sandbox"
)

// A crowd of identities in one network, or of peers that are no donors, leaves room for those behind it.
func TestAskList(t *testing.T) {
	add := func(l *askList, n int, addr string) {
		for i := range n {
			l.add(peer.AddrInfo{ID: peer.ID(fmt.Sprint(addr, i)), Addrs: []ma.Multiaddr{ma.StringCast(addr)}})
		}
	}
	take := func(l *askList) (asked []string) {
		for info, ok := l.next(); ok; info, ok = l.next() {
			asked = append(asked, string(info.ID))
		}
		return asked
	}
	l := newAskList("me")
	add(l, 100, "/ip4/8.8.8.8/tcp/1")
	add(l, 1, "/ip4/9.9.9.9/tcp/1")
	l.add(peer.AddrInfo{ID: "me", Addrs: []ma.Multiaddr{ma.StringCast("/ip4/9.9.9.9/tcp/1")}})
	if got := take(l); len(got) != maxAskedNear+1 || got[maxAskedNear] != "/ip4/9.9.9.9/tcp/10" {
		t.Errorf("%q", got)
	}

	const relayed = "/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC/p2p-circuit"
	l = newAskList("me")
	for i := range maxAsked { // behind as many relays
		add(l, 1, fmt.Sprintf("/ip4/8.8.%d.8/tcp/1%s", i, relayed))
	}
	add(l, 1, "/ip4/9.9.9.9/tcp/1")
	if got := take(l); len(got) != maxAskedNear+1 || got[maxAskedNear] != "/ip4/9.9.9.9/tcp/10" {
		t.Errorf("behind relays: %q", got)
	}

	l = newAskList("me")
	for i := range maxAsked { // who says first that it is in this LAN
		info := peer.AddrInfo{ID: peer.ID(fmt.Sprint("claims", i)), Addrs: []ma.Multiaddr{
			ma.StringCast(fmt.Sprintf("/ip4/192.168.1.%d/tcp/1", i)), ma.StringCast("/ip4/8.8.8.8/tcp/1"),
		}}
		l.addFound(dht.Provider{Info: info, Source: dht.SourceDHT})
	}
	if got := take(l); len(got) != maxAskedNear {
		t.Errorf("%d of one network are asked that claim private addresses too", len(got))
	}

	l = newAskList("me")
	add(l, maxAsked+1, "/ip4/192.168.1.1/tcp/1") // the cells of a machine in this LAN, which gives nothing
	add(l, 2, "/ip4/192.168.1.2/tcp/1")
	if got := take(l); len(got) != maxAsked {
		t.Errorf("%d are asked at once", len(got))
	}
	for range 3 {
		l.heard(false)
	}
	if got := take(l); len(got) != 3 || got[2] != "/ip4/192.168.1.2/tcp/11" {
		t.Errorf("then %q", got)
	}
	for range maxAsked {
		l.heard(true)
	}
	add(l, 1, "/ip4/192.168.1.3/tcp/1")
	if got := take(l); len(got) != 0 || l.open != 0 {
		t.Errorf("%q are asked, though all places have answered; %d are open", got, l.open)
	}
}

// A copy that follows an older one is not tried at every race where it cannot run.
func TestFollowerThatCannotRun(t *testing.T) {
	t.Setenv(sandbox.EnvLauncher, "/nowhere")
	p := &placer{n: &nucleus{log: zap.NewNop()}}
	c := &placement{situation: mirror.Situation{Follows: true}}
	err := (&pursuit{p: p, c: c, log: zap.NewNop()}).run(context.Background())
	if cellproto.KindOf(err) != cellproto.Unavailable || errors.Is(err, errNotNeeded) {
		t.Errorf("it ends with %v, and is tried again at once", err)
	}
}

func testPlacer(t *testing.T) *placer {
	store, err := mirror.New(mirror.Config{Root: t.TempDir(), OS: "linux", Arch: "amd64"}, mirror.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	n := &nucleus{log: zap.NewNop(), cfg: &celltoml.Config{}}
	n.mirrors = &mirrors{n: n, store: store}
	p := newPlacer(n, &closers{})
	t.Cleanup(func() { p.cancel(); p.work.Wait() })
	return p
}

// A cell whose objective is missed is raced twice a second until that is sure, and then no more often than something may
// come of it: where no copy can be made, as usual.
func TestRacesForACopy(t *testing.T) {
	p := testPlacer(t)
	race := func(id cid.Cid, placement celltoml.Placement) time.Duration {
		return p.raced(call.Raced{
			Cell: id, Best: time.Second, Objective: []byte(`{"max_p99_ms": 1, "clone_on_violation": true}`),
			Manifest: &signed.Manifest{Privacy: string(placement)},
		})
	}
	kept, failed := cid.NewCidV1(cid.Raw, mh("kept")), cid.NewCidV1(cid.Raw, mh("failed"))
	p.of(failed).situation.Failures, p.of(failed).situation.Failed = 1, time.Now()
	for i := range 2 * mirror.MissesToPlace {
		here, there := race(kept, celltoml.PlacementLocal), race(failed, celltoml.PlacementPublic)
		if sure := i+1 >= mirror.MissesToPlace; !sure && (here != missedAgain || there != missedAgain) {
			t.Errorf("miss %d: again after %v, %v", i+1, here, there)
		} else if sure && (here != 0 || there < 10*missedAgain) {
			t.Errorf("miss %d: again after %v where its owner keeps it, after %v where a placement has just failed", i+1, here, there)
		}
	}
}

// A donor's copy that takes part in the races and misses the objective still is no reason to race more often; one that
// does not take part is.
func TestRacesWithACopyThere(t *testing.T) {
	p, id := testPlacer(t), cid.NewCidV1(cid.Raw, mh("there"))
	p.of(id).there = &there{donor: "d", mirror: "m", seen: time.Now()}
	race := func(answered ...cellproto.PeerID) time.Duration {
		return p.raced(call.Raced{
			Cell: id, Best: time.Second, Objective: []byte(`{"max_p99_ms": 1, "clone_on_violation": true}`),
			Manifest: &signed.Manifest{Privacy: string(celltoml.PlacementPublic)}, Answered: answered,
		})
	}
	for i := range 2 * mirror.MissesToPlace {
		if again := race("far", "m"); again != 0 {
			t.Fatalf("race %d with the copy: again after %v", i, again)
		}
	}
	if again := race("far"); again != goneAgain {
		t.Errorf("without it: again after %v", again)
	}
}

func mh(text string) multihash.Multihash {
	sum, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return sum
}

// What a donor tells does not lengthen its time: that follows from what it has to fetch.
func TestTimeToTake(t *testing.T) {
	for _, c := range []struct {
		sizes []int64
		want  time.Duration
	}{
		{nil, donorTime}, // it is built
		{[]int64{1}, donorStart},
		{[]int64{5, 10 << 20, 7}, donorStart + 20*time.Second},
		{[]int64{1 << 40}, donorTime},
	} {
		m := &signed.Manifest{}
		for _, size := range c.sizes {
			m.Artefacts = append(m.Artefacts, signed.Artefact{Size: size})
		}
		if got := timeToTake(m).Round(time.Second); got != c.want {
			t.Errorf("%v: %v, want %v", c.sizes, got, c.want)
		}
	}
}
