package celltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// visit counts a visit of the guest book, and gives its number.
func (c *Cell) visit(target string) int {
	c.t.Helper()
	reply, _, err := c.Use(c.t.Context(), target, "visit")
	n, perr := strconv.Atoi(string(reply))
	if err != nil || perr != nil {
		c.t.Fatalf("visit: %s, %v", reply, err)
	}
	return n
}

// guestbook makes a cell whose state its nucleus keeps, confined or not.
func (n *Net) guestbook(confined bool) *Cell {
	c := n.Example("guestbook")
	if confined {
		c.Edit("", "\n[sandbox]\ntier = \"auto\"\n")
	}
	return c
}

// A program counts on after kill -9 of its nucleus, of itself, a swap and an upgrade of celld, in a sandbox, where it
// has no disk, as without one.
func TestStateSurvives(t *testing.T) {
	for _, confined := range []bool{false, true} {
		t.Run(fmt.Sprint("confined ", confined), func(t *testing.T) {
			t.Parallel()
			n := New(t)
			c := n.guestbook(confined)
			c.Edit("", "\n[life_cycle]\nfreeze_after = 0.3\n")
			c.Start()
			count := 0
			counts := func(after string) {
				t.Helper()
				for range 3 {
					if count++; c.visit(c.Dir) != count {
						t.Fatalf("after %s it does not count on from %d", after, count-1)
					}
				}
			}
			counts("the start")
			if tier := c.Status().SandboxTier; strings.HasPrefix(tier, "T") != confined {
				t.Errorf("its tier is %q", tier)
			}
			c.Must("use", c.Dir, "sign", "Ann", "hello")
			picture := filepath.Join(t.TempDir(), "picture")
			if err := os.WriteFile(picture, []byte(strings.Repeat("picture", 100_000)), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Must("use", c.Dir, "hang", "cat.png", "--input", picture)
			Eventually(t, "it is frozen", func() bool { return c.Status().State == ctl.Frozen })
			counts("freezing")
			c.Kill()
			c.Start()
			counts("kill -9 of the nucleus")
			if err := syscall.Kill(c.Status().ProgramPID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			Eventually(t, "the end of the program is seen", func() bool { return c.Status().Crashes == 1 })
			counts("kill -9 of the program")
			c.Must("swap", c.Dir)
			counts("a swap")
			c.Must("upgrade", c.Dir)
			counts("an upgrade of celld")
			if got := c.Must("use", c.Dir, "entries"); got != `[{"name":"Ann","text":"hello"}]` {
				t.Errorf("in the book is %s", got)
			}
			if got := c.Must("use", c.Dir, "picture", "cat.png"); got != strings.Repeat("picture", 100_000) {
				t.Errorf("the picture has %d bytes", len(got))
			}
			c.Stop()
			c.Start()
			counts("another start")
		})
	}
}

// Calls that count go on while celld is replaced: each counts once.
func TestStateUnderUpgrade(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.guestbook(true)
	c.Start()
	c.visit(c.Dir)
	stop := make(chan struct{})
	var calls sync.WaitGroup
	var counted [4]int
	for i := range counted {
		conn := c.dial()
		calls.Go(func() {
			for last := 0; ; counted[i]++ {
				select {
				case <-stop:
					return
				default:
				}
				reply, err := conn.Call(t.Context(), &cellproto.Request{Header: cellproto.Header{Func: "visit"}})
				if err != nil {
					t.Errorf("after %d: %v", last, err)
					return
				}
				now, _ := strconv.Atoi(string(reply.Payload))
				if now <= last {
					t.Errorf("%s after %d", reply.Payload, last)
					return
				}
				last = now
			}
		})
	}
	for range 2 {
		c.Must("upgrade", c.Dir)
	}
	close(stop)
	calls.Wait()
	sum := 1
	for _, k := range counted {
		sum += k
	}
	if got := c.visit(c.Dir); got != sum+1 || sum < 10 {
		t.Errorf("%d visits were counted, it says %d", sum, got)
	}
}

// A copy of the cell on another machine, confined, has a state of its own, and it is kept as well.
func TestStateOfMirror(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("guestbook")
	if got := a.visit(a.Dir); got != 1 {
		t.Fatal(got)
	}
	mirror := n.At(n.Must(n.root, "mirror", "add", published.CID))
	a.Kill()
	caller := n.At("home")
	for i := range 3 {
		if got := caller.visit(published.CID); got != i+1 {
			t.Fatalf("the copy counts %d", got)
		}
	}
	if tier := mirror.Status().SandboxTier; !strings.HasPrefix(tier, "T") {
		t.Errorf("its tier is %q", tier)
	}
	if _, err := os.Stat(filepath.Join(mirror.Dir, "data", "store", "keys.db")); err != nil {
		t.Error(err)
	}
	program, nucleus := mirror.Status().ProgramPID, mirror.Status().NucleusPID
	if err := syscall.Kill(nucleus, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "its program has ended with it", func() bool { return !Alive(program) && !Alive(nucleus) })
	Eventually(t, "the copy answers again", func() bool {
		_, _, err := caller.Use(t.Context(), published.CID, "entries") // the first call may meet the connection that was cut
		return err == nil
	})
	if got := caller.visit(published.CID); got != 4 {
		t.Errorf("after kill -9 the copy counts %d", got)
	}
	if state := mirror.Status().State; state != ctl.Running {
		t.Errorf("it is %s", state)
	}
}
