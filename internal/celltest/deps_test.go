package celltest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// repository is a git repository that is a cell.
type repository struct {
	t   testing.TB
	dir string
}

// Repository makes a repository of an example, with one commit on the branch main.
func (n *Net) Repository(example string) repository {
	n.t.Helper()
	r := repository{n.t, filepath.Join(n.root, "repos", example)}
	if err := os.MkdirAll(filepath.Dir(r.dir), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.CopyFS(r.dir, os.DirFS(filepath.Join(moduleRoot, "examples", example))); err != nil {
		n.t.Fatal(err)
	}
	r.git("init", "--quiet", "--initial-branch=main")
	r.Commit()
	return r
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Edit replaces a text in a file.
func (r repository) Edit(name, old, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		r.t.Fatalf("%s has no %q", name, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, text, 1)), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// Commit commits all that is there and gives the commit.
func (r repository) Commit() string {
	r.t.Helper()
	r.git("add", "--all")
	r.git("commit", "--quiet", "--message=x")
	return r.git("rev-parse", "HEAD")
}

// deps lists the dependencies of a cell.
func (c *Cell) deps(args ...string) map[string]ctl.DepRow {
	c.t.Helper()
	var rows []ctl.DepRow
	if err := json.Unmarshal([]byte(c.Must(append([]string{"deps", "--json"}, args...)...)), &rows); err != nil {
		c.t.Fatal(err)
	}
	out := map[string]ctl.DepRow{}
	for _, r := range rows {
		out[r.Name] = r
	}
	return out
}

// A dependency by git is cloned, built and started when it is called for the first time, and says so. A branch
// that has moved is taken up when that is asked for, and what does not build changes nothing.
func TestGitDependency(t *testing.T) {
	t.Parallel()
	n := New(t)
	r := n.Repository("greet")
	first := r.git("rev-parse", "HEAD")
	r.git("tag", "v1")
	r.Edit("cell.toml", "mkdir -p bin", "sleep 3 && mkdir -p bin")
	second := r.Commit()
	caller := n.Headless("caller")
	url := "file://" + r.dir
	caller.Edit("", "[deps]\nmoving = \""+url+"@main\"\nfixed = \"git "+url+"@v1\"\nbeside = \"../nowhere\"\n")
	caller.Start()

	// Whoever does not wait is told what goes on, and may come back.
	if r := caller.Ctl("use", "moving", "greet", "Ann", "--timeout", "1500ms"); r.Code != 5 || !strings.Contains(r.Stderr, "being made ready") {
		t.Errorf("exit code %d\n%s", r.Code, r.Stderr)
	}
	used := caller.Ctl("use", "moving", "greet", "Ann", "--timeout", "50s")
	if used.Code != 0 || used.Stdout != "\"Hello, Ann!\"\n" || !strings.Contains(used.Stderr, "building it in a sandbox") {
		t.Fatalf("exit code %d, %q\n%s", used.Code, used.Stdout, used.Stderr)
	}
	rows := caller.deps()
	m := rows["moving"]
	if m.Kind != ctl.DepGit || m.Commit != second || !m.Moves || m.State != ctl.Running || m.Error != "" || m.Looked == nil {
		t.Errorf("%+v", m)
	}
	if f := rows["fixed"]; f.Commit != "" || f.Dir != "" || f.Kind != ctl.DepGit {
		t.Errorf("nobody has called it: %+v", f)
	}
	if b := rows["beside"]; b.Error == "" {
		t.Errorf("there is nothing: %+v", b)
	}
	dep := n.At(m.Dir)
	if s := dep.Status(); !strings.HasPrefix(s.SandboxTier, "T") || s.Network != "offline" || len(s.Addrs) != 0 {
		t.Errorf("its status is %+v", s)
	}
	if r := n.Ctl(n.root, "publish", m.Dir); r.Code != 4 {
		t.Errorf("publishing it: exit code %d\n%s", r.Code, r.Stderr)
	}
	if filepath.Dir(m.Dir) != filepath.Join(n.root, "foreign") {
		t.Errorf("it is in %s", m.Dir)
	}

	// A tag is what it was, whatever the branch is.
	if got := caller.Must("use", "fixed", "greet", "Bob"); got != `"Hello, Bob!"` {
		t.Errorf("%s", got)
	}
	fixed := caller.deps()["fixed"]
	n.At(fixed.Dir) // it is stopped with the test
	if fixed.Commit != first || fixed.Moves {
		t.Errorf("%+v", fixed)
	}

	// The branch moves: it is used once that is asked for, and the copy before is retired.
	r.Edit("greet.sh", `%s,"reply":"Hello`, `%s,"reply":"Salut`)
	third := r.Commit()
	rows = caller.deps()
	if rows["moving"].Commit != second {
		t.Errorf("%+v", rows["moving"])
	}
	updated := map[string]ctl.DepRow{}
	var list []ctl.DepRow
	if err := json.Unmarshal([]byte(caller.Must("deps", "update", "moving", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, row := range list {
		updated[row.Name] = row
	}
	n.At(updated["moving"].Dir)
	if got := caller.Must("use", "moving", "greet", "Ann"); got != `"Salut, Ann!"` || updated["moving"].Commit != third {
		t.Errorf("%s, %+v", got, updated["moving"])
	}
	record, err := os.ReadFile(filepath.Join(m.Dir, "mirror.json"))
	if err != nil || !strings.Contains(string(record), `"replaced_by": "`+third+`"`) {
		t.Errorf("%s, %v", record, err)
	}

	// What does not build is said, and changes nothing.
	r.Edit("cell.toml", "sleep 3", "echo no compiler >&2; exit 3")
	r.Commit()
	if r := caller.Ctl("deps", "update"); r.Code == 0 || !strings.Contains(r.Stderr, "status 3: no compiler") {
		t.Errorf("exit code %d\n%s", r.Code, r.Stderr)
	}
	if got := caller.Must("use", "moving", "greet", "Ann"); got != `"Salut, Ann!"` {
		t.Errorf("%s", got)
	}
	if m := caller.deps()["moving"]; m.Commit != third || !strings.Contains(m.Error, "no compiler") {
		t.Errorf("%+v", m)
	}

	// With another nucleus it is known still, and is woken. Nothing is left half done.
	n.Must(n.root, "stop", updated["moving"].Dir)
	caller.Stop()
	if err := os.Rename(r.dir, r.dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	caller.Start()
	if got := caller.Must("use", "moving", "greet", "Ann"); got != `"Salut, Ann!"` {
		t.Errorf("%s", got)
	}
	for _, sub := range []string{".new", ".fetch", ".gone"} {
		if left, err := os.ReadDir(filepath.Join(n.root, "foreign", sub)); err != nil || len(left) > 0 {
			t.Errorf("%v was left in %s: %v", left, sub, err)
		}
	}
}

// A program calls a dependency by git as any other: it is told in time that this is being made ready, and when to
// come back.
func TestProgramCallsGitDependency(t *testing.T) {
	t.Parallel()
	n := New(t)
	r := n.Repository("greet")
	r.Edit("cell.toml", "mkdir -p bin", "sleep 4 && mkdir -p bin")
	r.Commit()
	c := n.cell("asks")
	c.copyFile(filepath.Join(Bin(t), "asks"), "bin/asks", 0o755)
	c.write("cell.toml", "[cell]\nname = \"asks\"\nbinary = \"bin/asks\"\n[deps]\nlib = \"file://"+r.dir+"@main\"\n", 0o644)
	c.Start()
	type answer struct {
		Reply, Kind, Error string
		AgainMS            int64 `json:"again_ms"`
	}
	ask := func(timeout string) (a answer) {
		t.Helper()
		if err := json.Unmarshal([]byte(c.Must("use", ".", "ask", "Ann", "--timeout", timeout)), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask("3s"); a.Kind != "unavailable" || !strings.Contains(a.Error, "being made ready") || a.AgainMS <= 0 {
		t.Errorf("%+v", a)
	}
	if a := ask("50s"); a.Reply != "Hello, Ann!" {
		t.Errorf("%+v", a)
	}
	n.At(c.deps()["lib"].Dir)
}
