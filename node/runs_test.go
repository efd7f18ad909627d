package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/internal/ctl"
)

func TestRunsAreBounded(t *testing.T) {
	dir := t.TempDir()
	r := openRuns(dir, zap.NewNop())
	add := func(i int) {
		r.add(ctl.RunRow{Time: time.Unix(int64(i), 0), BLAKE3: fmt.Sprint(i), Outcome: ctl.OutcomeSwapped, Reason: strings.Repeat("x", 2*maxReason)})
	}
	for i := range ctl.MaxRuns + 3 {
		if i == 10 {
			r = openRuns(dir, zap.NewNop()) // the next nucleus
		}
		add(i)
	}
	rows, err := ctl.ReadRuns(dir)
	if err != nil || len(rows) < ctl.MaxRuns/2 || len(rows) > ctl.MaxRuns {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for i, row := range rows {
		if want := fmt.Sprint(ctl.MaxRuns + 3 - len(rows) + i); row.BLAKE3 != want || len(row.Reason) != maxReason {
			t.Fatalf("row %d is %s with %d bytes, want %s", i, row.BLAKE3, len(row.Reason), want)
		}
	}
	// What runs already is not noted again; what was refused did not run.
	last := rows[len(rows)-1]
	hashed := 0
	started := func(blake3 string) {
		r.started(ctl.RunRow{Time: time.Now(), BLAKE3: blake3, Outcome: ctl.OutcomeStarted}, func() string { hashed++; return "hash of " + blake3 })
	}
	started(last.BLAKE3)
	r.add(ctl.RunRow{Time: time.Now(), BLAKE3: "bad", Outcome: ctl.OutcomeRefused})
	started("bad")
	started("bad")
	after, err := ctl.ReadRuns(dir)
	if err != nil || len(after) != len(rows)+2 {
		t.Fatalf("%d rows after %d: %v", len(after), len(rows), err)
	}
	if row := after[len(after)-1]; hashed != 1 || row.Schema != "hash of bad" {
		t.Errorf("the schema was hashed %d times, for %+v", hashed, row)
	}
}

func TestRunsSurviveABrokenCache(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cache"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	openRuns(dir, zap.NewNop()).add(ctl.RunRow{Time: time.Now(), Outcome: ctl.OutcomeStarted})
}

func TestMajorRises(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"1.0.0", "2.0.0", true}, {"9.1.0", "10.0.0", true}, {"0.9.0", "1.0.0-rc.1", true},
		{"1.0.0", "1.9.0", false}, {"2.0.0", "1.0.0", false}, {"10.0.0", "9.0.0", false}, {"1.0.0", "1.0.0", false},
	} {
		if got := majorRises(c.from, c.to); got != c.want {
			t.Errorf("%s to %s: %v", c.from, c.to, got)
		}
	}
}
