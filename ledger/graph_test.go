package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// peer gives a key that is none: the graph does not look into them.
func peer(n int) (k Key) { binary.BigEndian.PutUint32(k[:], uint32(n)+1); return k }

func edgeName(from, to Key) Hash { return sha256.Sum256(append(from[:], to[:]...)) }

// works adds what from has done for to, as a register that grows.
type works map[[2]Key]uint64

func (w works) did(g *Graph, from, to Key, amount uint64) {
	w[[2]Key{from, to}] += amount
	g.Apply(Edge{Name: edgeName(from, to), From: from, To: to, Total: w[[2]Key{from, to}]})
}

// slowFlow is the largest flow over at most three edges, by the book: a graph of two layers, and one
// path after the other.
func slowFlow(c map[[2]int]uint64, n, s, t int) uint64 {
	const unlimited = 1 << 40
	size := 2*n + 2
	res := make([][]uint64, size)
	for i := range res {
		res[i] = make([]uint64, size)
	}
	S, T := 2*n, 2*n+1
	for x := range n {
		if x == s || x == t {
			continue
		}
		res[S][x], res[n+x][T], res[x][n+x] = c[[2]int{s, x}], c[[2]int{x, t}], unlimited
		for y := range n {
			if y != s && y != t && y != x {
				res[x][n+y] = c[[2]int{x, y}]
			}
		}
	}
	total := c[[2]int{s, t}]
	for {
		prev := make([]int, size)
		for i := range prev {
			prev[i] = -1
		}
		prev[S] = S
		for queue := []int{S}; len(queue) > 0; queue = queue[1:] {
			for y := range size {
				if prev[y] < 0 && res[queue[0]][y] > 0 {
					prev[y] = queue[0]
					queue = append(queue, y)
				}
			}
		}
		if prev[T] < 0 {
			return total
		}
		f := uint64(unlimited)
		for y := T; y != S; y = prev[y] {
			f = min(f, res[prev[y]][y])
		}
		for y := T; y != S; y = prev[y] {
			res[prev[y]][y] -= f
			res[y][prev[y]] += f
		}
		total += f
	}
}

func TestFlowIsTheLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 7
		g, c := NewGraph(peer(0)), map[[2]int]uint64{}
		for range rapid.IntRange(0, 25).Draw(t, "edges") {
			x, y := rapid.IntRange(0, n-1).Draw(t, "from"), rapid.IntRange(0, n-1).Draw(t, "to")
			if x != y {
				c[[2]int{x, y}] = rapid.Uint64Range(1, 20).Draw(t, "µWh")
				g.set(g.node(peer(x)), g.node(peer(y)), c[[2]int{x, y}])
			}
		}
		for s := 1; s < n; s++ {
			if got, want := g.Residual(peer(s)), slowFlow(c, n, s, 0); got != want {
				t.Fatalf("%d: %d, want %d of %v", s, got, want, c)
			}
		}
	})
}

// Whatever is done for whom: what each has given less what it has taken stays as it is, whichever
// debts are set off against each other.
func TestDrainingKeepsBalances(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 6
		g, w := NewGraph(peer(0)), works{}
		for range rapid.IntRange(1, 60).Draw(t, "receipts") {
			x, y := rapid.IntRange(0, n-1).Draw(t, "provider"), rapid.IntRange(0, n-1).Draw(t, "consumer")
			if x != y {
				w.did(g, peer(x), peer(y), rapid.Uint64Range(1, 50).Draw(t, "µWh"))
			}
		}
		want, got := map[Key]int64{}, map[Key]int64{}
		for k, v := range w {
			want[k[0]] += int64(v)
			want[k[1]] -= int64(v)
		}
		for from, id := range g.ids {
			for to, id2 := range g.ids {
				v := int64(g.edges[edgeKey(id, id2)])
				got[from] += v
				got[to] -= v
				if id2 == g.self && uint64(v) != g.toSelf[id] {
					t.Fatal("the short cut to oneself is not what the edges say")
				}
			}
		}
		for k, v := range want {
			if got[k] != v {
				t.Fatalf("%v: %d, want %d", k, got[k], v)
			}
		}
	})
}

// G2: however a crowd splits up its identities, and whatever its members say of each other, in one view
// they are served no more than honest peers have acknowledged.
func TestCrowdTakesWhatItGave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const honest, crowd = 5, 8
		g, w := NewGraph(peer(0)), works{}
		var gave, took uint64
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			s, s2 := peer(100+rapid.IntRange(0, crowd-1).Draw(t, "s")), peer(100+rapid.IntRange(0, crowd-1).Draw(t, "s2"))
			h, h2 := peer(rapid.IntRange(0, honest-1).Draw(t, "h")), peer(rapid.IntRange(0, honest-1).Draw(t, "h2"))
			v := rapid.Uint64Range(1, 100).Draw(t, "µWh")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0: // real work
				w.did(g, s, h, v)
				gave += v
			case 1: // said among themselves
				if s != s2 {
					w.did(g, s, s2, v*1000)
				}
			case 2: // honest peers among themselves
				if h != h2 {
					w.did(g, h, h2, v)
				}
			case 3: // a cheque by one of the crowd for work that was never done
				w.did(g, h, s, v)
			default: // service, up to what is owed
				if v = min(v, g.Residual(s)); v > 0 {
					w.did(g, peer(0), s, v)
					took += v
				}
			}
			if took > gave {
				t.Fatalf("they gave %d and took %d", gave, took)
			}
		}
	})
}

func TestHostBecomesAnAccounts(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	w.did(g, peer(1), peer(0), 100)
	w.did(g, peer(2), peer(0), 50)
	w.did(g, peer(1), peer(2), 10) // between two hosts of one person
	g.Merge(peer(1), peer(9))
	g.Merge(peer(2), peer(9))
	if got := g.Residual(peer(1)); got != 150 || g.Residual(peer(9)) != 150 {
		t.Errorf("%d", got)
	}
	w.did(g, peer(0), peer(9), 150)
	if g.Residual(peer(2)) != 0 {
		t.Error("used by the account, and still the host's")
	}
	g.Merge(peer(0), peer(8)) // this host's own account
	w.did(g, peer(3), peer(8), 7)
	if g.Residual(peer(3)) != 7 {
		t.Error("owed to the account, not to the host")
	}
	g.Ban(peer(3))
	if g.Residual(peer(3)) != 0 {
		t.Error("banned, and still owed")
	}
}

// bigGraph has n peers with about 20 edges each; those around self and the caller have many.
func bigGraph(n int) *Graph {
	rnd := rand.New(rand.NewPCG(1, 1))
	g := NewGraph(peer(0))
	link := func(x, y int) {
		if x != y {
			g.set(g.node(peer(x)), g.node(peer(y)), 1+rnd.Uint64N(1000))
		}
	}
	for x := range n {
		for range 20 {
			link(x, rnd.IntN(n))
		}
	}
	for range 500 {
		link(rnd.IntN(n), 0)
		link(1, rnd.IntN(n))
	}
	return g
}

func BenchmarkResidual(b *testing.B) {
	g := bigGraph(10_000)
	b.Run("busy caller", func(b *testing.B) {
		for b.Loop() {
			g.Residual(peer(1))
		}
	})
	b.Run("any caller", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			g.Residual(peer(1 + i%9999))
		}
	})
}
