package celltest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
	"github.com/celldnet/celld/node/call"
)

// A nucleus that hangs costs those beside it nothing: their leases are renewed meanwhile.
func TestHungMirrorHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, first := n.provide("calculator")
	b := n.Machine().Example("calculator")
	b.Edit(`version = "1.0.0"`, `version = "1.0.1"`)
	b.Start()
	second := b.Publish()
	donor := n.donor()
	caller := n.wanting("caller")
	for _, cell := range []string{first.CID, second.CID} {
		_, stop := caller.load(cell)
		Eventually(t, "a donor has a copy", func() bool { return caller.placement(cell).State == ctl.PlacementThere })
		stop()
	}
	rows := donor.hosted(2, ctl.Running)
	hung, beside := donor.At(rows[0].Dir).Status().NucleusPID, donor.At(rows[1].Dir)
	hang(t, hung)
	for until := time.Now().Add(25 * time.Second); time.Now().Before(until); { // longer than a lease, and than any one is waited for
		if reply, _, err := beside.Use(t.Context(), "", "add", "3", "4"); err != nil || string(reply) != "7" {
			t.Fatalf("the one beside it answers %s, %v", reply, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A hosted nucleus that hangs does not keep the machine from its owner: it is killed, and its program with it. It comes
// back when it may.
func TestHungMirrorIsKilled(t *testing.T) {
	t.Parallel()
	_, cell, donor, caller, _, stop := placed(t)
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	hung := mirror.Status()
	if hung.ProgramPID == 0 {
		t.Fatal("its program does not run")
	}
	hang(t, hung.NucleusPID)
	donor.giving("give", "--schedule", neverNow(time.Now()))
	Eventually(t, "its program is gone", func() bool { return !Alive(hung.ProgramPID) })
	donor.giving("give", "--schedule", "always")
	donor.hosted(1, ctl.Running)
	if reply, _, err := caller.Use(t.Context(), cell, "add", "3", "4"); err != nil || string(reply) != "7" {
		t.Errorf("%s, %v", reply, err)
	}
	stop()
}

// hostileDonor says yes to everything, and then does what it likes.
type hostileDonor struct {
	take     func(ctx context.Context, o offer.Offer, step func(string)) (peer.AddrInfo, error)
	consider func(ctx context.Context) // before it says yes; nil: at once
}

func (d hostileDonor) Consider(ctx context.Context, _ offer.Asker, _ offer.Offer, _ *signed.Manifest) error {
	if d.consider != nil {
		d.consider(ctx)
	}
	return nil
}

func (d hostileDonor) Take(ctx context.Context, _ offer.Asker, o offer.Offer, _ *signed.Manifest, step func(string)) (peer.AddrInfo, error) {
	return d.take(ctx, o, step)
}

// A donor that says yes and does not do it costs some time: the copy is made elsewhere, and no call fails.
func TestHostileDonors(t *testing.T) {
	t.Parallel()
	ghost := newStranger(t).host
	for name, take := range map[string]func(context.Context, offer.Offer, func(string)) (peer.AddrInfo, error){
		"names a copy that is not there": func(context.Context, offer.Offer, func(string)) (peer.AddrInfo, error) {
			return peer.AddrInfo{ID: ghost.ID(), Addrs: ghost.Addrs()}, nil
		},
		"names the original": func(_ context.Context, o offer.Offer, _ func(string)) (peer.AddrInfo, error) {
			return o.Providers[0], nil
		},
		"talks without end": func(ctx context.Context, _ offer.Offer, step func(string)) (peer.AddrInfo, error) {
			for n := 0; ctx.Err() == nil; n++ {
				step(strings.Repeat("fetching ", n%50))
			}
			return peer.AddrInfo{}, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			_, published := n.provide("calculator")
			caller := n.Headless("caller")
			caller.write(".cell-cache/slo.json", missed, 0o600)
			caller.Start()
			var takes atomic.Int64
			caller.offered(hostileDonor{take: func(ctx context.Context, o offer.Offer, step func(string)) (peer.AddrInfo, error) {
				takes.Add(1)
				return take(ctx, o, step)
			}}, func(server *offer.Server, st network.Stream) error { return server.Serve(st) })
			_, stop := caller.load(published.CID)
			t.Cleanup(func() { stop() })
			Eventually(t, "there is a copy here", func() bool { return caller.placement(published.CID).State == ctl.PlacementHere })
			stop()
			if takes.Load() != 1 {
				t.Errorf("the donor was trusted %d times", takes.Load())
			}
			n.Must(n.root, "mirror", "rm", published.CID)
		})
	}
}

// slower is a stream on which everything takes a little longer.
type slower struct{ network.Stream }

func (l slower) Read(b []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return l.Stream.Read(b)
}

// A donor that says yes and dawdles does not cost the others their good name: they do not wait for so long, are asked
// anew, and are taken at their word.
func TestDawdlingDonor(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, published := n.provide("calculator")
	caller := n.Headless("caller")
	caller.write(".cell-cache/slo.json", `{"max_p99_ms": 0, "min_bandwidth_mbps": 1000000, "clone_on_violation": true}`, 0o600)
	caller.Start()
	left, taken := make(chan struct{}, 100), make(chan struct{}, 100)
	refusal := cellproto.Errorf("take it up", cellproto.Failed, "it has changed its mind")
	near := make(chan struct{}) // it is known by then that the other one is not as near, and both say yes
	once := sync.OnceFunc(func() { close(near) })
	caller.offered(hostileDonor{take: func(ctx context.Context, _ offer.Offer, _ func(string)) (peer.AddrInfo, error) {
		select {
		case <-left: // the other one does not wait any more
		case <-ctx.Done():
		}
		return peer.AddrInfo{}, refusal
	}, consider: func(ctx context.Context) {
		select {
		case <-near:
		case <-ctx.Done():
		}
	}}, func(server *offer.Server, st network.Stream) error { return server.Serve(st) })
	caller.offered(hostileDonor{take: func(context.Context, offer.Offer, func(string)) (peer.AddrInfo, error) {
		taken <- struct{}{}
		return peer.AddrInfo{}, refusal
	}, consider: func(context.Context) { once() }}, func(server *offer.Server, st network.Stream) error {
		defer func() { left <- struct{}{} }()
		return server.Serve(slower{st})
	})
	_, stop := caller.load(published.CID)
	t.Cleanup(func() { stop() })
	Eventually(t, "there is a copy here", func() bool { return caller.placement(published.CID).State == ctl.PlacementHere })
	stop()
	if len(taken) != 1 {
		t.Errorf("the other donor was taken at its word %d times", len(taken))
	}
	n.Must(n.root, "mirror", "rm", published.CID)
}

// offered has a donor in this process that says yes to what a cell's nucleus offers, which knows it.
func (c *Cell) offered(donor hostileDonor, serve func(*offer.Server, network.Stream) error) {
	c.t.Helper()
	s, server := newStranger(c.t), offer.NewServer(donor, zap.NewNop())
	c.t.Cleanup(server.Close)
	s.host.SetStreamHandler(cellproto.ProtocolHost, call.HandleStream(zap.NewNop(), func(st network.Stream) error { return serve(server, st) }))
	info, err := peer.AddrInfoFromString(c.Status().Addrs[0])
	if err == nil {
		err = s.host.Connect(c.t.Context(), *info)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// What the donor's owner wants a copy of is theirs from then on, though it was hosted for others before: it serves
// them while the machine is in use, and stays when nothing is given any more.
func TestOwnerTakesOverWhatIsHosted(t *testing.T) {
	t.Parallel()
	provider, cell, donor, _, _, stop := placed(t)
	stop()
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	if dir := donor.Must(donor.root, "mirror", "add", cell); dir != mirror.Dir {
		t.Errorf("it is in %s, and was in %s", dir, mirror.Dir)
	}
	donor.hosted(0, "")
	if m := donor.mirrors(t, 1)[0]; m.Hosted || m.Public || m.AskedBy != "" {
		t.Errorf("%+v", m)
	}
	if _, err := os.Lstat(filepath.Join(mirror.Dir, "hosted.json")); err == nil {
		t.Error("it has the bounds of what is hosted")
	}
	provider.Kill()
	donor.giving("give", "--schedule", neverNow(time.Now()))
	use := func() {
		t.Helper()
		if got := donor.Must(donor.root, "use", cell, "add", "3", "4"); got != "7" {
			t.Errorf("it answers %s", got)
		}
	}
	use()
	donor.Must(donor.root, "give", "stop")
	use()
	donor.Must(donor.root, "mirror", "rm", cell)
}
