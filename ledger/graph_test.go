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

// Whoever has the key of one host, and takes it to another account, takes nothing of the first account along.
func TestHostIsTakenAway(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	w.did(g, peer(1), peer(0), 100)
	w.did(g, peer(2), peer(0), 50)
	g.Merge(peer(1), peer(9))
	g.Merge(peer(2), peer(9))
	g.Merge(peer(2), peer(8))
	if account, thief := g.Residual(peer(9)), g.Residual(peer(8)); account != 150 || thief != 0 {
		t.Errorf("the account is owed %d, who took its host %d", account, thief)
	}
	w.did(g, peer(8), peer(0), 7) // by that host, since
	if got := g.Residual(peer(2)); got != 7 {
		t.Errorf("its new account is owed %d", got)
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

// Who never signs uses one window up, however many identities it has; it closes the door by which it
// came for others only for some days.
func TestWindowsAreShared(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	for s := range 10 {
		w.did(g, peer(100+s), peer(1), wh(10)) // they have worked for an honest peer
	}
	w.did(g, peer(1), peer(0), wh(100)) // whom this host owes much
	h := &simHost{graph: g, totals: map[Key]*simTotal{}}
	use := func(c Key) (n uint64) {
		for room := g.Room(c); room > 0; room = g.Room(c) {
			h.serve(c, room)
			n += room
		}
		return n
	}
	var crowd uint64
	for s := range 9 {
		crowd += use(peer(100 + s))
	}
	if crowd != MinWindow {
		t.Errorf("nine identities took %d without a signature, want one window", crowd)
	}
	other := peer(109)
	if g.Room(other) != 0 || g.Residual(other) == 0 {
		t.Error("the window is not shared")
	}
	for range 3 {
		g.Forgive()
	}
	if room := g.Room(other); room < MinWindow/2 {
		t.Errorf("after three days %d", room)
	}
	c := peer(100) // who signs goes on at once
	h.totals[c].signed = h.totals[c].used
	g.Apply(h.edge(c))
	if room := g.Room(other); room != MinWindow {
		t.Errorf("after a signature %d", room)
	}
}

// Who signs nothing closes an entry for others, and once a window is forgiven for longer than a day; those who come in there and sign, as
// newcomers, open it again.
func TestClosedEntryOpensAgain(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	for s := range 10 {
		w.did(g, peer(100+s), peer(1), wh(10))
	}
	w.did(g, peer(1), peer(0), wh(100))
	h := &simHost{graph: g, totals: map[Key]*simTotal{}}
	var took uint64
	for range 100 { // days
		for room := g.Room(peer(100)); room > 0; room = g.Room(peer(100)) {
			h.serve(peer(100), room)
			took += room
		}
		g.Forgive()
	}
	if took > 2*MinWindow {
		t.Errorf("in a hundred days %d were taken unsigned, two windows are %d", took, 2*MinWindow)
	}
	honest := peer(101)
	if g.Room(honest) != 0 {
		t.Fatal("the entry is open")
	}
	h.serve(honest, 5*MinWindow) // from the newcomers' queue
	h.totals[honest].signed = h.totals[honest].used
	g.Apply(h.edge(honest))
	for range 7 { // days
		g.Forgive()
	}
	if room := g.Room(honest); room < MinWindow*4/10 {
		t.Errorf("after it has signed for five windows there is room for %d", room)
	}
}

// What others take unsigned who came in by a peer is nothing of that peer's window, and its own use nothing of theirs, however long that goes on.
func TestPeersOwnWindow(t *testing.T) {
	crowded := func() (*Graph, *simHost) {
		g, w := NewGraph(peer(0)), works{}
		for s := range 10 {
			w.did(g, peer(100+s), peer(1), wh(10))
		}
		w.did(g, peer(1), peer(0), wh(1000))
		return g, &simHost{graph: g, totals: map[Key]*simTotal{}}
	}
	use := func(g *Graph, h *simHost, c Key) {
		for room := g.Room(c); room > 0; room = g.Room(c) {
			h.serve(c, room)
		}
	}
	g, h := crowded()
	for range 100 { // days, of which forgiving ends after some
		use(g, h, peer(100))
		g.Forgive()
	}
	if room := g.Room(peer(101)); room != 0 {
		t.Fatalf("others have room for %d", room)
	}
	if room := g.Room(peer(1)); room != MinWindow {
		t.Errorf("a crowd came in by a peer: that one has room for %d, its window is %d", room, MinWindow)
	}
	use(g, h, peer(1))
	if room := g.Room(peer(1)); room != 0 {
		t.Errorf("past its window it has room for %d", room)
	}
	h.totals[peer(1)].signed = h.totals[peer(1)].used
	g.Apply(h.edge(peer(1)))
	if room := g.Room(peer(1)); room != MinWindow {
		t.Errorf("after a signature it has room for %d", room)
	}

	g, h = crowded()
	use(g, h, peer(1))
	if room := g.Room(peer(100)); room != MinWindow {
		t.Errorf("a peer has used its window: others have room for %d of theirs", room)
	}
	use(g, h, peer(100))
	g.Merge(peer(100), peer(50)) // two hosts of one account, of which one came in by the other
	g.Merge(peer(1), peer(50))
	for _, c := range []Key{peer(1), peer(100)} {
		h.totals[c].signed = h.totals[c].used
		e := h.edge(c)
		e.To = peer(50)
		g.Apply(e)
	}
	if room := g.Room(peer(101)); room != MinWindow {
		t.Errorf("after the account has signed for both there is room for %d", room)
	}
}

// However small the parts are into which a credit is split, a fiftieth of it is what nobody signs for.
func TestSmallWindows(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	h := &simHost{graph: g, totals: map[Key]*simTotal{}}
	const parts = 2000
	var took uint64
	for s := range parts {
		w.did(g, peer(100+s), peer(0), wh(1)/parts)
		for room := g.Room(peer(100 + s)); room > 0; room = g.Room(peer(100 + s)) {
			h.serve(peer(100+s), room)
			took += room
		}
	}
	if took == 0 || took > wh(1)/windowPart {
		t.Errorf("%d of %d", took, wh(1))
	}
}

// Who was served elsewhere has that much less here, even where no path leads to who served.
func TestServedElsewhere(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	w.did(g, peer(1), peer(0), 100)
	w.did(g, peer(7), peer(1), 100)
	w.did(g, peer(8), peer(7), 1000)                    // and has a friend who says that it is owed a lot
	if g.Residual(peer(7))+g.Residual(peer(8)) != 100 { // the one has paid the other
		t.Fatalf("%d %d", g.Residual(peer(7)), g.Residual(peer(8)))
	}
	w.did(g, peer(2), peer(8), 30) // a host that nobody here knows serves one of the two
	if g.Residual(peer(7))+g.Residual(peer(8)) != 70 {
		t.Errorf("%d %d", g.Residual(peer(7)), g.Residual(peer(8)))
	}
	if g.Residual(peer(2)) != 30 {
		t.Errorf("who served has %d", g.Residual(peer(2)))
	}
}

// Who only gives loses nothing of what it is owed, whatever others sign, take and pay with.
func TestWhoOnlyGivesLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n, giver = 6, 50
		g, w := NewGraph(peer(0)), works{}
		var gave uint64
		for range rapid.IntRange(1, 60).Draw(t, "receipts") {
			x, y := rapid.IntRange(0, n-1).Draw(t, "provider"), rapid.IntRange(0, n-1).Draw(t, "consumer")
			v := rapid.Uint64Range(1, 50).Draw(t, "µWh")
			if rapid.IntRange(0, 3).Draw(t, "the giver") == 0 {
				w.did(g, peer(giver), peer(y), v)
				gave += v
			} else if x != y {
				w.did(g, peer(x), peer(y), v)
			}
			var owed uint64
			for k, v := range g.edges {
				if int32(k>>32) == g.ids[peer(giver)] && gave > 0 {
					owed += v
				}
			}
			if owed != gave {
				t.Fatalf("it gave %d and is owed %d", gave, owed)
			}
		}
	})
}

// A caller that never signs is remembered in bounded room, and what it signs in the end settles all.
func TestDebtsAreBounded(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	h := &simHost{graph: g, totals: map[Key]*simTotal{}}
	for i := range 10_000 {
		if i%3 == 0 {
			w.did(g, peer(100+i%9), peer(0), 10)
			w.did(g, peer(7), peer(100+i%9), 10)
		}
		h.serve(peer(7), 7)
	}
	if n := len(g.owing[g.ids[peer(7)]]); n == 0 || n > maxDebts+10 {
		t.Errorf("%d debts", n)
	}
	g.Merge(peer(7), peer(8))
	h.totals[peer(7)].signed = h.totals[peer(7)].used
	e := h.edge(peer(7))
	e.To = peer(8)
	g.Apply(e)
	if len(g.owing) != 0 {
		t.Errorf("%v", g.owing)
	}
	for n, o := range g.open {
		if o.unsigned != 0 || o.own != 0 {
			t.Errorf("%d: %d unsigned, %d of its own", n, o.unsigned, o.own)
		}
	}
}

// A banned caller pays nothing, and least of all with what another has paid with before.
func TestBannedPaysNothing(t *testing.T) {
	g, w := NewGraph(peer(0)), works{}
	w.did(g, peer(1), peer(0), 100)
	w.did(g, peer(2), peer(0), 100)
	g.Ban(peer(2))
	w.did(g, peer(5), peer(1), 30) // 1 pays 5 with its claim on this host
	w.did(g, peer(6), peer(2), 30)
	if g.Residual(peer(5)) != 30 || g.Residual(peer(6)) != 0 {
		t.Errorf("%d %d", g.Residual(peer(5)), g.Residual(peer(6)))
	}
}
