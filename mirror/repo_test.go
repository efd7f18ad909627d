package mirror

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

const repoToml = "[cell]\nname = \"calc\"\nversion = \"2.0.0\"\nbinary = \"out/calc\"\nbuild = \"make it\"\n[resources]\nmemory = \"64MiB\"\n"

// cell makes a repository that is a cell.
func (r repository) cell() repository {
	r.put(celltoml.FileName, repoToml, 0o644)
	r.put("main.c", "int main;", 0o644)
	return r
}

// repoStore gives a store that builds without a sandbox: what is left is said by built.
func repoStore(t *testing.T, built building) *Store {
	t.Helper()
	s := newTestStore(t, lying(nil), nil)
	s.cfg.FileRepos, s.deps.Build = true, built
	return s
}

func makesIt(job Job) error {
	path := filepath.Join(job.Dir, job.Output)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, program, 0o755)
}

// A cell that is named by its repository is built from the commit, confined, on no network, and only its
// program and what its cell.toml says of that is taken.
func TestAddRepo(t *testing.T) {
	r := newRepository(t).cell()
	src := r.commit()
	repo := celltoml.Repo{URL: src.Repo, Ref: "main"}
	var asked string
	s := repoStore(t, func(job Job) error {
		asked = job.Command
		return makesIt(job)
	})
	m, made, err := s.AddRepo(t.Context(), repo, src.Commit, silent)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if asked != "make it" || m.Repo != repo.URL || m.Commit != src.Commit || m.CID != "" || m.Name != "calc" || m.Version != "2.0.0" || m.Public {
		t.Errorf("built by %q: %+v", asked, m)
	}
	toml, err := celltoml.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if toml.Sandbox.Tier != celltoml.SandboxAuto || toml.Privacy.Placement != celltoml.PlacementLocal || toml.Cell.Build != "" ||
		toml.Cell.Binary != "bin/calc" || toml.Resources.Memory != 64<<20 || len(toml.Network.Listen) != 0 {
		t.Errorf("%+v", toml)
	}
	if _, err := os.Lstat(filepath.Join(m.Dir, "main.c")); err == nil {
		t.Error("the source was kept")
	}
	for _, name := range left(t, s) {
		if !strings.HasPrefix(name, filepath.Base(m.Dir)+"/") {
			t.Errorf("%s was left besides", name)
		}
	}
	if again, made, err := s.AddRepo(t.Context(), repo, src.Commit, silent); err != nil || made || again.Dir != m.Dir {
		t.Errorf("again: %+v, %v, %v", again, made, err)
	}
	if err := Replace(m.Dir, strings.Repeat("1", 40)); err != nil { // the branch went on, and comes back
		t.Fatal(err)
	}
	if again, _, err := s.AddRepo(t.Context(), repo, src.Commit, silent); err != nil || again.ReplacedBy != "" {
		t.Errorf("what is wanted again still retires: %+v, %v", again, err)
	} else if r, err := ReadRecord(m.Dir); err != nil || r.ReplacedBy != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if got, ok := s.HasRepo(repo.URL, src.Commit); !ok || got.Dir != m.Dir {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, err := s.Remove(t.Context(), "calc"); err != nil {
		t.Error(err)
	}
}

// What a reference is: a commit, a tag before a branch, and what moves.
func TestResolveRepo(t *testing.T) {
	r := newRepository(t).cell()
	first := r.commit().Commit
	r.git("", "tag", "v1")
	r.git("", "tag", "--annotate", "--message=x", "v2")
	r.git("", "branch", "both")
	r.put("later", "x", 0o644)
	second := r.commit().Commit
	r.git("", "tag", "both")
	s := repoStore(t, makesIt)
	for ref, want := range map[string]Pin{
		"main": {second, true}, "v1": {first, false}, "v2": {first, false}, "both": {second, false}, first: {first, false},
	} {
		if got, err := s.ResolveRepo(t.Context(), celltoml.Repo{URL: "file://" + r.dir, Ref: ref}); err != nil || got != want {
			t.Errorf("%s: %+v, want %+v: %v", ref, got, want, err)
		}
	}
	if _, err := s.ResolveRepo(t.Context(), celltoml.Repo{URL: "file://" + r.dir, Ref: "mai"}); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("no such reference: %v", err)
	}
	s.cfg.FileRepos = false
	if _, err := s.ResolveRepo(t.Context(), celltoml.Repo{URL: "file://" + r.dir, Ref: "main"}); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("a file:// URL: %v", err)
	}
}

// Whatever is wrong with a repository, there is a reason, and nothing is left of it.
func TestAddRepoRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(r repository)
		built building
		kind  cellproto.Kind
		says  string
	}{
		{"no cell", func(r repository) { r.put("x", "x", 0o644) }, makesIt, cellproto.BadInput, "no cell"},
		{"a cell.toml that is none", func(r repository) { r.put(celltoml.FileName, "x", 0o644) }, makesIt, cellproto.BadInput, "cell.toml"},
		{"a cell.toml that is a link", func(r repository) {
			r.put("x", repoToml, 0o644)
			if err := os.Symlink("x", filepath.Join(r.dir, celltoml.FileName)); err != nil {
				r.t.Fatal(err)
			}
		}, makesIt, cellproto.BadInput, "no cell"},
		{"a large cell.toml", func(r repository) {
			r.put(celltoml.FileName, strings.Repeat("#", cellproto.MaxCellToml+1), 0o644)
		}, makesIt, cellproto.BadInput, "more than"},
		{"no program", func(r repository) { r.put(celltoml.FileName, "[cell]\nname = \"x\"\n", 0o644) }, makesIt, cellproto.BadInput, "names no program"},
		{"no schema", func(r repository) {
			r.put(celltoml.FileName, "[cell]\nname = \"x\"\nbinary = \"x.sh\"\nspeaks = \"jsonl\"\n", 0o644)
		}, makesIt, cellproto.BadInput, "schema.json"},
		{"nothing to build by", func(r repository) {
			r.put(celltoml.FileName, "[cell]\nname = \"x\"\nbinary = \"bin/x\"\n", 0o644)
		}, makesIt, cellproto.Unsupported, "nothing says how"},
		{"a build that fails", func(r repository) { r.cell() }, func(Job) error {
			return cellproto.Errorf("build", cellproto.Failed, "it ended with status 1")
		}, cellproto.Failed, "status 1"},
		{"a build that leaves a link", func(r repository) { r.cell() }, func(job Job) error {
			if err := os.Mkdir(filepath.Join(job.Dir, "out"), 0o755); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", filepath.Join(job.Dir, job.Output))
		}, cellproto.Failed, "take what was built"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepository(t)
			c.make(r)
			src := r.commit()
			s := repoStore(t, c.built)
			m, made, err := s.AddRepo(t.Context(), celltoml.Repo{URL: src.Repo, Ref: "main"}, src.Commit, silent)
			if cellproto.KindOf(err) != c.kind || m != nil || made || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, %v: %v", m, made, err)
			}
			if rest := left(t, s); len(rest) > 0 {
				t.Errorf("%q were left", rest)
			}
		})
	}
}

// A script is taken as it is where nothing is to be built.
func TestAddRepoOfScript(t *testing.T) {
	r := newRepository(t)
	r.put(celltoml.FileName, "[cell]\nname = \"greet\"\nbinary = \"bin/greet\"\nspeaks = \"jsonl\"\n", 0o644)
	r.put(schemaFile, `{"cell":"greet","functions":{}}`, 0o644)
	r.put("bin/greet", "#!/bin/sh\n", 0o755)
	src := r.commit()
	m, _, err := repoStore(t, makesIt).AddRepo(t.Context(), celltoml.Repo{URL: src.Repo, Ref: src.Commit}, src.Commit, silent)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bin/greet": "#!/bin/sh\n", schemaFile: `{"cell":"greet","functions":{}}`} {
		if got, err := os.ReadFile(filepath.Join(m.Dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// privateRepos serves repositories over https to who knows the password, and counts what it was asked for.
func privateRepos(t *testing.T, root string) (server *httptest.Server, asked *atomic.Int64, ca string) {
	t.Helper()
	exe, err := exec.Command("git", "--exec-path").Output()
	backend := filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend")
	if _, serr := os.Stat(backend); err != nil || serr != nil {
		t.Skip("git has no http-backend here")
	}
	asked = new(atomic.Int64)
	git := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=ann",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if !ok || user != "ann" || password != "se cret'$(x)" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		asked.Add(1)
		git.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return server, asked, ca
}

// A private repository is fetched with what the person's own credential helper says, which is told to no other
// host, and written nowhere. Of their configuration nothing else counts.
func TestPrivateRepo(t *testing.T) {
	r := newRepository(t).cell()
	src := r.commit()
	server, asked, ca := privateRepos(t, filepath.Dir(r.dir))
	home, marker := t.TempDir(), filepath.Join(t.TempDir(), "marker")
	config := fmt.Sprintf("[credential \"%s\"]\n\thelper = \"!f() { test $1 = get || touch %s; echo username=ann; echo \\\"password=se cret'$(printf '\\\\044')(x)\\\"; }; f\"\n[core]\n\tfsmonitor = touch %[2]s\n",
		server.URL, marker)
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := repoStore(t, makesIt)
	s.cfg.Environ = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GIT_SSL_CAINFO=" + ca}
	repo := celltoml.Repo{URL: server.URL + "/repo", Ref: "main"}
	pin, err := s.ResolveRepo(t.Context(), repo)
	if err != nil || pin.Commit != src.Commit {
		t.Fatalf("%+v: %v", pin, err)
	}
	m, _, err := s.AddRepo(t.Context(), repo, pin.Commit, silent)
	if err != nil {
		t.Fatal(err)
	}
	if asked.Load() == 0 {
		t.Error("nothing was asked for")
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("the helper was told to store something, or something else was run")
	}
	for _, dir := range []string{s.cfg.Root, home} {
		if out, _ := exec.Command("grep", "-rl", "--exclude=.gitconfig", "se cret", dir).Output(); len(out) > 0 {
			t.Errorf("the password is in %s", out)
		}
	}
	if _, err := os.Lstat(m.Dir); err != nil {
		t.Error(err)
	}

	// Somebody without a helper, or with a wrong password, is told what to do.
	for _, helper := range []string{"", "[credential]\n\thelper = \"!echo username=ann; echo password=wrong\"\n"} {
		if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(helper), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ResolveRepo(t.Context(), repo); err == nil {
			t.Errorf("with %q it was found", helper)
		} else if helper == "" && !strings.Contains(cellproto.HintOf(err), "credential helper") {
			t.Errorf("%v, hint %q", err, cellproto.HintOf(err))
		}
	}
	// What a stranger's manifest names is fetched as nobody.
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	before := asked.Load()
	src.Repo = repo.URL
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir(newDir+"/x"+sourceSuffix, 0o755); err != nil {
		t.Fatal(err)
	}
	as := s.anybody()
	as.env = []string{"GIT_SSL_CAINFO=" + ca}
	if err := s.clone(t.Context(), root, newDir+"/x"+sourceSuffix, src, as); err == nil || asked.Load() != before {
		t.Errorf("it was fetched with a credential: %v", err)
	}
}

// ssh asks the person's agent and nobody at the terminal, and gets no options out of a URL.
func TestSSHRepo(t *testing.T) {
	s := repoStore(t, makesIt)
	bin := t.TempDir()
	said := filepath.Join(bin, "said")
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >" + said + "\necho \"agent $SSH_AUTH_SOCK\" >>" + said + "\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s.cfg.Environ = []string{"SSH_AUTH_SOCK=/run/agent", "SECRET=x"}
	for _, url := range []string{"ssh://git@127.0.0.1/ann/a.git", "git@127.0.0.1:ann/a.git"} {
		if _, err := s.ResolveRepo(t.Context(), celltoml.Repo{URL: url, Ref: "main"}); err == nil {
			t.Errorf("%s was found", url)
		}
		text, err := os.ReadFile(said)
		if err != nil || !strings.Contains(string(text), "-oBatchMode=yes\n") || !strings.Contains(string(text), "git@127.0.0.1\n") ||
			!strings.Contains(string(text), "agent /run/agent") {
			t.Errorf("%s: %s, %v", url, text, err)
		}
		_ = os.Remove(said) // the next one writes it anew
	}
}

func TestParseRefs(t *testing.T) {
	a, b := strings.Repeat("a", 40), strings.Repeat("b", 64)
	for out, want := range map[string]Pin{
		a + "\trefs/heads/v1\n":                                      {a, true},
		a + "\trefs/heads/v1\n" + b + "\trefs/tags/v1\n":             {b, false},
		a + "\trefs/tags/v1\n" + b + "\trefs/tags/v1^{}":             {b, false},
		"\n\t\nx\trefs/heads/v1\n" + a + "\trefs/heads/v1":           {a, true},
		a + "\trefs/heads/x/refs/heads/v1\n" + b + "\trefs/heads/v1": {b, true},
	} {
		if got, ok := parseRefs(out, "v1"); !ok || got != want {
			t.Errorf("%q: %+v, %v", out, got, ok)
		}
	}
	for _, out := range []string{
		"", "refs/heads/v1", "\trefs/heads/v1", strings.Repeat("A", 40) + "\trefs/heads/v1", a[:39] + "\trefs/heads/v1", "-x\trefs/heads/v1",
		a + " refs/heads/v1", a + "\trefs/heads/v1 ", a + "\trefs/heads/v2", a + "\trefs/remotes/v1", a + "\tv1",
	} {
		if got, ok := parseRefs(out, "v1"); ok {
			t.Errorf("%q: %+v", out, got)
		}
	}
}

func FuzzParseRefs(f *testing.F) {
	f.Add(strings.Repeat("a", 40) + "\trefs/tags/v1^{}\n")
	f.Fuzz(func(t *testing.T, out string) {
		if pin, ok := parseRefs(out, "v1"); ok != isCommit(pin.Commit) {
			t.Fatalf("%+v, %v", pin, ok)
		}
	})
}
