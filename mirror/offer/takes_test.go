package offer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// slowDonor takes up nothing before it is told to, or the attempt ends.
type slowDonor struct {
	mu    sync.Mutex
	asked [][]peer.ID // providers of each attempt
	take  func(ctx context.Context, o Offer, step func(string)) (peer.AddrInfo, error)
}

func (d *slowDonor) Consider(context.Context, Asker, Offer, *signed.Manifest) error { return nil }

func (d *slowDonor) Take(ctx context.Context, _ Asker, o Offer, _ *signed.Manifest, step func(string)) (peer.AddrInfo, error) {
	var ids []peer.ID
	for _, p := range o.Providers {
		ids = append(ids, p.ID)
	}
	d.mu.Lock()
	d.asked = append(d.asked, ids)
	d.mu.Unlock()
	return d.take(ctx, o, step)
}

func hang(ctx context.Context, _ Offer, _ func(string)) (peer.AddrInfo, error) {
	<-ctx.Done()
	return peer.AddrInfo{}, ctx.Err()
}

func asker(name, network string) Asker { return Asker{Peer: peer.ID(name), Group: network} }

// One network holds one place, whatever its peers are called; what brings nothing new gives way to who waits, and what
// goes on does not.
func TestTakesOfOneNetwork(t *testing.T) {
	one, two, three := cell(t, "one"), cell(t, "two"), cell(t, "three")
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(&slowDonor{take: hang}, zap.NewNop())
		defer s.Close()
		first, err := s.join(asker("a", "evil"), one, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.join(asker("b", "evil"), two, nil); cellproto.RetryAfterOf(err) != takesRetry {
			t.Errorf("another peer of the same network: %v", err)
		}
		second, err := s.join(asker("c", "evil too"), two, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.room(asker("d", "good"), three.Cell); cellproto.RetryAfterOf(err) != takesRetry {
			t.Errorf("two have just begun: %v", err)
		}
		time.Sleep(stalledAfter - time.Second)
		second.say("fetching the program, 10 %")
		time.Sleep(2 * time.Second)
		if err := s.room(asker("d", "evil"), three.Cell); cellproto.RetryAfterOf(err) != takesRetry {
			t.Errorf("it is given up for its own network: %v", err)
		}
		if err := s.room(asker("d", "good"), three.Cell); cellproto.RetryAfterOf(err) != stalledRetry {
			t.Errorf("one brings nothing new: %v", err)
		}
		<-first.done
		if _, err := s.join(asker("d", "good"), three, nil); err != nil {
			t.Errorf("its place is not free: %v", err)
		}
		select {
		case <-second.done:
			t.Error("the one that goes on was given up")
		default:
		}
	})
}

// Who joins a take may know better providers than who began it.
func TestJoinersBringProviders(t *testing.T) {
	o := cell(t, "popular")
	bogus, real := peer.AddrInfo{ID: "bogus"}, peer.AddrInfo{ID: "real"}
	for name, fail := range map[string]func(context.Context) error{
		"they have nothing": func(context.Context) error { return errors.New("nobody has it") },
		"they drip":         func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		synctest.Test(t, func(t *testing.T) {
			joined := make(chan struct{})
			d := &slowDonor{}
			d.take = func(ctx context.Context, o Offer, step func(string)) (peer.AddrInfo, error) {
				step("fetching the program")
				if o.Providers[0].ID == real.ID {
					return peer.AddrInfo{ID: "mirror"}, nil
				}
				<-joined
				return peer.AddrInfo{}, fail(ctx)
			}
			s := NewServer(d, zap.NewNop())
			defer s.Close()
			o.Providers = []peer.AddrInfo{bogus}
			first, err := s.join(asker("a", "evil"), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			o.Providers = []peer.AddrInfo{bogus, real}
			if again, err := s.join(asker("b", "good"), o, nil); err != nil || again != first {
				t.Fatalf("%v", err)
			}
			close(joined)
			time.Sleep(stalledAfter)
			first.hurry(time.Now())
			<-first.done
			if first.err != nil || first.info.ID != "mirror" || len(d.asked) != 2 {
				t.Errorf("%s: %v after %v", name, first.err, d.asked)
			}
		})
	}
}
