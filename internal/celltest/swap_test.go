package celltest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/internal/ctl"
)

// tally makes a cell whose program notes every call. It does not run yet.
func (n *Net) tally(more string) *Cell {
	n.t.Helper()
	c := n.cell("tally")
	c.write("cell.toml", "[cell]\nname = \"tally\"\nversion = \"1.0.0\"\nbinary = \"bin/tally\"\n"+
		"[resources]\nconcurrency = 200\n"+more, 0o644)
	c.copyFile(filepath.Join(Bin(n.t), "tally"), "bin/tally", 0o755)
	return c
}

// nextVersion writes another program beside bin/: the same, but for bytes that nobody reads.
func (c *Cell) nextVersion(v int) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(Bin(c.t), "tally"))
	if err != nil {
		c.t.Fatal(err)
	}
	name := fmt.Sprintf("tally-%d", v)
	c.write(name, string(data)+fmt.Sprint("version ", v), 0o755)
	return filepath.Join(c.Dir, name)
}

// dial opens a connection of frames to the cell's socket, that ends with the test.
func (c *Cell) dial() *cellproto.Conn {
	c.t.Helper()
	sock, err := ctl.Dial(context.Background(), c.Dir, ctl.CellSocket)
	if err != nil {
		c.t.Fatal(err)
	}
	conn, err := cellproto.NewConn(sock, cellproto.Config{Opener: true})
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = conn.Run() }()
	c.t.Cleanup(func() { conn.Close(); <-done })
	return conn
}

// load is clients that call all the time, each with a key that nobody else uses.
type load struct {
	c       *Cell
	fn      string
	over    atomic.Bool
	clients sync.WaitGroup

	mu     sync.Mutex
	done   map[string]bool // keys of calls that have succeeded
	failed []string
	worst  time.Duration // since it was asked for last
}

// client makes one call.
type client func(ctx context.Context, fn, args, key string) error

// raw is a client without the SDK, whose one connection is never replaced.
func (c *Cell) raw() client {
	conn := c.dial()
	return func(ctx context.Context, fn, args, key string) error {
		_, err := conn.Call(ctx, &cellproto.Request{
			Header: cellproto.Header{Func: fn, Codec: cellproto.JSON, Key: []byte(key)}, Payload: []byte(args),
		})
		return err
	}
}

// sdk is a client with the SDK, through the nucleus or past it. It connects anew every now and then: while
// a program is on trial, callers are let through the nucleus only.
func (c *Cell) sdk(relay bool) client {
	const renew = 500 // calls
	var local *cell.Local
	calls := 0
	c.t.Cleanup(func() {
		if local != nil {
			local.Close()
		}
	})
	return func(ctx context.Context, fn, args, key string) error {
		if calls%renew == 0 {
			if local != nil {
				local.Close()
			}
			var err error
			if local, err = (cell.LocalConfig{Dir: c.Dir, Relay: relay}).Open(); err != nil {
				return err
			}
		}
		calls++
		_, err := local.Do(ctx, &cell.Request{Func: fn, Args: json.RawMessage(args), Key: key})
		return err
	}
}

// begin starts n clients of a function. Every eighth call takes 5 ms.
func (c *Cell) begin(n int, fn string) *load {
	clients := make([]client, n)
	for i := range clients {
		clients[i] = c.raw()
	}
	return c.beginWith(fn, clients)
}

// beginMixed is begin with clients half of whom the program serves itself, while the other half is
// relayed, with the SDK and without.
func (c *Cell) beginMixed(n int, fn string) *load {
	clients := make([]client, n)
	for i := range clients {
		switch i % 4 {
		case 0:
			clients[i] = c.raw()
		case 1:
			clients[i] = c.sdk(true)
		default:
			clients[i] = c.sdk(false)
		}
	}
	return c.beginWith(fn, clients)
}

// awaitGranted waits until so many callers are connected to the program itself: after a trial, who came back meanwhile
// comes back once more.
func (c *Cell) awaitGranted(n int) {
	c.t.Helper()
	Eventually(c.t, fmt.Sprintf("the program serves %d callers itself", n), func() bool { return c.granted() >= n })
}

// granted counts the sockets that the program has besides the one to its nucleus and the one by which it gets others.
func (c *Cell) granted() (n int) {
	c.t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.Status().ProgramPID))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") { // it may be closed by now
			n++
		}
	}
	return n - 2
}

func (c *Cell) beginWith(fn string, clients []client) *load {
	l := &load{c: c, fn: fn, done: map[string]bool{}}
	for i, do := range clients {
		l.clients.Go(func() {
			for k := 0; !l.over.Load(); k++ {
				l.call(do, fmt.Sprintf("%s-%d-%d", fn, i, k), k%8 == i%8)
			}
		})
	}
	return l
}

func (l *load) call(do client, key string, slow bool) {
	fn, args := l.fn, fmt.Sprintf(`{"key":%q,"ms":0}`, key)
	if slow && fn == "once" {
		fn, args = "slow", fmt.Sprintf(`{"key":%q,"ms":5}`, key)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cellproto.DefaultTimeout)
	defer cancel()
	begin := time.Now()
	err := do(ctx, fn, args, key)
	took := time.Since(begin)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = max(l.worst, took)
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s: %v", key, err))
		l.over.Store(len(l.failed) > 10)
		return
	}
	l.done[key] = true
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

// stall gives the longest call since it was asked for last, of those that have ended.
func (l *load) stall() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	worst := l.worst
	l.worst = 0
	return worst
}

// await waits for so many further calls.
func (l *load) await(n int) {
	l.c.t.Helper()
	before := l.count()
	Eventually(l.c.t, "calls go on", func() bool { return l.count() >= before+n || l.over.Load() })
}

// swap replaces the program: by cellctl swap, which takes so long, or, with an odd number, by rename, as
// an owner does who knows nothing of it. It gives the new process and the longest call of so many clients
// meanwhile.
func (l *load) swap(v, clients int) (pid int, stall, took time.Duration) {
	c, t := l.c, l.c.t
	t.Helper()
	file, before := c.nextVersion(v), c.Status().ProgramPID
	l.stall()
	if v%2 == 0 {
		s, err := (&ctl.Client{Dir: c.Dir}).Swap(context.Background(), file, ctl.Guard{}, false)
		if err != nil {
			t.Fatalf("swap %d: %v\n%s", v, err, c.Log())
		}
		took = time.Duration(s.TookMS) * time.Millisecond
	} else if err := os.Rename(file, filepath.Join(c.Dir, "bin", "tally")); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "the new program serves", func() bool { return c.Status().ProgramPID != before })
	l.await(2 * clients)
	return c.Status().ProgramPID, l.stall(), took
}

// end stops the clients and compares what they have had answered with what the programs have noted.
func (l *load) end(twiceAllowed bool) {
	t := l.c.t
	t.Helper()
	l.over.Store(true)
	l.clients.Wait()
	noted := l.c.noted()
	twice, missing := 0, 0
	for key := range l.done {
		if noted[key] == 0 {
			missing++
		}
	}
	for key, n := range noted {
		if n > 1 && strings.HasPrefix(key, l.fn+"-") {
			twice++
		}
	}
	t.Logf("%s: %d calls answered, %d failed, %d carried out more than once, %d answered and not carried out", l.fn, len(l.done), len(l.failed), twice, missing)
	if len(l.failed) > 0 {
		t.Errorf("failed: %s", strings.Join(l.failed[:min(len(l.failed), 5)], "\n"))
	}
	if missing > 0 || twice > 0 && !twiceAllowed {
		t.Errorf("%d calls were answered without being carried out, %d were carried out more than once", missing, twice)
	}
}

// noted counts how often the programs have carried out each call.
func (c *Cell) noted() map[string]int {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "data", "*.calls"))
	if err != nil {
		c.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			c.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			counts[lines.Text()]++
		}
		f.Close()
	}
	return counts
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// startTimes gives how long each start of the program took, as the nucleus's log says.
func (c *Cell) startTimes() (all []time.Duration) {
	for line := range strings.Lines(c.Log()) {
		_, fields, ok := strings.Cut(line, "program started\t")
		var f struct {
			Took float64 `json:"took"`
		}
		if ok && json.Unmarshal([]byte(fields), &f) == nil {
			all = append(all, time.Duration(f.Took*float64(time.Second)))
		}
	}
	return all
}

// TestSwapsUnderLoad replaces the program again and again under clients whose calls must not be
// repeated: none fails, none is lost, none runs twice. CELL_LONG=1 makes it long.
func TestSwapsUnderLoad(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	clients, swaps := 32, 8
	if os.Getenv("CELL_LONG") != "" {
		clients, swaps = 64, 25
	}
	l := c.begin(clients, "once")
	l.await(clients)
	if n := c.granted(); n != 0 {
		t.Errorf("the program serves %d callers itself, who do not take that", n)
	}
	pids := []int{c.Status().ProgramPID}
	var stalls, quiet, took []time.Duration
	for v := range swaps {
		l.stall()
		l.await(500)
		quiet = append(quiet, l.stall())
		pid, stall, swap := l.swap(v, clients)
		pids, stalls = append(pids, pid), append(stalls, stall)
		if swap > 0 {
			took = append(took, swap)
		}
	}
	l.end(false)
	s := c.Status()
	if s.Crashes != 0 || s.Starts != uint64(swaps+1) {
		t.Errorf("%d starts, %d crashes", s.Starts, s.Crashes)
	}
	t.Logf("%d swaps under %d clients: longest call around a swap, p50 %v (without one %v); a swap took p50 %v, the first start %v",
		swaps, clients, median(stalls), median(quiet), median(took), c.startTimes()[0])
	rows, err := ctl.ReadRuns(c.Dir)
	if err != nil || len(rows) != swaps+1 || rows[swaps].Outcome != ctl.OutcomeSwapped || rows[0].Outcome != ctl.OutcomeStarted {
		t.Errorf("the history has %d rows (%v), want %d", len(rows), err, swaps+1)
	}
	c.Stop()
	for _, pid := range pids {
		if Alive(pid) {
			t.Errorf("process %d was left", pid)
		}
	}
}

// TestKillsUnderLoad kills the program under clients whose calls may be repeated under their key, and half of whom it
// serves itself: none fails.
func TestKillsUnderLoad(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	clients := 32
	if os.Getenv("CELL_LONG") != "" {
		clients = 64
	}
	l := c.beginMixed(clients, "repeat")
	for range 5 {
		l.await(500)
		c.awaitGranted(clients / 2)
		pid := c.Status().ProgramPID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %d: %v", pid, err)
		}
		Eventually(t, "another one runs", func() bool { now := c.Status().ProgramPID; return now != pid && now != 0 })
	}
	l.await(500)
	l.end(true)
	if s := c.Status(); s.Crashes != 5 || s.Starts != 6 || s.LastExit != "signal: killed" {
		t.Errorf("%+v", s)
	}
	c.Stop()
}

// TestRollBackUnderLoad swaps in a program that dies on trial, under clients whose calls may be repeated:
// the old one answers those that were lost.
func TestRollBackUnderLoad(t *testing.T) {
	n := New(t)
	c := n.tally("")
	c.Start()
	l := c.begin(16, "repeat")
	l.await(200)
	old := c.Status().ProgramPID
	client := &ctl.Client{Dir: c.Dir}
	for v := range 3 {
		swapped, err := client.Swap(t.Context(), c.nextVersion(v), ctl.Guard{}, false)
		if err != nil {
			t.Fatal(err)
		}
		l.await(200)
		if err := syscall.Kill(swapped.ProgramPID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		Eventually(t, "the old one is back", func() bool { return c.Status().ProgramPID == old })
		l.await(200)
	}
	l.end(true)
	Eventually(t, "the reason is known", func() bool {
		s := c.Status().Swap
		return s != nil && s.State == "rolled back" && strings.Contains(s.Reason, "signal: killed")
	})
	var rows []ctl.RunRow
	var err error
	Eventually(t, "the history is written", func() bool { rows, err = ctl.ReadRuns(c.Dir); return err != nil || len(rows) >= 7 })
	if err != nil || len(rows) != 7 || rows[6].Outcome != ctl.OutcomeRolledBack || rows[6].BLAKE3 != rows[0].BLAKE3 {
		t.Errorf("history %+v, %v", rows, err)
	}
	c.Stop()
}
