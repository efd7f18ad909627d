package give

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// A machine of any usual size hosts cells as they are published, as many as have room beside their daemons.
func TestSmallMachines(t *testing.T) {
	set := onSettings()
	for total, want := range map[int64]struct {
		cells int
		each  int64 // MiB
	}{
		512:   {0, 0},
		1024:  {1, 38},
		2048:  {1, 140},
		4096:  {3, 72},
		8192:  {4, 140},
		32768: {4, 256},
	} {
		load := Load{Known: true, Cores: 4, Total: total << 20, Free: total << 20}
		snap := quietServer()
		snap.Load = load
		d := Decide(epoch, set, State{}, snap)
		var rows []Row
		for n := range 2 * DefaultHosts {
			a := admit(epoch, set, d, load, rows, Need{CID: fmt.Sprint(n), ForWhom: fmt.Sprint(n), Publisher: fmt.Sprint(n)})
			if !a.OK {
				if a.When == 0 {
					t.Errorf("%d MiB: cell %d is refused for good: %s", total, n, a.Why)
				}
				break
			}
			rows = append(rows, Row{CID: fmt.Sprint(n), ForWhom: fmt.Sprint(n), Publisher: fmt.Sprint(n), Memory: a.Memory})
		}
		if len(rows) != want.cells || len(rows) > 0 && rows[0].Memory>>20 != want.each {
			t.Errorf("a machine of %d MiB hosts %d cells: %+v", total, len(rows), rows)
		}
	}
}

// Whatever cells say, and in whatever order they come and go, all together are within what is given.
func TestMemoryIsNeverGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.IntRange(1, MaxHosts).Draw(t, "hosts")
		memory := rapid.Int64Range(leastMemory, 64<<30).Draw(t, "memory")
		var rows []Row
		for i := range rapid.IntRange(1, 20).Draw(t, "offers") {
			need := rapid.SampledFrom([]int64{0, 0, 1, 64 << 20, 256 << 20, 1 << 30, 1 << 50}).Draw(t, "need")
			bytes, ok := grant(memory, hosts, rows, need)
			if !ok {
				if len(rows) > 0 && rapid.Bool().Draw(t, "one goes") {
					rows = rows[1:]
				}
				continue
			}
			if bytes < min(leastProgram, max(need, 1)) || need > 0 && bytes != need || need == 0 && bytes > celltoml.DefaultMemory {
				t.Fatalf("%d bytes for %d", bytes, need)
			}
			rows = append(rows, Row{CID: fmt.Sprint(i), Memory: bytes})
			if taken(rows) > memory {
				t.Fatalf("%d bytes of %d are given: %+v", taken(rows), memory, rows)
			}
		}
		if _, ok := grant(memory, hosts, nil, 0); !ok {
			t.Fatal("one that says nothing has no room on an empty machine")
		}
	})
}

// Those that have a place share it out anew when there is less: the first ones run, and what runs is not counted out.
func TestFits(t *testing.T) {
	cell := func(cid, state string) Row { return Row{CID: cid, State: state, Memory: 36 << 20} } // 100 MiB with its daemon
	rows := []Row{cell("a", "paused"), cell("b", "paused"), cell("c", StateRunning)}
	for memory, want := range map[int64]string{300: "ab", 299: "a", 200: "a", 199: ""} {
		got := ""
		for _, r := range rows[:2] {
			if fits(memory<<20, rows, r) {
				got += r.CID
			}
		}
		if got != want {
			t.Errorf("%d MiB: %q may start, want %q", memory, got, want)
		}
	}
}

// Fewer cells, or less memory, than there are: the least used go.
func TestSurplus(t *testing.T) {
	load := Load{Known: true, Total: 4000 << 20}
	rows := []Row{{CID: "new", Used: epoch.Add(3)}, {CID: "old", Used: epoch.Add(1)}, {CID: "middle", Used: epoch.Add(2)}, {CID: "busy", Used: epoch.Add(9)}}
	for i := range rows {
		rows[i].Memory = 36 << 20
	}
	for name, c := range map[string]struct {
		change func(*Settings)
		want   []string
	}{
		"as it is":     {func(*Settings) {}, nil},
		"one":          {func(s *Settings) { s.Policy.Hosts = 1 }, []string{"old", "middle", "new"}},
		"half of it":   {func(s *Settings) { s.RAM = 5 }, []string{"old", "middle"}},
		"more of them": {func(s *Settings) { s.Policy.Hosts = 9 }, nil},
	} {
		set := onSettings()
		c.change(&set)
		var got []string
		for _, r := range surplus(set, load, rows) {
			got = append(got, r.CID)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v go, want %v", name, got, c.want)
		}
	}
	if got := surplus(onSettings(), Load{}, rows); got != nil {
		t.Errorf("before anybody has looked: %v", got)
	}
}

// Inside of a group a cell may use all processors that are given, else its share; fewer cells than there are make no larger one.
func TestPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		defer r.Stop()
		r.change(func(s *Settings) { s.On, s.CPU, s.RAM, s.Disk, s.Policy.Hosts = true, 20, 8, 4e6, 2 })
		row := Row{CID: someCell, ForWhom: somePeer, Memory: 256 << 20}
		place := func() *Placement {
			t.Helper()
			p, err := r.Place(context.Background(), row)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		alone := &Placement{Home: r.dir, For: somePeer, CPU: 0.4, Memory: 256 << 20, Disk: 2e6}
		if p := place(); !reflect.DeepEqual(p, alone) {
			t.Errorf("a share: %+v, want %+v", p, alone)
		}
		groups := map[string]string{"": "/sys/fs/cgroup/x"}
		r.limiter.be(groups, nil)
		r.Changed()
		synctest.Wait()
		within := &Placement{Home: r.dir, For: somePeer, CPU: 0.8, Memory: 256 << 20, Disk: 2e6, Groups: groups}
		if p := place(); !reflect.DeepEqual(p, within) {
			t.Errorf("in a group: %+v, want %+v", p, within)
		}
		r.limiter.be(nil, nil)
		r.hosted.host(row, Row{CID: "b"}, Row{CID: "c"}, Row{CID: "d"})
		r.change(func(s *Settings) { s.Policy.Hosts = 1 })
		r.hosted.host(row, Row{CID: "b"}, Row{CID: "c"}, Row{CID: "d"}) // those that are not removed yet
		if p := place(); p.CPU != 0.2 || p.Disk != 1e6 {
			t.Errorf("one of four: %+v", p)
		}
		aside := Row{CID: "b", State: "paused", Leaving: true, Memory: 2 << 30} // it was stopped to make room
		r.hosted.host(aside, row)
		if p := place(); p.CPU != 0.8 || p.Disk != 4e6 {
			t.Errorf("in place of another one: %+v", p)
		}
		aside.State = StateRunning
		r.hosted.host(aside, row)
		if _, err := r.Place(context.Background(), row); cellproto.KindOf(err) != cellproto.Overloaded {
			t.Errorf("beside one that still runs: %v", err)
		}
		row.Memory = 2 << 30
		if _, err := r.Place(context.Background(), row); cellproto.KindOf(err) != cellproto.Overloaded {
			t.Errorf("more than there is: %v", err)
		}
	})
}

// Strangers make offers as they like: few refusals are remembered, each once.
func TestRefusals(t *testing.T) {
	var list []Refusal
	for i := range 3 * maxRefused {
		list = refuse(list, Refusal{CID: fmt.Sprint(i), Why: "no"})
		list = refuse(list, Refusal{CID: "same", Why: "no"})
	}
	if len(list) != maxRefused || list[0].CID != "same" || list[0].Times != 3*maxRefused || list[1].CID != fmt.Sprint(3*maxRefused-1) {
		t.Errorf("%+v", list)
	}
}

// Half of the places are the most that one peer, one network or one publisher has, unless the owner wants that publisher.
func TestNobodyTakesAllPlaces(t *testing.T) {
	set, load := onSettings(), Load{Known: true, Cores: 4, Total: 32 << 30, Free: 32 << 30}
	d := Decision{Run: true, Caps: Caps{CPU: 10, Memory: 3 << 30}}
	need := func(i int) Need {
		return Need{CID: fmt.Sprint(i), ForWhom: fmt.Sprint("a", i), Network: fmt.Sprint("n", i), Publisher: fmt.Sprint("p", i)}
	}
	for name, c := range map[string]struct {
		same  func(*Need)
		allow []string
		want  int
	}{
		"others":             {func(*Need) {}, nil, DefaultHosts},
		"one peer":           {func(n *Need) { n.ForWhom = "a" }, nil, DefaultHosts / 2},
		"one network":        {func(n *Need) { n.Network = "n" }, nil, DefaultHosts / 2},
		"unknown networks":   {func(n *Need) { n.Network = "" }, nil, DefaultHosts},
		"one publisher":      {func(n *Need) { n.Publisher = somePeer }, nil, DefaultHosts / 2},
		"a wanted publisher": {func(n *Need) { n.Publisher = somePeer }, []string{somePeer}, DefaultHosts},
	} {
		var rows []Row
		for i := range 2 * DefaultHosts {
			n, s := need(i), set
			c.same(&n)
			s.Policy.Allow = c.allow
			if a := admit(epoch, s, d, load, rows, n); a.OK {
				rows = append(rows, Row{CID: n.CID, ForWhom: n.ForWhom, Network: n.Network, Publisher: n.Publisher, Memory: a.Memory})
			} else if a.When == 0 {
				t.Errorf("%s: refused for good: %s", name, a.Why)
			}
		}
		if len(rows) != c.want {
			t.Errorf("%s has %d places, want %d", name, len(rows), c.want)
		}
	}
	set.Policy.Hosts = 1
	if a := admit(epoch, set, d, load, nil, need(0)); !a.OK {
		t.Errorf("the only place: %+v", a)
	}
}

// Two large cells are as much as four.
func TestNobodyTakesAllMemory(t *testing.T) {
	set, load := onSettings(), Load{Known: true, Cores: 4, Total: 32 << 30, Free: 32 << 30}
	d := Decision{Run: true, Caps: Caps{CPU: 10, Memory: mostMemory(set, load)}}
	n := Need{CID: "1", ForWhom: "a", Network: "n", Publisher: "p", Memory: largest(d.Caps.Memory, set.Policy.Hosts)}
	a := admit(epoch, set, d, load, nil, n)
	if !a.OK {
		t.Fatalf("the first one: %+v", a)
	}
	rows := []Row{{CID: n.CID, ForWhom: n.ForWhom, Network: n.Network, Publisher: n.Publisher, Memory: a.Memory}}
	n.CID = "2"
	if a := admit(epoch, set, d, load, rows, n); a.OK || a.When == 0 {
		t.Errorf("the second one: %+v", a)
	}
	if a := admit(epoch, set, d, load, rows, Need{CID: "3", ForWhom: "b", Network: "m", Publisher: "q", Memory: n.Memory}); !a.OK {
		t.Errorf("somebody else's: %+v", a)
	}
}

// Where there is no memory left for as many cells as there may be, one that nobody calls makes room all the same.
func TestMemoryMakesRoom(t *testing.T) {
	set, load := onSettings(), Load{Known: true, Cores: 4, Total: 4 << 30, Free: 4 << 30}
	d := Decision{Run: true, Caps: Caps{CPU: 10, Memory: 400 << 20}}
	var rows []Row
	for i := 0; ; i++ {
		a := admit(epoch, set, d, load, rows, Need{CID: fmt.Sprint(i), ForWhom: fmt.Sprint("a", i), Publisher: fmt.Sprint("p", i)})
		if !a.OK {
			break
		}
		rows = append(rows, Row{CID: fmt.Sprint(i), ForWhom: fmt.Sprint("a", i), Publisher: fmt.Sprint("p", i), Memory: a.Memory})
	}
	if len(rows) == 0 || len(rows) >= set.Policy.Hosts {
		t.Fatalf("%d of %d places: it is not the memory that is full", len(rows), set.Policy.Hosts)
	}
	n := Need{CID: "new", ForWhom: "b", Publisher: "q"}
	if a := admit(epoch, set, d, load, rows, n); a.OK || a.When != IdleRoom {
		t.Errorf("while all are called: %+v", a)
	}
	rows[0].Idle = IdleRoom
	if a := admit(epoch, set, d, load, rows, n); !a.OK || a.Instead != rows[0].CID {
		t.Errorf("while nobody calls one: %+v", a)
	}
}
