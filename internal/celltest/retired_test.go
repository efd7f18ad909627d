package celltest

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror"
)

// republish has a cell serve a newer version, and calls that once, so that what is mirrored here is known to be an older one.
func (n *Net) republish(c *Cell, fn string, args ...string) ctl.Published {
	n.t.Helper()
	c.Stop()
	c.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	c.Start()
	two := c.Publish()
	n.home.AwaitProviders(two.CID, 1)
	n.Must(n.root, append([]string{"use", two.CID, fn}, args...)...)
	return two
}

// copyOf gives what mirror ls says of one cell; its directory is "" if it is not there.
func (n *Net) copyOf(cell string) ctl.MirrorRow {
	n.t.Helper()
	var rows []ctl.MirrorRow
	if err := json.Unmarshal([]byte(n.Must(n.root, "mirror", "ls", "--json")), &rows); err != nil {
		n.t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(r ctl.MirrorRow) bool { return r.CID == cell })
	if i < 0 {
		return ctl.MirrorRow{}
	}
	return rows[i]
}

// The mirrors of two cells get newer versions beside them. The one that nobody calls any more stops by itself after the
// time for that, and leaves its directory for cellctl gc; the one that is called stays, and so do the newer ones.
func TestOldMirrorRetires(t *testing.T) {
	if os.Getenv("CELL_LONG") == "" {
		t.Skip("it takes the ten minutes for which nobody must have called a mirror: CELL_LONG=1")
	}
	t.Parallel()
	n := New(t)
	a, idle := n.provide("calculator")
	b := n.Example("greet")
	b.Start()
	called := b.Publish()
	n.home.AwaitProviders(called.CID, 1)
	old := n.At(n.Must(n.root, "mirror", "add", idle.CID))
	kept := n.At(n.Must(n.root, "mirror", "add", called.CID))
	newer := []ctl.Published{n.republish(a, "add", "3", "4"), n.republish(b, "greet", "Ann")}
	for _, two := range newer {
		Eventually(t, "the newer version is mirrored", func() bool { return n.copyOf(two.CID).State == ctl.Running })
		n.At(n.copyOf(two.CID).Dir)
	}
	use := func(cell, fn string, args ...string) {
		t.Helper()
		var r struct{ Source string }
		if err := json.Unmarshal([]byte(n.Must(n.root, append([]string{"use", cell, fn, "--json"}, args...)...)), &r); err != nil || r.Source != "mirror" {
			t.Errorf("%s is answered by %s: %v", cell, r.Source, err)
		}
	}
	use(idle.CID, "add", "3", "4")
	last, program := time.Now(), old.Status().ProgramPID
	latest := last.Add(mirror.RetireIdle + 2*time.Minute) // it looks once a minute
	for n.copyOf(idle.CID).State != ctl.Stopped {
		if time.Now().After(latest) {
			t.Fatalf("it still runs %v after its last call", time.Since(last))
		}
		use(called.CID, "greet", "Ann")
		time.Sleep(10 * time.Second)
	}
	if after := time.Since(last); after < mirror.RetireIdle {
		t.Errorf("it has stopped %v after its last call, want %v", after, mirror.RetireIdle)
	}
	t.Logf("it has stopped %v after its last call", time.Since(last).Round(time.Second))
	old.CheckGone(program)
	if !strings.Contains(old.Log(), "a newer version serves, and nobody calls this one") {
		t.Errorf("its log does not say why:\n%s", old.Log())
	}
	use(called.CID, "greet", "Ann")
	use(newer[0].CID, "add", "3", "4")
	use(newer[1].CID, "greet", "Ann")
	if s := kept.Status(); s.CID != called.CID {
		t.Errorf("the one that is called is %+v", s)
	}
	// It may be called all the same, by who has stayed with it, and gc takes it only after a week.
	if would := n.Must(n.root, "gc", "--dry-run"); would != "" {
		t.Errorf("gc would: %s", would)
	}
	use(idle.CID, "add", "3", "4")
	n.mirrors(t, 4)
}
