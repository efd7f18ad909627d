package celltest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// electorate makes three honest providers and one that replies with something else, faster than they
// do, and a caller that knows all of them.
func electorate(t *testing.T, config string) (caller *Cell, target string, l *liar) {
	t.Helper()
	n := New(t)
	first := n.Example("calculator")
	first.Start()
	target = first.Publish().CID
	static := []string{}
	for _, c := range []*Cell{first, n.Copy(first), n.Copy(first)} {
		if c != first {
			c.Start()
		}
		static = append(static, fmt.Sprintf("%q", c.Status().Addrs[0]))
	}
	l = newLiar(t, cid.MustParse(target), schemaOf(t, first))
	l.request = func(s network.Stream, f *cellproto.Frame) { send(s, reply(f, f.ID)) }
	static = append(static, fmt.Sprintf("%q", l.host.Addrs()[0].String()+"/p2p/"+l.host.ID().String()))
	caller = n.Headless("caller")
	caller.Edit("", config+"[network]\nstatic = ["+strings.Join(static, ", ")+"]\n")
	caller.Start()
	return caller, target, l
}

// A quorum gives the reply of the most, and names who gave another one.
func TestQuorum(t *testing.T) {
	t.Parallel()
	caller, target, l := electorate(t, "[caller]\nspot_check = 0\n")
	var got struct {
		Reply  json.Number
		Quorum ctl.Quorum
	}
	if err := json.Unmarshal([]byte(caller.Must("use", "--quorum", "3of4", target, "add", "3", "4", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	q := got.Quorum
	if got.Reply != "7" || q.Want != "3of4" || q.Asked != 4 || q.Agreed != 3 || !slices.Equal(q.Liars, []string{l.host.ID().String()}) || q.Note == "" {
		t.Fatalf("%+v", got)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--quorum", "2of4"}, 2, "3of4"},
		{[]string{"--quorum", "4of4"}, 5, "3 providers answer, and 4 must agree"},
	} {
		r := caller.Ctl(append(append([]string{"use"}, c.args...), target, "add", "3", "4")...)
		if r.Code != c.code || !strings.Contains(r.Stderr, c.says) {
			t.Errorf("%v: exit code %d\n%s", c.args, r.Code, r.Stderr)
		}
	}
	// It is not asked while it is banned, not even by another celld of the same cell.
	caller.Stop()
	caller.Start()
	lies := l.lies.Load()
	for range 10 {
		if r := caller.Must("use", target, "add", "3", "4"); r != "7" {
			t.Errorf("it gives %s", r)
		}
	}
	if l.lies.Load() != lies {
		t.Error("the liar was asked again")
	}
}

// Whoever is checked unasked is caught, though it wins every race.
func TestSpotChecks(t *testing.T) {
	t.Parallel()
	caller, target, l := electorate(t, "[caller]\nspot_check = 1\n")
	Eventually(t, "the liar was caught", func() bool {
		if _, _, err := caller.Use(t.Context(), target, "add", "3", "4"); err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(filepath.Join(caller.Dir, ".cell-cache", "reputation.json")) // there is none at first
		return strings.Contains(string(text), `"lying":true`)
	})
	lies := l.lies.Load()
	for range 10 {
		if r, _, err := caller.Use(t.Context(), target, "add", "3", "4"); err != nil || string(r) != "7" {
			t.Errorf("it gives %s, %v", r, err)
		}
	}
	if l.lies.Load() != lies {
		t.Error("the liar was asked again")
	}
}

// Races are seen while calls begin them, and race.log keeps the last of them.
func TestWatchedRaces(t *testing.T) {
	t.Parallel()
	caller, target, l := electorate(t, "")
	lines := strings.Split(caller.Must("race", target, "--watch", "--every", "1", "--timeout", "4s", "--json"), "\n")
	if len(lines) < 2 {
		t.Fatalf("%d races", len(lines))
	}
	for _, line := range lines {
		var r ctl.RaceReport
		if err := json.Unmarshal([]byte(line), &r); err != nil || len(r.Rows) == 0 || r.Winner == "" || r.Why == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(caller.Dir, ".cell-cache", target, "race.log"))
	if err != nil || !strings.Contains(string(text), l.host.ID().String()) {
		t.Errorf("race.log: %v\n%s", err, text)
	}
}
