package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindow(t *testing.T) {
	for _, c := range [][2]uint64{{0, MinWindow}, {499_999, MinWindow}, {1_000_000, 100_000}, {600_000_000, MaxWindow}, {1 << 60, MaxWindow}} {
		if got := Window(c[0]); got != c[1] {
			t.Errorf("%d after %d, want %d", got, c[0], c[1])
		}
	}
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		name   string
		s      Standing
		class  Class
		weight uint64
	}{
		{"the owner, whatever is owed", Standing{Owner: true, Unsigned: 1 << 40}, ClassOwner, 1},
		{"a stranger", Standing{}, ClassStranger, 1},
		{"one who is owed a little", Standing{Residual: 10, Room: 10}, ClassEarned, 10},
		{"one who is owed a lot", Standing{Residual: 1 << 50, Room: 10}, ClassEarned, WeightCap},
		{"past its window", Standing{Residual: 1 << 50, Room: 10, Unsigned: MinWindow}, ClassStranger, 1},
		{"within a window that has grown", Standing{Residual: 500, Room: 10, Unsigned: MinWindow, Acknowledged: 10_000_000}, ClassEarned, 500},
		{"behind windows that are used up", Standing{Residual: 1 << 50}, ClassStranger, 1},
		{"banned", Standing{Residual: 1 << 50, Room: 10, Banned: true}, ClassStranger, 1},
		{"a public good", Standing{Residual: 10, Room: 10, Curated: 3}, ClassEarned, 30},
		{"a public good, says its list, above all others", Standing{Residual: 10, Room: 10, Curated: 1 << 40}, ClassEarned, 40},
		{"a public good that has earned nothing", Standing{Curated: 4}, ClassStranger, 1},
	} {
		if class, weight := c.s.Rank(); class != c.class || weight != c.weight {
			t.Errorf("%s: %s with %d, want %s with %d", c.name, class, weight, c.class, c.weight)
		}
	}
}

func TestWhenToSignAndToPublish(t *testing.T) {
	for _, c := range []struct {
		got, want bool
	}{
		{SignDue(0, 100, time.Hour), false}, {SignDue(1, 100, 9*time.Second), false}, {SignDue(1, 100, 10*time.Second), true},
		{SignDue(49, 100, 0), false}, {SignDue(50, 100, 0), true},
		{PublishDue(1000, 1000, 100, time.Hour), false}, {PublishDue(1000, 1001, 100, time.Minute), false},
		{PublishDue(1000, 1001, 100, 10*time.Minute), true}, {PublishDue(1000, 1100, 1000, 0), true},
		{PublishDue(1000, 1051, 100, 0), true}, {PublishDue(0, 1, 100, 0), true}, {PublishDue(5, 4, 100, time.Hour), false},
	} {
		if c.got != c.want {
			t.Errorf("%+v", c)
		}
	}
}

// transcript drives a queue by lines and notes what it says.
type transcript struct {
	q   Queue
	out strings.Builder
	id  uint64
}

func (s *transcript) note(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// push adds n requests of one caller.
func (s *transcript) push(n int, caller byte, class Class, weight uint64, group string, cost uint64) {
	first := s.id + 1
	for range n {
		s.id++
		s.q.Push(Request{ID: s.id, Caller: Key{caller}, Class: class, Weight: weight, Group: group, Cost: cost})
	}
	s.note("push %d..%d of %c, %s, weight %d, group %q, %d µWh each", first, s.id, caller, class, weight, group, cost)
}

// pop takes n requests and notes whose they were; each ends at once and has cost what actual says.
func (s *transcript) pop(n int, actual func(Request) uint64) {
	var who []byte
	shares := map[byte]int{}
	for range n {
		r, ok := s.q.Pop()
		if !ok {
			who = append(who, '-')
			continue
		}
		who = append(who, r.Caller[0])
		shares[r.Caller[0]]++
		cost := r.Cost
		if actual != nil {
			cost = actual(r)
		}
		s.q.Done(r.ID, cost)
	}
	s.note("pop %d: %s %v, %d left", n, who, shareText(shares), s.q.Len())
}

func shareText(m map[byte]int) string {
	var parts []string
	for c := range 256 {
		if m[byte(c)] > 0 {
			parts = append(parts, fmt.Sprintf("%c=%d", c, m[byte(c)]))
		}
	}
	return strings.Join(parts, " ")
}

func TestQueueTranscripts(t *testing.T) {
	s := &transcript{}
	for _, scene := range []struct {
		name string
		do   func()
	}{
		{"the owner comes first, in order, whoever else waits", func() {
			s.push(3, 'a', ClassEarned, 100, "", 10)
			s.push(2, 'o', ClassOwner, 1, "", 10)
			s.pop(6, nil)
		}},
		{"the earned share by weight: 3 to 1", func() {
			s.push(40, 'a', ClassEarned, 300, "", 10)
			s.push(40, 'b', ClassEarned, 100, "", 10)
			s.pop(40, nil)
		}},
		{"strangers together get 5 in 100", func() {
			s.push(100, 'a', ClassEarned, 1, "", 10)
			s.push(100, 'x', ClassStranger, 1, "10.1", 10)
			s.pop(100, nil)
		}},
		{"a crowd of identities behind one address is one", func() {
			for c := byte('A'); c <= 'T'; c++ {
				s.push(2, c, ClassStranger, 1, "10.1", 10)
			}
			s.push(20, 'x', ClassStranger, 1, "10.2", 10)
			s.pop(30, nil)
		}},
		{"nobody waits while there is room: strangers get all that nobody else wants", func() {
			s.push(5, 'x', ClassStranger, 1, "10.1", 10)
			s.pop(5, nil)
			s.push(3, 'a', ClassEarned, 1, "", 10)
			s.pop(3, nil)
		}},
		{"shares are of cost: who makes dear calls gets fewer", func() {
			s.push(40, 'a', ClassEarned, 1, "", 30)
			s.push(40, 'b', ClassEarned, 1, "", 10)
			s.pop(40, nil)
		}},
		{"who says that its calls are cheap pays afterwards", func() {
			s.push(40, 'a', ClassEarned, 1, "", 1)
			s.push(40, 'b', ClassEarned, 1, "", 10)
			s.pop(40, func(r Request) uint64 {
				if r.Caller[0] == 'a' {
					return 40
				}
				return r.Cost
			})
		}},
		{"who was idle has saved nothing up", func() {
			s.push(60, 'b', ClassEarned, 1, "", 10)
			s.pop(40, nil)
			s.push(20, 'a', ClassEarned, 1, "", 10)
			s.pop(20, nil)
		}},
	} {
		s.q, s.id = Queue{}, 0
		s.note("# %s", scene.name)
		scene.do()
		s.note("")
	}
	golden(t, "queue.txt", []byte(s.out.String()))
}

func TestQueueDrop(t *testing.T) {
	var q Queue
	for i, class := range []Class{ClassOwner, ClassEarned, ClassStranger, ClassStranger} {
		q.Push(Request{ID: uint64(i), Caller: Key{byte(i)}, Class: class, Weight: 1, Group: "g"})
	}
	for _, id := range []uint64{0, 1, 2} {
		if !q.Drop(id) || q.Drop(id) {
			t.Errorf("%d", id)
		}
	}
	if r, ok := q.Pop(); !ok || r.ID != 3 || q.Len() != 0 {
		t.Errorf("%+v", r)
	}
	if _, ok := q.Pop(); ok {
		t.Error("something of nothing")
	}
}

// Whatever comes and goes: everything that was pushed comes out once, nothing waits while Pop says that
// nothing does, and memory does not grow with who has been there.
func TestQueueLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q Queue
		in := map[uint64]bool{}
		var id uint64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1, 2:
				id++
				in[id] = true
				q.Push(Request{ID: id, Caller: Key{rapid.Byte().Draw(t, "caller")}, Class: Class(rapid.IntRange(1, 3).Draw(t, "class")),
					Weight: rapid.Uint64Range(0, 1000).Draw(t, "weight"), Group: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group"),
					Cost: rapid.Uint64Range(0, 1000).Draw(t, "cost")})
			case 3, 4:
				if r, ok := q.Pop(); ok != (len(in) > 0) || ok && !in[r.ID] {
					t.Fatalf("%v %v", r.ID, ok)
				} else if ok {
					delete(in, r.ID)
					q.Done(r.ID, rapid.Uint64Range(0, 5000).Draw(t, "cost in the end"))
				}
			default:
				gone := rapid.Uint64Range(0, id).Draw(t, "dropped")
				if q.Drop(gone) != in[gone] {
					t.Fatal("dropped what was not there, or not")
				}
				delete(in, gone)
			}
			if q.Len() != len(in) {
				t.Fatalf("%d wait, it says %d", len(in), q.Len())
			}
		}
		for len(in) > 0 {
			r, ok := q.Pop()
			if !ok || !in[r.ID] {
				t.Fatal("lost")
			}
			delete(in, r.ID)
		}
	})
}

func TestQueueForgets(t *testing.T) {
	var q Queue
	for i := range uint64(4 * maxFlows) {
		q.Push(Request{ID: i, Caller: peer(int(i)), Class: ClassStranger, Group: fmt.Sprint(i), Cost: 1000})
		r, _ := q.Pop()
		q.Done(r.ID, 2000)
		q.Push(Request{ID: i, Caller: peer(int(i)), Class: ClassEarned, Weight: 1, Cost: 1000})
		r, _ = q.Pop()
		q.Done(r.ID, 2000)
	}
	if len(q.groups.flows) > maxFlows || len(q.earned.flows) > maxFlows || len(q.inner) > 0 || len(q.running) > 0 {
		t.Errorf("%d groups, %d callers, %d inner, %d running", len(q.groups.flows), len(q.earned.flows), len(q.inner), len(q.running))
	}
}
