package mirror

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// repository is a git repository that a test fills.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("", "init", "--quiet", "--initial-branch=main")
	return r
}

// git runs git in the repository, with text as its input.
func (r repository) git(text string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(text)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repository) put(name, text string, mode os.FileMode) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits what is there, and gives the source that names it.
func (r repository) commit() *signed.Source {
	r.t.Helper()
	r.git("", "add", "--all")
	r.git("", "commit", "--quiet", "--message=x")
	return r.source(r.git("", "rev-parse", "HEAD"))
}

func (r repository) source(commit string) *signed.Source {
	return &signed.Source{Repo: "file://" + r.dir, Ref: "main", Commit: commit}
}

// commitTree commits a tree as git mktree takes it, however strange.
func (r repository) commitTree(lines string) *signed.Source {
	r.t.Helper()
	tree := r.git(lines, "mktree", "--missing")
	commit := r.git("x", "commit-tree", tree)
	r.git("", "update-ref", "refs/heads/main", commit)
	return r.source(commit)
}

func (r repository) blob(text string) string {
	r.t.Helper()
	return r.git(text, "hash-object", "-w", "--stdin")
}

// cloneInto clones a source as buildProgram does, and gives where.
func cloneInto(t *testing.T, src *signed.Source) (dir string, err error) {
	t.Helper()
	s := newTestStore(t, lying(program), nil)
	s.cfg.FileRepos = true
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	work := newDir + "/x" + sourceSuffix
	if err := root.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	err = s.clone(t.Context(), root, work, src, s.anybody())
	if _, serr := os.Lstat(filepath.Join(s.cfg.Root, newDir, "x"+objectsSuffix)); serr == nil {
		t.Error("what git has fetched is left")
	}
	return filepath.Join(s.cfg.Root, work), err
}

func TestClone(t *testing.T) {
	r := newRepository(t)
	r.put("go.mod", "module x\n", 0o644)
	r.put("cmd/run.sh", "#!/bin/sh\n", 0o755)
	if err := os.Symlink("cmd/run.sh", filepath.Join(r.dir, "run")); err != nil {
		t.Fatal(err)
	}
	old := r.commit()
	r.put("later", "x", 0o644)
	r.commit()
	dir, err := cloneInto(t, old)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "run")); err != nil || string(text) != "#!/bin/sh\n" {
		t.Errorf("%q: %v", text, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "cmd/run.sh")); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("%v: %v", info, err)
	}
	for _, name := range []string{"later", ".git"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// What a repository would have git do is not done: only its files come.
func TestCloneDoesNothingElse(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	t.Setenv("HOME", t.TempDir()) // a person's own configuration counts for nothing
	config := fmt.Sprintf("[filter \"evil\"]\n\tsmudge = touch %[1]s\n\tprocess = touch %[1]s\n[core]\n\tfsmonitor = touch %[1]s\n[uploadpack]\n\tpackObjectsHook = touch %[1]s\n", marker)
	if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newRepository(t)
	other.put("x", "x", 0o644)
	inner := other.commit()
	r := newRepository(t)
	r.put(".gitattributes", "* filter=evil\n*.bin filter=lfs\n", 0o644)
	r.put("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", 0o644)
	r.put("hooks/post-checkout", "#!/bin/sh\ntouch "+marker+"\n", 0o755)
	r.put(".gitmodules", "[submodule \"sub\"]\n\tpath = sub\n\turl = "+inner.Repo+"\n", 0o644)
	r.git("", "add", "--all")
	r.git("", "update-index", "--add", "--cacheinfo", "160000,"+inner.Commit+",sub")
	r.git("", "commit", "--quiet", "--message=x")
	dir, err := cloneInto(t, r.source(r.git("", "rev-parse", "HEAD")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("something was run")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "big.bin")); err != nil || !strings.HasPrefix(string(text), "version https://git-lfs") {
		t.Errorf("%q: %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "sub")); err == nil {
		t.Error("the submodule is there")
	}
}

// A tree that is not to be written is refused as a whole.
func TestCloneRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		kind cellproto.Kind
		make func(r repository) *signed.Source
	}{
		{"a link to /etc", cellproto.BadInput, func(r repository) *signed.Source {
			return r.commitTree("120000 blob " + r.blob("/etc/passwd") + "\tx\n")
		}},
		{"a link out of the tree", cellproto.BadInput, func(r repository) *signed.Source {
			return r.commitTree("120000 blob " + r.blob("../../../x") + "\tx\n")
		}},
		{"a link out of the tree, by way of another one", cellproto.BadInput, func(r repository) *signed.Source {
			r.put("p/x", "x", 0o644)
			for at, to := range map[string]string{"p/q": "..", "out": "p/q/../.."} { // by the names alone that is the tree itself
				if err := os.Symlink(to, filepath.Join(r.dir, at)); err != nil {
					r.t.Fatal(err)
				}
			}
			return r.commit()
		}},
		{"a path that leads outside", cellproto.Failed, func(r repository) *signed.Source { // git's own check
			return r.commitTree("100644 blob " + r.blob("x") + "\t..\n")
		}},
		{"git's own files", cellproto.Failed, func(r repository) *signed.Source {
			return r.commitTree("100644 blob " + r.blob("x") + "\t.git\n")
		}},
		{"10,001 files", cellproto.TooLarge, func(r repository) *signed.Source {
			blob, lines := r.blob("x"), &strings.Builder{}
			for i := range maxCloneFiles + 1 {
				fmt.Fprintf(lines, "100644 blob %s\t%d\n", blob, i)
			}
			return r.commitTree(lines.String())
		}},
		{"a bomb", cellproto.TooLarge, func(r repository) *signed.Source { // little to fetch, much to write
			blob, lines := r.blob(strings.Repeat("0", 2<<20)), &strings.Builder{}
			for i := range 60 {
				fmt.Fprintf(lines, "100644 blob %s\t%d\n", blob, i)
			}
			return r.commitTree(lines.String())
		}},
		{"another commit", cellproto.NotFound, func(r repository) *signed.Source {
			r.put("x", "x", 0o644)
			src := r.commit()
			src.Commit = strings.Repeat("0a", 20)
			return src
		}},
		{"no commit", cellproto.NotFound, func(r repository) *signed.Source {
			r.put("x", "x", 0o644)
			r.commit()
			return r.source(r.blob("x"))
		}},
		{"no repository", cellproto.Failed, func(r repository) *signed.Source {
			src := r.source(strings.Repeat("0a", 20))
			src.Repo += "/nowhere"
			return src
		}},
		{"another protocol", cellproto.Denied, func(r repository) *signed.Source {
			return &signed.Source{Repo: "ext::sh -c touch% " + r.dir + "/x", Commit: strings.Repeat("0a", 20)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepository(t)
			if _, err := cloneInto(t, c.make(r)); cellproto.KindOf(err) != c.kind {
				t.Errorf("kind %v, want %v: %v", cellproto.KindOf(err), c.kind, err)
			}
		})
	}
	s := newTestStore(t, lying(program), nil)
	root, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := s.clone(t.Context(), root, newDir+"/x", newRepository(t).source(""), s.anybody()); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("a file:// URL: %v", err)
	}
}

// A server that is silent, or lets a byte fall now and then, holds a clone until its time is over, and nothing is left of it.
func TestCloneFromSlowServers(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"dripping": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000fff0")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "0"); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var came, left atomic.Int64
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				came.Add(1)
				defer left.Add(1)
				serve(w, r)
			}))
			defer srv.Close()
			s := newTestStore(t, lying(program), nil)
			root, err := s.open()
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			as := reach{protocols: []string{"https"}, config: []string{"-c", "http.sslVerify=false"}}
			src := &signed.Source{Repo: srv.URL + "/x", Ref: "main", Commit: object}
			for s.cfg.CloneTimeout = time.Second / 4; came.Load() == 0; s.cfg.CloneTimeout *= 2 { // git has to come so far
				if err := s.clone(t.Context(), root, newDir+"/x", src, as); cellproto.KindOf(err) != cellproto.Timeout {
					t.Fatalf("it ends with %v", err)
				}
			}
			if _, err := root.Lstat(newDir + "/x" + objectsSuffix); err == nil {
				t.Error("what git has fetched is left")
			}
			srv.Close() // git has hung up, or this waits for good
			if left.Load() != came.Load() {
				t.Errorf("%d of %d requests have ended", left.Load(), came.Load())
			}
		})
	}
}

const object = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

func TestParseTree(t *testing.T) {
	line := func(mode, size, path string) string {
		return mode + " blob " + object + " " + size + "\t" + path + "\x00"
	}
	good := line(modeFile, "1", "a/b") + line(modeProgram, "2", "c") + line(modeLink, "3", "d") + modeSubmodule + " commit " + object + "       -\te\x00"
	if entries, err := parseTree(strings.NewReader(good)); err != nil || len(entries) != 3 {
		t.Errorf("%+v: %v", entries, err)
	}
	for text, kind := range map[string]cellproto.Kind{
		line(modeFile, "1", "../x"):                                                  cellproto.BadInput,
		line(modeFile, "1", "/x"):                                                    cellproto.BadInput,
		line(modeFile, "1", "a//x"):                                                  cellproto.BadInput,
		line(modeFile, "1", "a/./x"):                                                 cellproto.BadInput,
		line(modeFile, "1", ""):                                                      cellproto.BadInput,
		line(modeFile, "1", `a\..\x`):                                                cellproto.BadInput,
		line(modeFile, "1", ".git/config"):                                           cellproto.BadInput,
		line(modeFile, "1", "a/.GIT/config"):                                         cellproto.BadInput,
		line(modeFile, "1", strings.Repeat("a/", 40)):                                cellproto.BadInput,
		line(modeFile, "1", strings.Repeat("a", 300)):                                cellproto.TooLarge,
		line(modeFile, "1", strings.Repeat("a", 3000)):                               cellproto.TooLarge,
		line(modeFile, "-1", "x"):                                                    cellproto.BadInput,
		line(modeFile, "x", "x"):                                                     cellproto.BadInput,
		line(modeFile, "104857601", "x"):                                             cellproto.TooLarge,
		line("160755", "1", "x"):                                                     cellproto.BadInput,
		line(modeLink, "5000", "x"):                                                  cellproto.BadInput,
		strings.TrimSuffix(line(modeFile, "1", "x"), "\x00"):                         cellproto.BadInput,
		strings.Repeat(modeSubmodule+" commit "+object+" -\te\x00", maxCloneFiles+1): cellproto.TooLarge,
		"nonsense\x00":                                                               cellproto.BadInput,
	} {
		if entries, err := parseTree(strings.NewReader(text)); cellproto.KindOf(err) != kind || entries != nil {
			t.Errorf("%.60q: %+v, %v", text, entries, err)
		}
	}
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte(modeFile + " blob " + object + " 1\ta/b\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseTree(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		for _, e := range entries {
			if !filepath.IsLocal(e.path) || len(e.path) > maxClonePath || e.size < 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// building leaves what a build leaves.
type building func(job Job) error

func (b building) Build(_ context.Context, job Job) error { return b(job) }

// Without a program for this machine, or for any, one is built from the pinned commit; the mirror knows what it has
// built from what.
func TestAddFromSource(t *testing.T) {
	r := newRepository(t)
	r.put("go.mod", "module x\n", 0o644)
	r.put("bin/calculator", "of the tree", 0o755)
	src := r.commit()
	a := artefact(t, program)
	a.Arch = "riscv64"
	w := want(t, a, nil, func(m *signed.Manifest) { m.Source = src })
	var asked string
	s := newTestStore(t, lying(program), nil)
	s.cfg.FileRepos = true
	var hosted bool
	built := building(func(job Job) error {
		asked, hosted = job.Command, job.Hosted
		if _, err := os.Lstat(filepath.Join(job.Dir, job.Output)); err == nil {
			t.Error("what the tree has in the place of the program is still there")
		}
		return os.WriteFile(filepath.Join(job.Dir, job.Output), program, 0o4755)
	})
	refused(t, s, w, cellproto.Unsupported, "only for linux/riscv64")
	s.deps.Build = building(func(job Job) error {
		return os.Symlink("/etc/passwd", filepath.Join(job.Dir, job.Output))
	})
	refused(t, s, w, cellproto.Failed, "take what was built")
	other := filepath.Join(s.cfg.Root, "12345678-other-aaaaaaaaaaaa") // another mirror, below the same root
	if err := os.MkdirAll(filepath.Join(other, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "keys", "host.key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []struct{ to, at string }{{"../../../12345678-other-aaaaaaaaaaaa/keys/host.key", "bin/calculator"}, {"../../12345678-other-aaaaaaaaaaaa/keys", "bin"}} {
		s.deps.Build = building(func(job Job) error {
			if err := os.RemoveAll(filepath.Join(job.Dir, link.at)); err != nil {
				return err
			}
			return os.Symlink(link.to, filepath.Join(job.Dir, link.at))
		})
		if _, _, err := s.Add(t.Context(), w, silent); cellproto.KindOf(err) != cellproto.Failed {
			t.Errorf("a build that leaves a link to %s: %v", link.to, err)
		}
	}
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	s.deps.Build = building(func(Job) error {
		return cellproto.Errorf("build", cellproto.Failed, "it ended with status 1")
	})
	refused(t, s, w, cellproto.Failed, "status 1")
	s.deps.Build = built
	m := mustAdd(t, s, w)
	info, err := os.Stat(filepath.Join(m.Dir, "bin", "calculator"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v: %v", info.Mode(), err)
	}
	if !strings.HasPrefix(asked, "go build ") || hosted || m.Source != src.Repo+"@"+src.Commit {
		t.Errorf("it was built by %q, its source is %s", asked, m.Source)
	}
	sum, manifest := signed.Digest(cellproto.BLAKE3(program)), &signed.Manifest{Source: src}
	if !m.BuiltFrom(manifest, sum) || m.BuiltFrom(manifest, signed.Digest{1}) || m.BuiltFrom(&signed.Manifest{}, sum) {
		t.Errorf("it knows its program as %v", m.Built)
	}
	elsewhere := *src
	elsewhere.Commit = strings.Repeat("0", 40)
	if m.BuiltFrom(&signed.Manifest{Source: &elsewhere}, sum) {
		t.Error("it is taken for one of another commit")
	}
	w = want(t, a, nil, func(m *signed.Manifest) { m.Source, m.Artefacts = src, nil })
	w.Public, w.Hosted, w.AskedBy = true, true, "x"
	if m := mustAdd(t, s, w); !hosted || !m.Public || !m.Hosted || !m.BuiltFrom(manifest, sum) {
		t.Errorf("for others it is built as %+v", m)
	}
}

// What others want built here is fetched from the internet alone, by addresses that were looked up once.
func TestStrangersReach(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	for _, repo := range []string{
		"https://127.0.0.1/x", "https://10.1.2.3:8443/x", "https://192.168.0.1/x", "https://169.254.169.254/x", "https://[::1]/x",
		"https://[fe80::1]/x", "https://[fd00::1]/x", "https://[::ffff:10.0.0.1]/x", "https://0.0.0.0/x", "https://localhost/x",
	} {
		if as, err := s.stranger(t.Context(), repo); cellproto.KindOf(err) != cellproto.Denied && cellproto.KindOf(err) != cellproto.NotFound {
			t.Errorf("%s is fetched, by %q: %v", repo, as.config, err)
		}
	}
	if as, err := s.stranger(t.Context(), "https://93.184.215.14/x"); err != nil || !slices.Contains(as.config, "http.followRedirects=false") {
		t.Errorf("by %q: %v", as.config, err)
	}
	u, err := url.Parse("https://example.org/x")
	if err != nil {
		t.Fatal(err)
	}
	public, private := netip.MustParseAddr("93.184.215.14"), netip.MustParseAddr("10.0.0.1")
	if pin, err := pinned(u, []netip.Addr{public, netip.MustParseAddr("2606:2800:21f:cb07::1")}); err != nil || pin != "example.org:443:93.184.215.14,2606:2800:21f:cb07::1" {
		t.Errorf("pinned to %q: %v", pin, err)
	}
	if pin, err := pinned(u, []netip.Addr{public, private}); err == nil {
		t.Errorf("pinned to %q", pin)
	}
	if as, err := s.stranger(t.Context(), "ssh://10.0.0.1/x"); err != nil || as.allows("clone", "ssh://10.0.0.1/x") == nil {
		t.Errorf("by ssh: %v", err)
	}
}

// What a stranger's manifest names for a source makes nobody connect to a machine of this network, also where the copy is
// this person's own: those that a missed objective begins are made unasked.
func TestSourceInThisNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var came atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			conn.Close()
		}
	}()
	owner, err := peer.IDFromPrivateKey(account)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		network, account string
		hosted, connects bool
	}{
		{"public", "", false, false}, {"public", "somebody", false, false}, {"lab", "", true, false},
		{"public", owner.String(), false, true}, {"lab", "", false, true},
	} {
		a := artefact(t, program)
		a.Arch = "riscv64"
		w := want(t, a, nil, func(m *signed.Manifest) {
			m.Source = &signed.Source{Repo: "https://" + l.Addr().String() + "/x", Commit: object}
		})
		w.Network.Name, w.Hosted, w.AskedBy = c.network, c.hosted, owner
		s := newTestStore(t, lying(program), nil)
		s.cfg.Account = cellproto.PeerID(c.account)
		s.deps.Build = building(func(Job) error { return nil })
		before := came.Load()
		_, _, err := s.Add(t.Context(), w, func(string) {})
		if connects := came.Load() > before; err == nil || connects != c.connects {
			t.Errorf("%+v: it connects: %v; %v", c, connects, err)
		}
	}
}

func TestRecognise(t *testing.T) {
	for _, c := range []struct {
		files, build, command string
		tools                 Tools
	}{
		{"go.mod Makefile", "", "go build -trimpath -buildvcs=false -o bin/x .", Go},
		{"Cargo.toml", "", "cargo build --release --offline && mkdir -p bin && cp target/release/x bin/x", Cargo},
		{"Makefile", "", "make", NoTools},
		{"go.mod", "./build.sh", "./build.sh", Go},
		{"x", "./build.sh", "./build.sh", NoTools},
		{"flake.nix", "", "", NoTools},
		{"x", "", "", NoTools},
	} {
		dir := t.TempDir()
		for name := range strings.FieldsSeq(c.files) {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		r, err := recognise(root, ".", &signed.Source{Repo: "x", Build: c.build}, "bin/x")
		root.Close()
		if r.command != c.command || r.tools != c.tools || c.command == "" && cellproto.KindOf(err) != cellproto.Unsupported {
			t.Errorf("%s: %+v, %v", c.files, r, err)
		}
	}
}
