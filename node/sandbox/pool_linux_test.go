package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var burnt atomic.Int64 // so that a loop has something to do

// hungryBlock is how many bytes it writes at once.
const hungryBlock = 1 << 18

const envHungry = "CELL_TEST_HUNGRY" // groups as JSON, then what to want

// hungry is what a process does that was started to want everything: it enters a pool, and takes all it
// can get of the processors, of memory, or of the disk, with children that do the same.
func hungry() {
	text := os.Getenv(envHungry)
	if text == "" {
		return
	}
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	groups, want, _ := strings.Cut(text, " ")
	var pool map[string]string
	fail(json.Unmarshal([]byte(groups), &pool))
	_, err := EnterPool(pool, "hungry")
	fail(err)
	fmt.Println("in")
	switch want {
	case "cpu":
		for range runtime.NumCPU() * 2 {
			cmd := exec.Command("sh", "-c", "while :; do :; done")
			cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
			fail(cmd.Start())
		}
		for n := int64(0); ; n++ {
			burnt.Store(n)
		}
	case "memory":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			all = append(all, b)
			runtime.KeepAlive(all)
		}
	}
	f, err := os.OpenFile(want, os.O_WRONLY|os.O_CREATE|unix.O_DIRECT, 0o600)
	fail(err)
	block, err := unix.Mmap(-1, 0, hungryBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	fail(err)
	for {
		_, err := f.WriteAt(block, 0)
		fail(err)
	}
}

func openTestPool(t *testing.T) *Pool {
	t.Helper()
	p, err := OpenPool(fmt.Sprintf("test%d", os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		eventually(t, "the pool is gone", func() bool {
			p.Close()
			for _, dir := range p.dirs {
				if _, err := os.Stat(dir); err == nil {
					return false
				}
			}
			return true
		})
	})
	return p
}

// want starts a process that wants something, in a pool, and waits until it is in.
func want(t *testing.T, p *Pool, what string) *exec.Cmd {
	t.Helper()
	groups, err := json.Marshal(p.Groups())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envHungry+"="+string(groups)+" "+what)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
	word := make([]byte, 2)
	if _, err := out.Read(word); err != nil || string(word) != "in" {
		t.Fatalf("it is not in the pool: %q, %v", word, err)
	}
	return cmd
}

// measured gives what was used within a time, by the clock.
func measured(p *Pool, span time.Duration) (PoolUsage, time.Duration) {
	begin, before := time.Now(), p.Used()
	time.Sleep(span) // a measurement, not a wait
	after, took := p.Used(), time.Since(begin)
	return PoolUsage{CPU: after.CPU - before.CPU, RSS: after.RSS, Disk: after.Disk - before.Disk}, took
}

// span is how long is measured: CELL_LONG has it for as long as the figures are promised for.
func span() time.Duration {
	if os.Getenv("CELL_LONG") != "" {
		return time.Minute
	}
	return 2 * time.Second
}

func TestPoolHoldsCPU(t *testing.T) {
	p := openTestPool(t)
	share := 0.1 * float64(runtime.NumCPU())
	if err := p.Set(PoolLimits{CPU: share, Memory: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	want(t, p, "cpu")
	u, took := measured(p, span())
	got := 100 * u.CPU.Seconds() / took.Seconds() / float64(runtime.NumCPU())
	t.Logf("%s: %.2f %% of the machine over %v", p.By(), got, took.Round(time.Millisecond))
	if got > 11 {
		t.Errorf("%.2f %% of the machine were used, 10 may be", got)
	}
	if err := p.Set(PoolLimits{CPU: share / 2, Memory: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	if u, took = measured(p, time.Second); u.CPU.Seconds()/took.Seconds() > share/2*1.5 {
		t.Errorf("after half was taken away: %v in %v", u.CPU, took)
	}
}

// What is in a pool gives way to all else, until it has to leave: then it is given its turn as anybody is.
func TestPoolGivesWay(t *testing.T) {
	p := openTestPool(t)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(p.main(), name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	idle := read("cpu.idle") // "": an old kernel
	weight := read("cpu.shares") + read("cpu.weight")
	if idle == "0" || idle == "" && weight != "2" && weight != "1" {
		t.Errorf("it does not give way: idle %q, weight %q", idle, weight)
	}
	p.GiveWay(false)
	if read("cpu.idle") == "1" || read("cpu.shares")+read("cpu.weight") != map[int]string{1: "1024", 2: "100"}[p.version] {
		t.Errorf("it waits although it has to leave: idle %q, weight %q", read("cpu.idle"), read("cpu.shares")+read("cpu.weight"))
	}
	p.GiveWay(true)
	if got := read("cpu.idle"); got != idle {
		t.Errorf("it does not give way again: %q", got)
	}
}

func TestPoolHoldsMemory(t *testing.T) {
	p := openTestPool(t)
	const most = 48 << 20
	if err := p.Set(PoolLimits{CPU: 1, Memory: most}); err != nil {
		t.Fatal(err)
	}
	p.GiveWay(false) // beside others it may come to nothing, which shows nothing of memory
	cmd := want(t, p, "memory")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		peak := peakOf(p)
		t.Logf("it had at most %d KiB, then: %v", peak>>10, err)
		if err == nil || peak > most+64<<10 || peak < most/2 {
			t.Errorf("it ended with %v and had %d bytes of %d", err, peak, most)
		}
	case <-time.After(patience):
		t.Error("it goes on")
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		<-ended
	}
}

// peakOf is the most memory that a pool had.
func peakOf(p *Pool) int64 {
	for _, name := range []string{p.dirs["memory"] + "/memory.max_usage_in_bytes", p.dirs[""] + "/memory.peak"} {
		if text, err := os.ReadFile(name); err == nil {
			n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			return n
		}
	}
	return 0
}

// diskBurst is how many bytes more than the rate gives a group may have over any span. Linux counts in slices of a tenth of a
// second and lets through what is due at the end of the one that has begun; newer kernels have what was not used of two
// slices be used later (tg_within_bps_limit and throtl_trim_slice in block/blk-throttle.c). A request that waits is counted
// when it is made in version 1, when it is let through in version 2: one more at either end of the span.
func diskBurst(rate, request float64) float64 { return 3*rate/10 + 2*request }

// Who writes as much as he can gets what is given, and the burst once. Without the bound this disk would give him more.
func TestPoolHoldsDisk(t *testing.T) {
	p := openTestPool(t)
	if !p.disks {
		t.Skip(p.noDisks)
	}
	file := filepath.Join(t.TempDir(), "f")
	var s unix.Stat_t
	if err := unix.Stat(filepath.Dir(file), &s); err != nil || unix.Major(uint64(s.Dev)) == 0 {
		t.Skip("the directory for temporary files is on no disk")
	}
	const rate = 5e6
	set := func(disk int64) {
		t.Helper()
		if err := p.Set(PoolLimits{CPU: 1, Memory: 256 << 20, Disk: disk}); err != nil {
			t.Fatal(err)
		}
	}
	set(rate)
	p.GiveWay(false) // beside others it may come to nothing, which shows nothing of disks
	want(t, p, file)
	written := func(span time.Duration) (bytes, due float64) {
		u, took := measured(p, span)
		t.Logf("%.2f MB over %v", float64(u.Disk)/1e6, took.Round(time.Millisecond))
		return float64(u.Disk), rate * took.Seconds()
	}
	bytes, due := written(span())
	if most := due + diskBurst(rate, hungryBlock); bytes > most {
		t.Errorf("%.2f MB were written, %.2f may be", bytes/1e6, most/1e6)
	}
	if bytes < due/50 { // a busy disk may give less
		t.Errorf("%.2f MB: nothing is measured", bytes/1e6)
	}
	set(0)
	if bytes, due := written(time.Second / 4); bytes < 2*(due+diskBurst(rate, hungryBlock)) {
		t.Skipf("this disk gives %.2f MB/s now without a bound: nothing is shown", bytes/due*rate/1e6)
	}
}

// Who was killed leaves its pool to the next one, and what is in it stays bounded.
func TestPoolIsFoundAgain(t *testing.T) {
	p := openTestPool(t)
	if err := p.Set(PoolLimits{CPU: 0.05, Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	want(t, p, "cpu")
	p.Close() // it cannot go
	again, err := OpenPool(fmt.Sprintf("test%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(again.Groups()) != fmt.Sprint(p.Groups()) {
		t.Errorf("%v was found, not %v", again.Groups(), p.Groups())
	}
	u, took := measured(again, time.Second)
	if cores := u.CPU.Seconds() / took.Seconds(); cores > 0.08 || cores == 0 {
		t.Errorf("%.3f cores are used, 0.05 may be", cores)
	}
}

// A pool whose owner has ended is removed by the next one, when it is old; one that somebody has is not.
func TestPoolSweep(t *testing.T) {
	p := openTestPool(t)
	names := []string{fmt.Sprintf("swept%d", os.Getpid()), fmt.Sprintf("kept%d", os.Getpid()), fmt.Sprintf("young%d", os.Getpid())}
	old := time.Now().Add(-2 * poolAge)
	var others []*Pool
	for i, name := range names {
		o, err := OpenPool(name)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		others = append(others, o)
		if i != 2 {
			if err := os.Chtimes(o.main(), old, old); err != nil {
				t.Skip(err)
			}
		}
		if i != 1 {
			o.owned.Close() // as if it had ended
			o.owned = nil
		}
	}
	p.sweep()
	for i, want := range []bool{false, true, true} {
		for controller, dir := range others[i].dirs {
			if _, err := os.Stat(dir); (err == nil) != want {
				t.Errorf("%s, %q: there is %v, want %v", names[i], controller, err == nil, want)
			}
		}
	}
}

// The groups of one that is hosted go with it, but not while it runs.
func TestLeavePool(t *testing.T) {
	p := openTestPool(t)
	cmd := want(t, p, "memory")
	there := func() (n int) {
		for controller, dir := range p.Groups() {
			if _, err := os.Stat(filepath.Join(dir, "hungry")); err == nil && controller != "blkio" {
				n++
			}
		}
		return n
	}
	groups := there()
	LeavePool(p.Groups(), "hungry")
	if groups == 0 || there() != groups {
		t.Fatalf("%d of %d groups are left while it runs", there(), groups)
	}
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	cmd.Wait()
	for _, name := range []string{"", ".", "..", "other", "hungry"} {
		LeavePool(p.Groups(), name)
	}
	if there() != 0 {
		t.Errorf("%d of %d groups are left", there(), groups)
	}
	for _, dir := range p.Groups() {
		if !isGroup(dir) {
			t.Errorf("%s is gone", dir)
		}
	}
}

// A directory that is no group holds nothing: it is not entered.
func TestEnterNoGroup(t *testing.T) {
	dir := t.TempDir()
	for _, key := range []string{"", "cpu"} {
		if _, err := EnterPool(map[string]string{key: dir}, "x"); err == nil {
			t.Errorf("%s was entered as %q", dir, key)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) > 0 {
		t.Errorf("%v was made there", list)
	}
}

func TestPoolFiles(t *testing.T) {
	l := PoolLimits{CPU: 0.4, Memory: 100 << 20, Disk: 5e6}
	got := fmt.Sprint(
		poolFilesV1("cpu", l, nil), poolFilesV1("memory", l, nil), poolFilesV1("blkio", l, []string{"8:0"}),
		poolFilesV2("cpu", l, nil), poolFilesV2("memory", l, nil), poolFilesV2("io", l, []string{"8:0", "254:16"}),
		poolFilesV2("io", PoolLimits{}, []string{"8:0"}), poolFilesV1("blkio", PoolLimits{}, []string{"8:0"}),
	)
	want := "[{cpu.cfs_period_us 50000 true} {cpu.cfs_quota_us 20000 true}] " +
		"[{memory.memsw.limit_in_bytes 104857600 false} {memory.limit_in_bytes 104857600 true} {memory.memsw.limit_in_bytes 104857600 false} {memory.swappiness 0 false}] " +
		"[{blkio.throttle.read_bps_device 8:0 5000000 true} {blkio.throttle.write_bps_device 8:0 5000000 true}] " +
		"[{cpu.max 20000 50000 true}] [{memory.max 104857600 true} {memory.swap.max 0 false}] " +
		"[{io.max 8:0 rbps=5000000 wbps=5000000 true} {io.max 254:16 rbps=5000000 wbps=5000000 true}] " +
		"[{io.max 8:0 rbps=max wbps=max true}] [{blkio.throttle.read_bps_device 8:0 0 true} {blkio.throttle.write_bps_device 8:0 0 true}]"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := diskOfV1("8:0 Read 5\n8:0 Write 6\n8:0 Sync 11\n8:0 Total 11\nTotal 11\n"); n != 11 {
		t.Errorf("v1: %d bytes", n)
	}
	if n := diskOfV2("8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0\n"); n != 12 {
		t.Errorf("v2: %d bytes", n)
	}
	if n := keyed("nr_periods 7\nusage_usec 12\n", "usage_usec"); n != 12 {
		t.Errorf("keyed: %d", n)
	}
}
