package sandbox

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "64MiB": 64 << 20, "1.5 GB": 1.5e9, " 2KiB ": 2048, "0.5KiB": 512, "7B": 7, "1024TiB": 1 << 50,
		"": -1, "-1": -1, "1e3": -1, "0x10": -1, "MiB": -1, "1 2": -1, "Inf": -1, "NaN": -1, "1025TiB": -1,
		"99999999999999999999": -1, "1..2": -1, ".": -1, "1MiBs": -1,
	} {
		got, err := ParseSize(in)
		if err != nil {
			got = -1
			if cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == "" {
				t.Errorf("ParseSize(%q): %v has kind %v", in, err, cellproto.KindOf(err))
			}
		}
		if got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseCPU(t *testing.T) {
	for in, want := range map[string]float64{
		"10%": 0.4, "100%": 4, "1.5": 1.5, "4": 4, "0.01": 0.01, " 50 % ": 2,
		"": -1, "0": -1, "0%": -1, "101%": -1, "5": -1, "-1": -1, "1e-1": -1, "%": -1, "NaN": -1, "0.001": -1,
	} {
		got, err := ParseCPU(in, 4)
		if err != nil {
			got = -1
		}
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("ParseCPU(%q, 4) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func FuzzUnits(f *testing.F) {
	for _, s := range []string{"64MiB", "10%", "1.5", "1e9", "-1", "", "0x1p4", "1_000", "٣", "99999999999999999999GiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSize(s); err == nil && (n < 0 || n > maxBytes) {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
		if c, err := ParseCPU(s, 8); err == nil && !(c >= minCPU && c <= 8) {
			t.Errorf("ParseCPU(%q) = %v", s, c)
		}
	})
}

func TestValidate(t *testing.T) {
	good := Config{Dir: "/cells/a", Program: "bin/a"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"relative Dir": func(c *Config) { c.Dir = "a" }, "the root": func(c *Config) { c.Dir = "//" },
		"no program": func(c *Config) { c.Program = "" }, "tier": func(c *Config) { c.Tier = 4 },
		"little memory": func(c *Config) { c.Memory = 1 }, "negative memory": func(c *Config) { c.Memory = -1 },
		"CPU": func(c *Config) { c.CPU = -1 }, "CPU NaN": func(c *Config) { c.CPU = math.NaN() },
		"threads": func(c *Config) { c.Threads = -1 }, "files": func(c *Config) { c.Files = 3 }, "nice": func(c *Config) { c.Nice = 20 },
		"read the root": func(c *Config) { c.Read = []string{"/"} }, "read relative": func(c *Config) { c.Read = []string{"x"} },
		"env": func(c *Config) { c.Env = []string{"=x"} }, "env without value": func(c *Config) { c.Env = []string{"x"} },
		"zero byte": func(c *Config) { c.Args = []string{"a\x00b"} }, "every": func(c *Config) { c.Every = time.Nanosecond },
		"grace": func(c *Config) { c.Grace = -1 }, "system": func(c *Config) { c.System = "some" }, "log": func(c *Config) { c.LogRate = -1 },
		"a build in T2": func(c *Config) { c.Tier, c.Build = T2, &Build{} }, "little disk": func(c *Config) { c.Build = &Build{Disk: 1} },
		"few inodes": func(c *Config) { c.Build = &Build{Files: 1} }, "no time": func(c *Config) { c.Build = &Build{Timeout: -1} },
		"output above": func(c *Config) { c.Build = &Build{Output: []string{"a/../../b"}} }, "output /": func(c *Config) { c.Build = &Build{Output: []string{"/a"}} },
		"output .": func(c *Config) { c.Build = &Build{Output: []string{"a/.."}} }, "outputs": func(c *Config) { c.Build = &Build{Output: make([]string, 65)} },
		"cgroup": func(c *Config) { c.Cgroup = "x" }, "many paths": func(c *Config) { c.Read = make([]string, 65) },
		"many arguments": func(c *Config) { c.Args = make([]string, 1025) },
	} {
		c := good
		change(&c)
		if err := c.Validate(); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A program that takes all it can has, over time, exactly its share; one that takes less is never held.
func TestThrottle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cores := rapid.Float64Range(0.01, 2).Draw(t, "cores")
		demand := rapid.Float64Range(0, 4).Draw(t, "demand")
		th := &throttle{Cores: cores}
		var now, cpu time.Duration
		run := true
		for now < 60*time.Second {
			dt := time.Duration(rapid.IntRange(40, 120).Draw(t, "ms")) * time.Millisecond
			now += dt
			if run {
				cpu += time.Duration(float64(dt) * demand)
			}
			run = th.step(now, cpu)
		}
		used := float64(cpu) / float64(now)
		if want := min(cores, demand); used > want+0.01*max(1, demand) || used < want*0.9-0.01 {
			t.Fatalf("of %.3f cores a demand of %.3f got %.3f", cores, demand, used)
		}
	})
}

// A program that starts is not held for what its start takes.
func TestThrottleStart(t *testing.T) {
	th := &throttle{Cores: 0.1}
	if !th.step(2*time.Millisecond, 15*time.Millisecond) {
		t.Error("it is held after 15 ms")
	}
	if th.step(50*time.Millisecond, 60*time.Millisecond) {
		t.Error("it is not held after 60 ms of a tenth")
	}
}

func TestRateLimit(t *testing.T) {
	l := &rateLimit{Rate: 1000, Burst: 5000}
	for _, step := range []struct {
		at   time.Duration
		n    int
		want int
	}{
		{0, 4000, 4000}, {0, 2000, 1000}, {0, 10, 0}, {time.Second, 500, 500}, {time.Second, 1000, 500},
		{500 * time.Millisecond, 10, 0}, // time goes back: nothing is given twice
		{time.Hour, 9000, 5000},
	} {
		if got := l.allow(step.at, step.n); got != step.want {
			t.Errorf("at %v %d of %d bytes pass, not %d", step.at, got, step.n, step.want)
		}
	}
}

func TestMeter(t *testing.T) {
	m := &meter{}
	m.add(0, sample{RSSKiB: 100})
	m.add(time.Second, sample{CPU: 5, RSSKiB: 300, Read: 7, Written: 8, Received: 9, Sent: 10, Threads: 3})
	m.add(2*time.Second, sample{CPU: 4, RSSKiB: 100}) // a total that falls is one that was not seen
	want := Usage{CPU: 5, Wall: 2e9, RSSKiB: 100, PeakKiB: 300, RSSKiBSeconds: 400, Read: 7, Written: 8, Received: 9, Sent: 10}
	if got := m.snapshot(); got != want {
		t.Errorf("%+v is not %+v", got, want)
	}
}

func TestReportRoundTrip(t *testing.T) {
	r := Report{Event: EventEnd, Tier: T2, PID: 7, CPUBy: "cgroup v1", Usage: Usage{CPU: 1, RSSKiBSeconds: 1.25}, Exit: 137, Signal: "killed", Why: WhyMemory}
	var line bytes.Buffer
	if err := WriteReport(&line, r); err != nil {
		t.Fatal(err)
	}
	got, err := ParseReport(line.Bytes())
	if err != nil || got != r {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "{}", "null", `{"event":"x"}`, `{"event":"end","tier":"T9"}`, `{"event":"usage","cpu_ns":-1}`, `{"event":"usage","rss_kib_s":-0.5}`,
		`{"event":"end","pid":-3}`, `[1]`, `{"event":"end"`, strings.Repeat(" ", MaxReportLine+1), `{"event":"end","cpu_ns":1e40}`,
	} {
		if _, err := ParseReport([]byte(bad)); err == nil {
			t.Errorf("%.40q is taken", bad)
		} else if k := cellproto.KindOf(err); k != cellproto.BadInput && k != cellproto.TooLarge {
			t.Errorf("%.40q: kind %v", bad, k)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"event":"end","tier":"T1","pid":12,"cpu_ns":3,"exit":0}`))
	f.Add([]byte(`{"event":"usage","tier":"auto","rss_kib_s":1e300}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseReport(line)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteReport(&again, r); err != nil {
			t.Fatal(err)
		}
		if back, err := ParseReport(again.Bytes()); again.Len() <= MaxReportLine && (err != nil || !reflect.DeepEqual(back, r)) {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
	})
}

func FuzzSupport(f *testing.F) {
	f.Add([]byte(`{"os":"linux","landlock_abi":7,"tiers":[{"tier":"T1","works":true},{"tier":"T2"},{"tier":"T3","why_not":"x"}]}`))
	f.Add([]byte(`{"tiers":[{},{},{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseSupport("x", text)
		if err != nil {
			return
		}
		if best, ok := s.Best(); ok != !strings.HasPrefix(s.String(), "none") || best > T3 {
			t.Errorf("%v of %+v", best, s)
		}
	})
}

func FuzzELF(f *testing.F) {
	f.Add(tinyELF(2, elfInterp))
	f.Add(tinyELF(2, 1))
	f.Add(tinyELF(1, elfInterp))
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if needs, ok := needsLinker(bytes.NewReader(data)); needs && !ok {
			t.Error("it needs a linker and is no program")
		}
	})
}

// tinyELF makes a file of one program header.
func tinyELF(class byte, kind uint32) []byte {
	b := make([]byte, elfHead64+elfProgram64)
	copy(b, "\x7fELF")
	b[4], b[5] = class, 1
	if class == 2 {
		binary.LittleEndian.PutUint64(b[32:], elfHead64)
		binary.LittleEndian.PutUint16(b[54:], elfProgram64)
		binary.LittleEndian.PutUint16(b[56:], 1)
	} else {
		binary.LittleEndian.PutUint32(b[28:], elfHead64)
		binary.LittleEndian.PutUint16(b[42:], elfProgram32)
		binary.LittleEndian.PutUint16(b[44:], 1)
	}
	binary.LittleEndian.PutUint32(b[elfHead64:], kind)
	return b
}

func TestNeedsLinker(t *testing.T) {
	for name, c := range map[string]struct {
		data      []byte
		needs, ok bool
	}{
		"dynamic": {tinyELF(2, elfInterp), true, true}, "static": {tinyELF(2, 1), false, true},
		"dynamic, 32 bits": {tinyELF(1, elfInterp), true, true}, "static, 32 bits": {tinyELF(1, 1), false, true},
		"empty": {nil, false, false}, "a script": {[]byte("#!/bin/sh\n"), false, false}, "cut": {tinyELF(2, 1)[:60], false, false},
		"no table": {tinyELF(2, 1)[:70], false, false}, "another class": {tinyELF(3, 1), false, false},
	} {
		if needs, ok := needsLinker(bytes.NewReader(c.data)); needs != c.needs || ok != c.ok {
			t.Errorf("%s: %v %v", name, needs, ok)
		}
	}
}

func TestGroupPlaces(t *testing.T) {
	const own = "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/docker/x\n1:name=systemd:/s\n0::/user.slice/me\nnonsense\n9:x\n"
	const mounts = `22 27 0:21 / /proc rw - proc proc rw
30 27 0:30 / /sys/fs/cgroup/memory rw,relatime shared:1 - cgroup cgroup rw,memory
31 27 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 27 0:32 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 27 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 27
`
	got := groupPlaces(own, mounts)
	for name, want := range map[string]groupPlace{
		"memory": {1, "/sys/fs/cgroup/memory/a/b"}, "cpu": {1, "/sys/fs/cgroup/cpu,cpuacct"}, "pids": {1, "/sys/fs/cgroup/pids"},
		"": {2, "/sys/fs/cgroup/unified/user.slice/me"},
	} {
		if got[name] != want {
			t.Errorf("%q stands at %v, not at %v", name, got[name], want)
		}
	}
}

func FuzzProcText(f *testing.F) {
	f.Add("4:memory:/a\n", "30 27 0:30 / /sys rw - cgroup cgroup rw,memory\n")
	f.Add("1 (a) b) S 1 2 3", "rchar: 1\nwchar: -1\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		groupPlaces(a, b)
		parseHighestIDs(a)
		var s sample
		takeIO([]byte(b), &s)
		if st, ok := parseStat([]byte(a)); ok && len(descendants(map[int]procStat{1: st, st.parent: {parent: 1}}, 1)) > 2 {
			t.Error("more descendants than processes")
		}
		if threadsOf([]byte(a)) < 0 || tablesOf([]byte(b)) < 0 || field([]byte(a), 1) < 0 || s.Received < 0 {
			t.Error("a negative count")
		}
	})
}

func TestProcText(t *testing.T) {
	if n := threadsOf([]byte("12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 42 18")); n != 42 {
		t.Errorf("%d threads", n)
	}
	var s sample
	takeIO([]byte("rchar: 5\nwchar: 6\nsyscr: 1\nread_bytes: 7\nwrite_bytes: 8\ncancelled_write_bytes: 9\n"), &s)
	if (s != sample{Received: 5, Sent: 6, Read: 7, Written: 8}) {
		t.Errorf("%+v", s)
	}
	if n := tablesOf([]byte("Name:\tx\nVmPTE:\t     132 kB\nVmSwap:\t 1 kB\n")); n != 132 {
		t.Errorf("%d KiB of page tables", n)
	}
	if got := parseHighestIDs("         0          0 4294967295\n"); got != math.MaxUint32-1 {
		t.Errorf("highest %d", got)
	}
	if got := parseHighestIDs("0 1000 1\n1 100000 65536\nx y z\n"); got != 65536 {
		t.Errorf("highest %d", got)
	}
}

func TestFamily(t *testing.T) {
	st, ok := parseStat([]byte("7 (a ) b) S 5 2 3 4 5 6 7 8 9 10 100 20 3 4 15 16 8 18 19 20 77 22\n"))
	if want := (procStat{parent: 5, own: 120, waited: 7, threads: 8, pages: 77}); !ok || st != want {
		t.Errorf("%+v, %v", st, ok)
	}
	for _, bad := range []string{"", "7 (a) S 5", "7 S 1 2 3"} {
		if _, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q is taken", bad)
		}
	}
	all := map[int]procStat{1: {}, 2: {parent: 1}, 3: {parent: 2}, 4: {parent: 3}, 5: {parent: 1}, 6: {parent: 7}, 7: {parent: 6}, 8: {parent: 4}}
	if got := descendants(all, 2); !slices.Equal(got, []int{3, 4, 8}) {
		t.Errorf("%v", got)
	}
	if got := descendants(all, 6); !slices.Equal(got, []int{7}) { // a ring
		t.Errorf("%v", got)
	}
}

func TestForeignID(t *testing.T) {
	seen := map[int]bool{}
	for _, highest := range []uint32{math.MaxUint32 - 1, 200000, 65536, 0} {
		for _, dir := range []string{"/a", "/b", "/c"} {
			id := foreignID(dir, highest)
			if id <= 0 || highest > nobody && uint32(id) > highest || id != foreignID(dir, highest) {
				t.Errorf("of %d ids %s gets %d", highest, dir, id)
			}
			if id != nobody && seen[id] {
				t.Errorf("%d is given twice", id)
			}
			seen[id] = true
		}
	}
}

func TestSupport(t *testing.T) {
	s := Support{
		OS: "linux", Tiers: []TierSupport{{Tier: T1, Why: "no"}, {Tier: T2, Works: true}, {Tier: T3, Why: "not root"}},
		CPUBy: "duty cycle", MemoryBy: "watchdog", ThreadsBy: "watchdog",
	}
	if got := s.String(); got != "T2 (Landlock and seccomp); CPU held by duty cycle, memory by watchdog, threads by watchdog; T1 does not work: no" {
		t.Error(got)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := parseSupport("x", text); err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("%+v, %v", back, err)
	}
	s.Tiers[1].Works = false
	if got := s.String(); !strings.HasPrefix(got, "none") || !strings.Contains(got, "T3 does not work: not root") {
		t.Error(got)
	}
	for _, bad := range []string{"", "{}", `{"tiers":[]}`, `{"tiers":[{"tier":"T9"},{},{}]}`} {
		if _, err := parseSupport("x", []byte(bad)); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTier(t *testing.T) {
	for _, tier := range append(tiers(), Auto) {
		text, err := json.Marshal(tier)
		var back Tier
		if err != nil || json.Unmarshal(text, &back) != nil || back != tier {
			t.Errorf("%v became %s became %v", tier, text, back)
		}
	}
	if _, err := ParseTier("T4"); cellproto.HintOf(err) == "" {
		t.Error(err)
	}
}
