package content

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Whatever is taken and freed: no bound is passed, and nothing is left over in the end.
func TestSharesKeepTheirBounds(t *testing.T) {
	s := newShares(8, 3)
	r := rand.New(rand.NewPCG(1, 2))
	var held []taker
	peers, groups := map[peer.ID]int{}, map[string]int{}
	for range 10_000 {
		if len(held) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(held))
			x := held[i]
			s.free(x)
			peers[x.peer]--
			groups[x.group]--
			held = append(held[:i], held[i+1:]...)
			continue
		}
		n := r.IntN(12)
		x := taker{peer.ID(fmt.Sprint(n)), fmt.Sprint(n % 5)}
		room := len(held) < 8 && peers[x.peer] < 3 && groups[x.group] < 2
		if got := s.take(x); got != room {
			t.Fatalf("a place for %v: %t, want %t with %d of all, %d of the peer, %d of the group",
				x, got, room, len(held), peers[x.peer], groups[x.group])
		}
		if room {
			held = append(held, x)
			peers[x.peer]++
			groups[x.group]++
		}
	}
	for _, x := range held {
		s.free(x)
	}
	if s.taken != 0 || len(s.peers) != 0 || len(s.groups) != 0 {
		t.Errorf("left over: %d, %v, %v", s.taken, s.peers, s.groups)
	}
}

// A crowd of one network waits for its own places; who comes later from elsewhere passes it by.
func TestSharesWaitPastACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShares(8, 1)
		crowd := func(i int) taker { return taker{peer.ID(fmt.Sprint("sybil", i)), "crowd"} }
		served := make(chan int, 20)
		for i := range 20 {
			go func() {
				if s.wait(t.Context(), crowd(i)) {
					served <- i
				}
			}()
			synctest.Wait()
		}
		if len(served) != 2 {
			t.Fatalf("%d of one group have places, at most 2", len(served))
		}
		if !s.wait(t.Context(), taker{"honest", "elsewhere"}) {
			t.Fatal("an honest peer gets no place")
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if s.wait(gone, crowd(99)) {
			t.Fatal("who gave up got a place")
		}
		for i := range 20 { // in the order in which they came
			if got := <-served; got != i {
				t.Fatalf("%d was served, want %d", got, i)
			}
			s.free(crowd(i))
			synctest.Wait()
		}
		s.free(taker{"honest", "elsewhere"})
		if s.taken != 0 || len(s.queue) != 0 {
			t.Errorf("left over: %d places, %d waiters", s.taken, len(s.queue))
		}
	})
}
