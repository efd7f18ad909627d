package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

const somePeer = "12D3KooWRJgsyZpjdiSccQknxRQ2hbXrWPgMLp3TVWdrUF7YYQyV"

func TestPoolNames(t *testing.T) {
	p := &poolNames{path: filepath.Join(t.TempDir(), "data", poolsFile)}
	for _, name := range []string{"", "self", "An archive", "../x", strings.Repeat("a", 64), somePeer} {
		if err := p.set(somePeer, name); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := p.set(somePeer, "archive"); err != nil {
		t.Fatal(err)
	}
	if err := p.set("another", "archive"); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("two pools of one name: %v", err)
	}
	if err := p.set(somePeer, "ours"); err != nil {
		t.Fatal(err)
	}
	again := &poolNames{path: p.path}
	if names, err := again.read(); err != nil || len(names) != 1 || names[somePeer] != "ours" {
		t.Errorf("%v %v", names, err)
	}
	if err := os.WriteFile(p.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.set(somePeer, "x"); cellproto.KindOf(err) != cellproto.Corrupt {
		t.Errorf("a file that cannot be read is replaced: %v", err)
	}
}

// A member is handed a file that proposes other members, or an end to its say: it signs what it was told to.
func TestWhatIsSignedForAPool(t *testing.T) {
	for _, c := range []struct {
		p               ledger.Payload
		budget, members cellproto.Kind
	}{
		{&ledger.RunnerBudget{Budget: 1}, 0, cellproto.BadInput},
		{&ledger.PoolMembers{Keys: []ledger.Key{{1}}, T: 1}, cellproto.Denied, 0},
		{&ledger.Delegate{Cell: "cell"}, cellproto.Unsupported, cellproto.Unsupported},
		{&ledger.Checkpoint{}, cellproto.Unsupported, cellproto.Unsupported},
	} {
		for sign, want := range map[string]cellproto.Kind{ctl.SignBudget: c.budget, ctl.SignMembers: c.members} {
			if err := signable(&ledger.KeyEntry{Payload: c.p}, sign); cellproto.KindOf(err) != want {
				t.Errorf("%T, %s: %v", c.p, sign, err)
			}
		}
	}
}

func TestHostDirs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cache", hostsFile)
	h := openHostDirs(path, zap.NewNop())
	h.note("a", "/one")
	h.note("b", "/two")
	h.note("c", "/one") // which has got another key
	h.note("d", "/three")
	h.forget("d")
	if got := openHostDirs(path, zap.NewNop()).all(); len(got) != 2 || got["b"] != "/two" || got["c"] != "/one" {
		t.Errorf("%v", got)
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := openHostDirs(path, zap.NewNop()).all(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"", "relative", dir + "/..", dir, "/" + strings.Repeat("x", 5000)} {
		if err := checkDir("test", bad); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cell.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkDir("test", dir); err != nil {
		t.Error(err)
	}
}

func TestDelegationLasts(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for _, c := range []struct {
		end  time.Time
		want bool
	}{{now.Add(hostTerm), true}, {now.Add(hostRenew + time.Hour), true}, {now.Add(hostRenew - time.Hour), false}, {now, false}, {now.Add(-hostTerm), false}} {
		if got := lasts(uint64(c.end.UnixMilli()), now); got != c.want {
			t.Errorf("until %v: %v", c.end, got)
		}
	}
	if !lasts(1<<63, now) {
		t.Error("for ever is too short")
	}
}
