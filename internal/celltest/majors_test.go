package celltest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// majors makes a cell whose program multiplies, in its first version. It does not run yet.
func (n *Net) majors() *Cell {
	n.t.Helper()
	c := n.cell("maths")
	c.write("cell.toml", "[cell]\nname = \"maths\"\nversion = \"1.0.0\"\nbinary = \"bin/maths\"\n", 0o644)
	c.major("bin/maths", "v1")
	return c
}

// major writes the program of one version.
func (c *Cell) major(name, version string) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(Bin(c.t), "majors"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(name, strings.ReplaceAll(string(data), "@version=v0", "@version="+version), 0o755)
	return filepath.Join(c.Dir, name)
}

// Of the two versions, the arguments and the reply.
const (
	argsOne, replyOne = `{"a":6,"b":7}`, "42"
	argsTwo, replyTwo = `{"left":6,"right":7}`, `{"value":42}`
)

// multiply calls a target from here, with arguments as they are, and gives who has answered.
func (c *Cell) multiply(target, args, want string) (provider string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	reply, err := (&ctl.Client{Dir: c.Dir}).Use(ctx, ctl.UseRequest{Target: target, Func: "mul", Args: json.RawMessage(args), Timeout: Patience / 2}, strings.NewReader(""))
	if err != nil {
		return "", err
	}
	defer reply.Close()
	text, err := io.ReadAll(reply)
	if err == nil && strings.TrimSpace(string(text)) != want {
		err = fmt.Errorf("the reply is %s, not %s", text, want)
	}
	return reply.Provider, err
}

// raise has the next version take over, in a running cell that is published.
func (c *Cell) raise(from, to, program string) ctl.Published {
	c.t.Helper()
	c.Edit(`version = "`+from+`"`, `version = "`+to+`"`)
	var out ctl.Published
	if err := json.Unmarshal([]byte(c.Must("swap", "--json", "--publish", "--program", c.major(program, program))), &out); err != nil {
		c.t.Fatal(err)
	}
	if out.CID == "" || out.IPNS == "" {
		c.t.Fatalf("it is not published: %+v", out)
	}
	return out
}

// Callers elsewhere who were made for a version that the next one breaks go on calling: by its CID, which the version
// that is kept announces, and by the name, which leads them back to that. No call fails meanwhile.
func TestOldMajorVersionIsReachedFromElsewhere(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	maths := n.majors()
	maths.Start()
	first := maths.Publish()

	old := n.Headless("old")
	old.Start()
	old.AwaitProviders(first.CID, 1)
	Eventually(t, "the name is known", func() bool { return old.Ctl("gen", first.IPNS).Code == 0 })
	old.Must("gen", first.CID, "-o", "by-cid")
	old.Must("restart") // cell.lock is read at the start
	for _, target := range []string{first.CID, first.IPNS} {
		if _, err := old.multiply(target, argsOne, replyOne); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
	}

	var calls, failed atomic.Int64
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for _, target := range []string{first.CID, first.IPNS, first.CID, first.IPNS} {
		callers.Go(func() {
			for {
				if _, err := old.multiply(target, argsOne, replyOne); err != nil {
					failed.Add(1)
					t.Errorf("at %s, %s: %v", time.Now().Format(time.TimeOnly), target, err)
				}
				calls.Add(1)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	Eventually(t, "they call", func() bool { return calls.Load() > 8 })
	second := maths.raise("1.0.0", "2.0.0", "v2")
	kept := n.At(maths.Dir + "-v1")
	if s := kept.Status(); s.CID != first.CID || s.Version != "1.0.0" {
		t.Errorf("version %s is kept, under %s", s.Version, s.CID)
	}
	if info, err := os.Stat(filepath.Join(kept.Dir, "keys")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its keys: %v, %v", info.Mode(), err)
	}
	before := calls.Load()
	Eventually(t, "they go on", func() bool { return calls.Load() > before+20 })
	close(stop)
	callers.Wait()
	t.Logf("%d calls, %d failed", calls.Load(), failed.Load())

	// The name is asked for anew, and stands for version 2; a caller that was made for that gets it.
	next := n.Headless("next")
	next.Start()
	next.AwaitProviders(second.CID, 1)
	Eventually(t, "the name has moved", func() bool {
		return next.Ctl("gen", first.IPNS).Code == 0 && strings.Contains(next.Must("check", "--json"), second.CID)
	})
	next.Must("restart")
	provider, err := next.multiply(first.IPNS, argsTwo, replyTwo)
	if err != nil || provider != maths.Status().PeerID {
		t.Errorf("%s has answered, %v", provider, err)
	}
	old.Must("restart")
	Eventually(t, "the name has moved here too", func() bool {
		out := old.Ctl("check", "--json")
		return strings.Contains(out.Stdout, second.CID) && strings.Contains(out.Stdout, `"breaking"`)
	})
	for _, target := range []string{first.CID, first.IPNS} {
		provider, err := old.multiply(target, argsOne, replyOne)
		if err != nil || provider != kept.Status().PeerID {
			t.Errorf("by %s: %s has answered, %v", target, provider, err)
		}
	}
}

// One program that serves the callers of both versions does so for callers elsewhere, too.
func TestBothMajorVersionsAreServedElsewhere(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	maths := n.majors()
	maths.Start()
	first := maths.Publish()
	old, next := n.Headless("old"), n.Headless("next")
	old.Start()
	old.AwaitProviders(first.CID, 1)
	Eventually(t, "the name is known", func() bool { return old.Ctl("gen", first.IPNS).Code == 0 })
	third := maths.raise("1.0.0", "2.0.0", "v3")
	if _, err := os.Stat(maths.Dir + "-v1"); err == nil {
		t.Error("version 1 was kept, though the new program serves its callers")
	}
	next.Start()
	next.AwaitProviders(third.CID, 1)
	Eventually(t, "the name has moved", func() bool {
		return next.Ctl("gen", first.IPNS).Code == 0 && strings.Contains(next.Must("check", "--json"), third.CID)
	})
	next.Must("restart")
	old.Must("restart")
	if out := old.Ctl("check", "--json"); !strings.Contains(out.Stdout, `"compatible"`) {
		t.Errorf("the old caller is told %s", out.Stdout)
	}
	for range 3 {
		if _, err := old.multiply(first.IPNS, argsOne, replyOne); err != nil {
			t.Error(err)
		}
		if _, err := next.multiply(first.IPNS, argsTwo, replyTwo); err != nil {
			t.Error(err)
		}
	}
}
