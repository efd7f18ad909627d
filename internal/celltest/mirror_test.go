package celltest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// mirrors lists the mirrors of the network's user, and checks that there are so many.
func (n *Net) mirrors(t *testing.T, want int) []ctl.MirrorRow {
	t.Helper()
	var rows []ctl.MirrorRow
	if err := json.Unmarshal([]byte(n.Must(n.root, "mirror", "ls", "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != want {
		t.Fatalf("%d mirrors, want %d: %+v", len(rows), want, rows)
	}
	return rows
}

// provide publishes an example, changed if that is wanted, and waits until the home cell finds it.
func (n *Net) provide(example string, change ...func(*Cell)) (*Cell, ctl.Published) {
	n.t.Helper()
	n.Bootstrap()
	c := n.Example(example)
	for _, do := range change {
		do(c)
	}
	c.Start()
	published := c.Publish()
	Eventually(n.t, "it is found from the home cell", func() bool {
		return n.Ctl(n.root, "find", published.CID, "--timeout", "5s").Code == 0
	})
	return c, published
}

// Losing the original costs those nothing who have a mirror: it answers, confined, and is awake or woken.
func TestMirrorOutlivesOriginal(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("calculator")

	dir := n.Must(n.root, "mirror", "add", published.CID)
	mirror := n.At(dir)
	if got := n.Must(n.root, "use", published.CID, "add", "3", "4"); got != "7" {
		t.Errorf("beside the original: %s", got)
	}
	a.Kill()
	used := func() {
		t.Helper()
		var r struct {
			Reply  int    `json:"reply"`
			Source string `json:"source"`
		}
		if err := json.Unmarshal([]byte(n.Must(n.root, "use", published.CID, "add", "3", "4", "--json")), &r); err != nil {
			t.Fatal(err)
		}
		if r.Reply != 7 || r.Source != "mirror" {
			t.Errorf("%+v", r)
		}
	}
	used()
	s := mirror.Status()
	if !strings.HasPrefix(s.SandboxTier, "T") || s.CID != published.CID || len(s.Addrs) != 0 || s.Network != "offline" {
		t.Errorf("its status is %+v", s)
	}
	if r := n.Ctl(n.root, "publish", dir); r.Code != 4 {
		t.Errorf("publishing it as one's own: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := n.Ctl(dir, "swap", "--publish"); r.Code != 4 {
		t.Errorf("swapping and publishing it: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	row := n.mirrors(t, 1)[0]
	if row.CID != published.CID || row.Dir != dir || row.State != ctl.Running || row.Source != "artefact" || row.Name != "calculator" {
		t.Errorf("it is listed as %+v", row)
	}
	// It is woken by a call, and goes with a word.
	n.Must(n.root, "stop", dir)
	if row := n.mirrors(t, 1)[0]; row.State != ctl.Stopped {
		t.Errorf("stopped, it is listed as %+v", row)
	}
	used()
	if gone := n.Must(n.root, "gc"); gone != "" {
		t.Errorf("gc says %s", gone)
	}
	n.Must(n.root, "mirror", "rm", "calculator")
	n.mirrors(t, 0)
	if r := n.Ctl(n.root, "use", published.CID, "add", "3", "4", "--timeout", "3s"); r.Code == 0 {
		t.Errorf("somebody answers: %s", r.Stdout)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("its directory is still there")
	}
	if r := n.Ctl(n.root, "mirror", "rm", "calculator"); r.Code != 3 {
		t.Errorf("removed twice: exit code %d\n%s", r.Code, r.Stderr)
	}
}

// A public mirror is one more provider of the very same cell.
func TestPublicMirror(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("calculator")
	dir := n.Must(n.root, "mirror", "add", published.CID) // first for itself
	if again := n.Must(n.root, "mirror", "add", published.CID, "--public"); again != dir {
		t.Errorf("it went from %s to %s", dir, again)
	}
	mirror := n.At(dir)
	a.Kill()
	caller := n.Headless("caller")
	caller.Start()
	Eventually(t, "the mirror is found", func() bool {
		return strings.Contains(caller.Ctl("find", published.CID, "--timeout", "5s").Stdout, mirror.Status().PeerID)
	})
	var rows []ctl.RaceRow
	if err := json.Unmarshal([]byte(caller.Must("race", published.CID, "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 || rows[0].Peer != mirror.Status().PeerID || !rows[0].Winner {
		t.Errorf("the race ended with %+v", rows)
	}
	n.Must(n.root, "mirror", "rm", dir)
}

// Whom a cell admits is known where its owner runs it, and nowhere else.
func TestNoPublicMirrorOfNamedCallers(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("calculator")
	c.Edit(`challenge = "simple"`, "challenge = \"sig\"\nallowed_keys = [\"12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC\"]\n#")
	c.Start()
	published := c.Publish()
	home := n.At("home")
	Eventually(t, "the home cell finds it", func() bool { return n.Ctl(n.root, "find", published.CID).Code == 0 })
	r := n.Ctl(n.root, "mirror", "add", published.CID, "--public")
	if r.Code != 4 || !strings.Contains(r.Stderr, "keys that the owner has named") || !strings.Contains(r.Stderr, "Without --public") {
		t.Errorf("exit code %d\n%s", r.Code, r.Stderr)
	}
	if rows := n.mirrors(t, 0); len(rows) != 0 {
		t.Errorf("%+v in %s", rows, home.Dir)
	}
}

// What never leaves a machine is not offered there, and not accepted here, even from a nucleus that
// serves it all the same.
func TestLocalIsNotMirrored(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("calculator")
	a.Stop()
	a.Edit("", "\n[privacy]\nplacement = \"local\"\n")
	a.Start()
	if r := a.Ctl("publish"); r.Code != 4 {
		t.Errorf("publishing it: exit code %d\n%s", r.Code, r.Stderr)
	}
	if r := n.Ctl(n.root, "mirror", "add", published.CID, "--timeout", "15s"); r.Code != 3 || !strings.Contains(r.Stderr, "no provider") {
		t.Errorf("mirroring it: exit code %d: %s\n%s", r.Code, r.Stdout, r.Stderr)
	}
	n.mirrors(t, 0)
	if entries, err := os.ReadDir(filepath.Join(n.root, "foreign")); err == nil {
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s was left", e.Name())
			}
		}
	}
}

// A program of JSON lines is mirrored too, and confined like the others.
func TestMirrorOfLines(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("greet")
	mirror := n.At(n.Must(n.root, "mirror", "add", published.CID))
	a.Kill()
	if got := n.Must(n.root, "use", published.CID, "greet", "Ann"); !strings.Contains(got, "Ann") {
		t.Errorf("it says %s", got)
	}
	if tier := mirror.Status().SandboxTier; !strings.HasPrefix(tier, "T") {
		t.Errorf("its tier is %s", tier)
	}
	n.Must(n.root, "mirror", "rm", published.CID)
}

// A caller that wants bandwidth has it measured, and gets a copy of what does not have enough.
func TestMissedBandwidthIsMirrored(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, published := n.provide("calculator")
	content, caller := n.Headless("content"), n.Headless("caller")
	content.write(".cell-cache/slo.json", `{"max_p99_ms": 0, "min_bandwidth_mbps": 1, "clone_on_violation": true}`, 0o600)
	caller.write(".cell-cache/slo.json", `{"max_p99_ms": 0, "min_bandwidth_mbps": 1000000, "clone_on_violation": true}`, 0o600)
	content.Start()
	caller.Start()
	content.AwaitProviders(published.CID, 1)
	use := func(from *Cell) string {
		t.Helper()
		reply, meta, err := from.Use(t.Context(), published.CID, "add", "3", "4")
		if err != nil || string(reply) != "7" {
			t.Fatalf("%s: %v", reply, err)
		}
		return meta.Source
	}
	// Both race as often; the first to have a copy would be the one for whom it was made.
	Eventually(t, "a call is answered by the copy", func() bool { use(content); return use(caller) == "mirror" })
	log, err := os.ReadFile(filepath.Join(content.Dir, "log", "nucleus.log"))
	if err != nil || strings.Contains(string(log), "looking for a place for a copy") {
		t.Errorf("it was copied for who is content: %v", err)
	}
	if log, err = os.ReadFile(filepath.Join(caller.Dir, "log", "nucleus.log")); err != nil || !strings.Contains(string(log), "looking for a place for a copy") {
		t.Errorf("it was not copied for who is not content: %v", err)
	}
	n.Must(n.root, "mirror", "rm", published.CID)
}

// A caller that wants a near copy of what is too slow gets one unasked: calls go on meanwhile, and then to
// the copy. Without that wish nothing is copied.
func TestMissedObjectiveIsMirrored(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("calculator")
	content := n.Headless("content")
	content.Start()
	content.AwaitProviders(published.CID, 1)
	caller := n.Headless("caller")
	caller.write(".cell-cache/slo.json", `{"max_p99_ms": 5, "clone_on_violation": true}`, 0o600)
	caller.Start()
	use := func(from *Cell) string {
		t.Helper()
		reply, meta, err := from.Use(t.Context(), published.CID, "slow", "40")
		if err != nil || string(reply) != "40" {
			t.Fatalf("%s: %v", reply, err)
		}
		return meta.Source
	}
	for range 20 {
		if from := use(content); from == "mirror" {
			t.Fatal("it was copied though nobody wants that")
		}
	}
	Eventually(t, "a call is answered by the copy", func() bool { return use(caller) == "mirror" })
	a.Kill()
	if from := use(caller); from != "mirror" {
		t.Errorf("the answer came from %s", from)
	}
	row := n.mirrors(t, 1)[0]
	if row.CID != published.CID || row.State != ctl.Running || row.Public {
		t.Errorf("it is listed as %+v", row)
	}
	n.Must(n.root, "mirror", "rm", published.CID)
}

// A newer version of a cell that is mirrored gets a directory of its own as soon as it is called, and the one
// before is to retire; until then both serve, each under its CID.
func TestNewVersionIsMirrored(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, one := n.provide("calculator")
	old := n.At(n.Must(n.root, "mirror", "add", one.CID))
	a.Stop()
	a.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	a.Start()
	two := a.Publish()
	if two.CID == one.CID {
		t.Fatal("it is no new version")
	}
	home := n.At("home")
	home.AwaitProviders(two.CID, 1)
	if got := n.Must(n.root, "use", two.CID, "add", "3", "4"); got != "7" {
		t.Fatalf("add 3 4 is %s", got)
	}
	var fresh ctl.MirrorRow
	Eventually(t, "version 2 is mirrored", func() bool {
		var rows []ctl.MirrorRow
		if err := json.Unmarshal([]byte(n.Must(n.root, "mirror", "ls", "--json")), &rows); err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.CID == two.CID && r.State == ctl.Running {
				fresh = r
			}
		}
		return fresh.Dir != ""
	})
	n.At(fresh.Dir)
	if fresh.Dir == old.Dir || fresh.Version != "1.1.0" || fresh.Public {
		t.Errorf("%+v", fresh)
	}
	record, err := os.ReadFile(filepath.Join(old.Dir, "mirror.json"))
	if err != nil || !strings.Contains(string(record), `"replaced_by": "`+two.CID+`"`) {
		t.Errorf("the one before: %s, %v", record, err)
	}
	if record, err := os.ReadFile(filepath.Join(fresh.Dir, "mirror.json")); err != nil || strings.Contains(string(record), "replaced_by") {
		t.Errorf("the newer one: %s, %v", record, err)
	}
	a.Kill()
	for _, id := range []string{one.CID, two.CID} {
		var r struct{ Source string }
		if err := json.Unmarshal([]byte(n.Must(n.root, "use", id, "add", "3", "4", "--json")), &r); err != nil || r.Source != "mirror" {
			t.Errorf("%s is answered by %s: %v", id, r.Source, err)
		}
	}
}

// cellctl gc removes a mirror that is stopped and was not used for a week, and no other; the next call goes to
// the provider.
func TestUnusedMirrorIsCollected(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, published := n.provide("calculator")
	mirror := n.At(n.Must(n.root, "mirror", "add", published.CID))
	age := func() {
		t.Helper()
		path := filepath.Join(mirror.Dir, "mirror.json")
		data, err := os.ReadFile(path)
		var record map[string]any
		if err == nil {
			err = json.Unmarshal(data, &record)
		}
		if err != nil {
			t.Fatal(err)
		}
		record["created"], record["last_used"] = "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
		if data, err = json.Marshal(record); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	age()
	if gone := n.Must(n.root, "gc"); gone != "" {
		t.Errorf("one that runs was removed: %s", gone)
	}
	n.Must(n.root, "stop", mirror.Dir)
	if gone := n.Must(n.root, "gc"); gone != "" {
		t.Errorf("one that was used a moment ago was removed: %s", gone)
	}
	age()
	part := filepath.Join(filepath.Dir(mirror.Dir), ".fetch", ".of-another-one.0123456789abcdef.part") // of a fetch that was interrupted just now
	if err := os.WriteFile(part, []byte("a stranger's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if would := n.Must(n.root, "gc", "--dry-run"); would != "would remove "+mirror.Dir+"\nwould remove "+part {
		t.Errorf("it says %s", would)
	}
	n.mirrors(t, 1)
	if gone := n.Must(n.root, "gc"); gone != "removed "+mirror.Dir+"\nremoved "+part {
		t.Errorf("it says %s", gone)
	}
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("the part of a program is still there: %v", err)
	}
	n.mirrors(t, 0)
	n.nothingLeft(t)
	var r struct{ Source string }
	if err := json.Unmarshal([]byte(n.Must(n.root, "use", published.CID, "add", "3", "4", "--json")), &r); err != nil || r.Source != "dht" {
		t.Errorf("it is answered by %s: %v", r.Source, err)
	}
}

// A mirror that hangs, its nucleus or its program alone, costs no call of what may be repeated: the provider answers.
func TestHungMirrorCostsNoCall(t *testing.T) {
	t.Parallel()
	for name, hung := range map[string]func(ctl.Status) int{
		"nucleus": func(s ctl.Status) int { return s.NucleusPID },
		"program": func(s ctl.Status) int { return s.ProgramPID },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			_, published := n.provide("calculator")
			caller := n.Headless("caller")
			caller.Start()
			caller.AwaitProviders(published.CID, 1)
			mirror := n.At(caller.Must("mirror", "add", published.CID))
			use := func(here bool) {
				t.Helper()
				reply, meta, err := caller.Use(t.Context(), published.CID, "add", "3", "4")
				if err != nil || string(reply) != "7" || (meta.Source == "mirror") != here {
					t.Errorf("%s from %q: %v", reply, meta.Source, err)
				}
			}
			use(true)
			pid := hung(mirror.Status())
			hang(t, pid)
			for range 3 {
				use(false)
			}
		})
	}
}
