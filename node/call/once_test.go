package call

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A model of who waits for whom beside the real thing, under every order of events: a key's function
// runs at one time once, and within the window once in all; whoever asks with other arguments is told;
// whoever waits gets the answer or runs; and the bounds hold.
func TestOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type state struct {
			running int   // the call that runs; 0: none
			waiting []int // the calls that wait
			args    byte
			answer  string
			until   time.Time
		}
		o := newOnce[int]()
		o.maxCalls, o.maxBytes = rapid.IntRange(1, 6).Draw(t, "calls"), rapid.IntRange(1, 4).Draw(t, "KiB")<<10
		model := map[onceKey]*state{}
		now, last := time.Unix(1_000_000, 0), 0
		name := func() onceKey {
			return onceKey{
				subject: rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "subject"), fn: "f",
				key: rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "key"),
			}
		}
		busy := func() []onceKey {
			var out []onceKey
			for n, s := range model {
				if s.running != 0 {
					out = append(out, n)
				}
			}
			slices.SortFunc(out, func(a, b onceKey) int { return cmp.Compare(a.subject+a.key, b.subject+b.key) })
			return out
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				n, args := name(), byte(rapid.IntRange(0, 1).Draw(t, "args"))
				last++
				v, a := o.begin(now, n, [32]byte{args}, last)
				s := model[n]
				if s == nil {
					s = &state{}
					model[n] = s
				}
				switch v {
				case toRun:
					if s.running != 0 {
						t.Fatalf("%v runs twice", n)
					}
					// It may have been forgotten, but only because of the bounds or the window.
					*s = state{running: last, args: args}
				case toWait:
					if s.running == 0 || s.args != args {
						t.Fatalf("%v waits for nobody", n)
					}
					s.waiting = append(s.waiting, last)
				case isKnown:
					if s.running != 0 || string(a.payload) != s.answer || s.args != args || !now.Before(s.until) {
						t.Fatalf("%v got %q of %+v", n, a.payload, s)
					}
				case isReused:
					if s.args == args || s.running == 0 && !now.Before(s.until) {
						t.Fatalf("%v: %d is said to be reused", n, args)
					}
				case isApart:
					if s.running != 0 || len(busy()) < o.maxCalls {
						t.Fatalf("there is room, and %v is apart", n)
					}
				}
			},
			"answer": func(t *rapid.T) {
				names := busy()
				if len(names) == 0 {
					t.Skip()
				}
				n := rapid.SampledFrom(names).Draw(t, "name")
				s := model[n]
				text := fmt.Sprintf("%d%0*d", last, rapid.IntRange(0, 3000).Draw(t, "length"), 0)
				got := o.answered(now, n, s.running, onceAnswer{payload: []byte(text)})
				if !slices.Equal(got, s.waiting) {
					t.Fatalf("%v are told, %v wait", got, s.waiting)
				}
				if _, ok := o.end(n, s.running); ok {
					t.Fatal("somebody is to run what has been answered")
				}
				*s = state{args: s.args, answer: text, until: now.Add(onceWindow)}
			},
			"fail": func(t *rapid.T) {
				names := busy()
				if len(names) == 0 {
					t.Skip()
				}
				n := rapid.SampledFrom(names).Draw(t, "name")
				s := model[n]
				next, ok := o.end(n, s.running)
				if ok != (len(s.waiting) > 0) || ok && next != s.waiting[0] {
					t.Fatalf("%d (%v) is to run, %v wait", next, ok, s.waiting)
				}
				if s.running = 0; ok {
					s.running, s.waiting = next, s.waiting[1:]
				}
			},
			"leave": func(t *rapid.T) {
				n := name()
				s := model[n]
				if s == nil || len(s.waiting) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(s.waiting)-1).Draw(t, "who")
				if _, ok := o.end(n, s.waiting[i]); ok {
					t.Fatal("somebody is to run because one has left")
				}
				s.waiting = slices.Delete(slices.Clone(s.waiting), i, i+1)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, int(onceWindow/time.Second)).Draw(t, "s")) * time.Second)
			},
			"": func(t *rapid.T) {
				if len(o.calls) > o.maxCalls || o.bytes > o.maxBytes || o.oldest.Len() > len(o.calls) {
					t.Fatalf("%d calls, %d bytes, %d answers", len(o.calls), o.bytes, o.oldest.Len())
				}
				if o.oldest.Len() == 0 && o.bytes != 0 {
					t.Fatalf("%d bytes of nothing", o.bytes)
				}
			},
		})
	})
}

// Within the window, and as long as there is room, nothing is forgotten; afterwards all is.
func TestOnceWindow(t *testing.T) {
	o, now := newOnce[int](), time.Unix(1_000_000, 0)
	at := func(i int) onceKey { return onceKey{"ann", "f", fmt.Sprint(i)} }
	for i := range onceEntries {
		if v, _ := o.begin(now, at(i), [32]byte{}, i); v != toRun {
			t.Fatalf("verdict %v", v)
		}
		o.answered(now, at(i), i, onceAnswer{payload: fmt.Append(nil, i)})
	}
	for i := range onceEntries {
		if v, a := o.begin(now.Add(onceWindow-1), at(i), [32]byte{}, -1); v != isKnown || string(a.payload) != fmt.Sprint(i) {
			t.Fatalf("%d: verdict %v with %q", i, v, a.payload)
		}
	}
	if v, _ := o.begin(now.Add(onceWindow-1), at(onceEntries), [32]byte{}, -1); v != toRun {
		t.Fatalf("verdict %v", v)
	}
	if v, _ := o.begin(now.Add(onceWindow-1), at(0), [32]byte{}, -2); v != toRun {
		t.Errorf("the oldest is still known: %v", v)
	}
	o.expire(now.Add(onceWindow))
	if len(o.calls) != 2 || o.bytes != 0 {
		t.Errorf("%d calls and %d bytes are left, want the two that run", len(o.calls), o.bytes)
	}
}

// Many callers, who may be one and the same person, have no answer of another one forgotten because it is larger than all of
// theirs; and of one caller a large answer has no room of a hundred others.
func TestOnceLargeAnswers(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	put := func(o *once[int], subject string, i, size int) {
		now = now.Add(time.Millisecond)
		name := onceKey{subject, "f", fmt.Sprint(i)}
		if v, _ := o.begin(now, name, [32]byte{}, i); v != toRun {
			t.Fatalf("%s %d: verdict %v", subject, i, v)
		}
		o.answered(now, name, i, onceAnswer{payload: make([]byte, size)})
	}
	known := func(o *once[int], subject string, i int) bool {
		return o.calls[onceKey{subject, "f", fmt.Sprint(i)}] != nil
	}
	t.Run("of another caller", func(t *testing.T) {
		o := newOnce[int]()
		put(o, "ann", 0, 60<<10)
		for i := range onceEntries + 100 {
			put(o, fmt.Sprintf("sybil%d", i%64), i, 1)
		}
		if !known(o, "ann", 0) {
			t.Error("the one answer of ann is forgotten, while each of the others has dozens")
		}
	})
	t.Run("of the same caller", func(t *testing.T) {
		o := newOnce[int]()
		for i := range 200 {
			put(o, "ann", i, 10)
		}
		for i := range 400 {
			put(o, "ann", 1000+i, 60<<10)
		}
		for i := range 200 {
			if !known(o, "ann", i) {
				t.Fatalf("%d is forgotten, for a share of a large answer", i)
			}
		}
		if !known(o, "ann", 1399) || o.bytes > o.maxBytes {
			t.Errorf("the newest is forgotten, or %d bytes are too many", o.bytes)
		}
	})
	t.Run("the newest", func(t *testing.T) {
		o := newOnce[int]()
		o.maxBytes = 1 << 20
		for i := range o.maxBytes / onceLarge {
			put(o, "ann", i, onceLarge-600)
		}
		if put(o, "ann", -1, 60<<10); !known(o, "ann", -1) || o.bytes > o.maxBytes {
			t.Errorf("the only large one is forgotten as soon as it is there, or %d bytes are too many", o.bytes)
		}
	})
}
