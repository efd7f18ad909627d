package call

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// What is divided is what was spent, to the last nanosecond, whoever was in flight for how long.
func TestMeterDividesAll(t *testing.T) {
	m, r := newMeter(), rand.New(rand.NewPCG(1, 2))
	type call struct {
		g     *gauge
		begin time.Duration
	}
	names := []string{"a", "b", "c"}
	wall := map[string]time.Duration{}
	var flying []call
	whose := map[*gauge]string{}
	now := time.Duration(0)
	var spent uint64
	for range 2000 {
		now += time.Duration(r.IntN(1000))*time.Millisecond + 1
		switch n := r.IntN(10); {
		case n < 4 || len(flying) == 0:
			name := names[r.IntN(3)]
			g := m.gauge(name)
			whose[g] = name
			m.begin(g, m.base.Add(now))
			flying = append(flying, call{g, now})
		case n < 8:
			i := r.IntN(len(flying))
			c := flying[i]
			flying = append(flying[:i], flying[i+1:]...)
			m.end(c.g, m.base.Add(now))
			wall[whose[c.g]] += now - c.begin
		default:
			cpu := uint64(r.IntN(1e9))
			if m.Tick(m.base.Add(now), Spent{CPU: cpu}) > 0 {
				spent += cpu
			}
		}
	}
	for _, c := range flying {
		m.end(c.g, m.base.Add(now))
		wall[whose[c.g]] += now - c.begin
	}
	m.Tick(m.base.Add(now), Spent{})
	var cpu, rem uint64
	m.Each(func(who string, u Usage) {
		if u.Wall != uint64(wall[who]) {
			t.Errorf("%s was in flight for %d ns, the meter says %d", who, wall[who], u.Wall)
		}
		cpu += u.CPU
		rem += m.gauges[who].rem[0]
	})
	if left := spent - cpu; left > 3 || rem == 0 {
		t.Errorf("%d ns were spent, %d were divided", spent, cpu)
	}
}

func TestMeterShares(t *testing.T) {
	m := newMeter()
	a, b, idle := m.gauge("a"), m.gauge("b"), m.gauge("idle")
	at := func(ms int) time.Time { return m.base.Add(time.Duration(ms) * time.Millisecond) }
	m.begin(idle, at(0))
	m.end(idle, at(10))
	m.Tick(at(100), Spent{CPU: 1000})
	m.begin(a, at(200))
	m.begin(b, at(200))
	m.end(a, at(300))
	m.end(b, at(500))
	m.Tick(at(1000), Spent{CPU: 4000, RAM: 400, Energy: 40, Cores: 2})
	got := map[string]Usage{}
	m.Each(func(who string, u Usage) { got[who] = u })
	if u := got["a"]; u.CPU != 1000 || u.RAM != 100 || u.Energy != 10 || u.Calls != 1 {
		t.Errorf("a: %+v", u)
	}
	if u := got["b"]; u.CPU != 3000 || u.RAM != 300 || u.Energy != 30 {
		t.Errorf("b: %+v", u)
	}
	if u := got["idle"]; u.CPU != 1000 {
		t.Errorf("idle, alone in the first tick: %+v", u)
	}
	// Nobody calls: what the program does is its own affair, and the ticker may sleep.
	if m.Tick(at(2000), Spent{CPU: 1e9}) != 0 || !m.asleep.Load() {
		t.Error("CPU was divided among nobody, or the meter is awake")
	}
	// One short call is not charged with all that the program did beside it.
	m.begin(a, at(2100))
	<-m.Awake()
	m.end(a, at(2101))
	m.Tick(at(3000), Spent{CPU: 1e9, Cores: 2})
	if u := m.Of("a", at(3000)); u.CPU != 1000+2e6 {
		t.Errorf("a call of 1 ms on two cores was charged %d ns", u.CPU-1000)
	}
	// Calls that do not pass here take their share.
	m.begin(a, at(4000))
	m.end(a, at(4100))
	before := m.Of("a", at(4100)).CPU
	m.Tick(at(5000), Spent{CPU: 1000, Aside: 300e6})
	if got := m.Of("a", at(5000)).CPU - before; got != 250 {
		t.Errorf("a quarter of the time in flight was charged %d of 1000", got)
	}
}

func TestMeterBounded(t *testing.T) {
	m := newMeter()
	for i := range maxGauges + 100 {
		g := m.gauge(string(rune(i + 0x10000)))
		m.begin(g, m.base)
		m.end(g, m.base.Add(1))
	}
	if n := len(m.gauges); n != maxGauges || m.others.calls.Load() != 100 {
		t.Errorf("%d gauges, %d calls of others", n, m.others.calls.Load())
	}
	m = newMeter()
	m.leave("shy", m.enter("shy"))
	if len(m.gauges) != 0 {
		t.Error("who has used nothing is remembered")
	}
}

// Of two streams of one peer one may end before the other has had a call: what that is used for counts all the same.
func TestMeterOfTwoStreams(t *testing.T) {
	m := newMeter()
	one, other := m.enter("a"), m.enter("a")
	m.leave("a", one)
	m.begin(other, m.base)
	m.end(other, m.base.Add(time.Second))
	m.Tick(m.base.Add(2*time.Second), Spent{CPU: 1000})
	if u := m.Of("a", m.base.Add(2*time.Second)); u.Calls != 1 || u.CPU != 1000 {
		t.Errorf("%+v was used", u)
	}
	if _, ok := m.forget("a"); ok {
		t.Error("who has a stream is forgotten")
	}
	m.leave("a", other)
	if u, ok := m.forget("a"); !ok || u.Calls != 1 {
		t.Errorf("at the end %+v was used, %v", u, ok)
	}
}

// Ticks beside calls lose nothing, and never see time run backward.
func TestMeterBesideCalls(t *testing.T) {
	m := newMeter()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var walls [4]time.Duration
	for i := range walls {
		g := m.gauge("a")
		wg.Go(func() {
			for range 20000 {
				begin := time.Now()
				m.begin(g, begin)
				end := time.Now()
				m.end(g, end)
				walls[i] += end.Sub(begin)
			}
		})
	}
	var ticks sync.WaitGroup
	ticks.Go(func() {
		last := uint64(0)
		for {
			select {
			case <-stop:
				return
			default:
			}
			m.Tick(time.Now(), Spent{CPU: 100})
			if w := m.gauge("a").wallNow(m); w < last || w > 1e12 {
				t.Errorf("time in flight went from %d to %d", last, w)
				return
			} else {
				last = w
			}
		}
	})
	wg.Wait()
	close(stop)
	ticks.Wait()
	// Whoever was preempted between its end and saying so was counted for that time too: the next call is
	// counted for less.
	g, now := m.gauge("a"), time.Now()
	m.begin(g, now)
	m.end(g, now.Add(time.Minute))
	m.Tick(now.Add(time.Minute), Spent{})
	want := uint64(walls[0] + walls[1] + walls[2] + walls[3] + time.Minute)
	if u := m.Of("a", now.Add(time.Minute)); u.Wall != want || u.Calls != 80001 {
		t.Errorf("%+v, want a wall of %d", u, want)
	}
}

func (g *gauge) wallNow(m *Meter) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return g.wall
}

func BenchmarkMeterCall(b *testing.B) {
	m := newMeter()
	g, now := m.gauge("a"), time.Now()
	for b.Loop() {
		m.begin(g, now)
		m.end(g, now)
	}
}

func BenchmarkMeterTick50(b *testing.B) {
	m := newMeter()
	now := time.Now()
	for b.Loop() {
		for i := range 50 {
			g := m.gauge(string(rune('a' + i)))
			m.begin(g, now)
			m.end(g, now.Add(time.Millisecond))
		}
		now = now.Add(time.Second)
		m.Tick(now, Spent{CPU: 1e8, RAM: 1e5, Energy: 100})
	}
}
