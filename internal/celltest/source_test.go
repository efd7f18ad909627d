package celltest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
)

// Republish changes what was published last, as its owner could have on another machine, and has the cell serve
// that from its next start. It gives the CID.
func (c *Cell) Republish(published ctl.Published, edit func(*signed.Manifest)) string {
	c.t.Helper()
	fail := func(err error) {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	id, err := cid.Decode(published.CID)
	fail(err)
	block, err := os.ReadFile(filepath.Join(c.Dir, "published", id.String()+".cbor"))
	fail(err)
	m, err := signed.OpenManifest(id, block)
	fail(err)
	raw, err := os.ReadFile(filepath.Join(c.n.root, "home", "keys", "account.key"))
	fail(err)
	key, err := crypto.UnmarshalPrivateKey(raw)
	fail(err)
	edit(m)
	block, id, err = signed.SealManifest(*m, key)
	fail(err)
	c.write("published/"+id.String()+".cbor", string(block), 0o644)
	c.write("published/latest", id.String()+"\n", 0o644)
	if schema, err := os.ReadFile(filepath.Join(c.Dir, "published", published.CID+".schema.json")); err == nil {
		c.write("published/"+id.String()+".schema.json", string(schema), 0o644)
	}
	return id.String()
}

// sourceOnly publishes a repository's cell for another platform than this one: whoever wants a copy has to build
// it. It gives the CID.
func (n *Net) sourceOnly(r repository) (*Cell, string) {
	n.t.Helper()
	toml, err := os.ReadFile(filepath.Join(r.dir, "cell.toml"))
	if err != nil {
		n.t.Fatal(err)
	}
	name := filepath.Base(r.dir)
	c := n.At(filepath.Join("providers", name))
	c.write("cell.toml", string(toml)+"\n[artefact]\ntype = \"source\"\nrepo = \"file://"+r.dir+"\"\nref = \"main\"\n", 0o644)
	for _, f := range []string{"greet.sh", "schema.json"} {
		c.copyFile(filepath.Join(r.dir, f), f, 0o644)
	}
	c.copyFile(filepath.Join(r.dir, "greet.sh"), "bin/greet", 0o755) // what runs at the provider is not what is built
	c.Start()
	published := c.Publish()
	c.Stop()
	id := c.Republish(published, func(m *signed.Manifest) {
		m.Artefacts[0].Arch = "riscv64"
		m.Source.Commit = r.git("rev-parse", "HEAD")
	})
	c.Start()
	if s := c.Status(); s.CID != id {
		n.t.Fatalf("it serves %s, not %s", s.CID, id)
	}
	return c, id
}

// put puts a file into a repository, or removes it if there is no text.
func (r repository) put(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	err := os.Remove(path)
	if text != "" {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

const rustGreet = `use std::io::{self, BufRead, Write};
fn main() {
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let id: String = line.chars().skip_while(|c| *c != ':').skip(1).take_while(|c| c.is_ascii_digit()).collect();
        println!("{{\"id\":{},\"reply\":\"built\"}}", id);
        io::stdout().flush().unwrap();
    }
}
`

const goGreet = `package main

import (
	"bufio"
	"os"
	"strings"
)

func main() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		_, id, _ := strings.Cut(in.Text(), ":")
		id, _, _ = strings.Cut(id, ",")
		os.Stdout.WriteString("{\"id\":" + id + ",\"reply\":\"built\"}\n")
	}
}
`

// buildTime is what a nucleus grants to a build (five minutes), and a minute for what is around it. The compiler's
// packages are built anew there: on a busy machine that takes longer than Patience.
const buildTime = 6 * time.Minute

// A cell that has no program for this machine is mirrored by building its source at the pinned commit, however it
// says that it is built; where that cannot be, there is a reason, and the calls go on to the provider.
func TestMirrorFromSource(t *testing.T) {
	t.Parallel()
	const noBuild = `build = "mkdir -p bin && cp greet.sh bin/.new && chmod 755 bin/.new && mv bin/.new bin/greet"`
	const script = "sed s/Hello,.*!/built/ greet.sh > bin/greet && chmod 755 bin/greet"
	cargo, _ := exec.Command("rustc", "--print", "sysroot").Output()
	for _, c := range []struct {
		name string
		edit func(r repository)
		says string // why not; "": it is built
		skip string
	}{
		{name: "the build key", edit: func(r repository) { r.Edit("cell.toml", noBuild, `build = "`+script+`"`) }},
		{name: "Makefile", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, "")
			r.put("Makefile", "all:\n\t"+script+"\n")
		}},
		{name: "Cargo.toml", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, "")
			r.put("Cargo.toml", "[package]\nname = \"greet\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
			r.put("Cargo.lock", "version = 3\n[[package]]\nname = \"greet\"\nversion = \"0.1.0\"\n")
			r.put("src/main.rs", rustGreet)
		}, skip: map[bool]string{true: "there is no cargo"}[len(cargo) == 0]},
		{name: "go.mod", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, "")
			r.put("go.mod", "module x\n")
			r.put("main.go", goGreet)
		}, skip: map[bool]string{true: "it compiles a part of the standard library: set CELL_LONG=1"}[os.Getenv("CELL_LONG") == ""]},
		{name: "flake.nix", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, "")
			r.put("flake.nix", "{}")
		}, says: "a flake cannot be built"},
		{name: "nothing", edit: func(r repository) { r.Edit("cell.toml", noBuild, "") }, says: "nothing says how"},
		{name: "a build that needs the network", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, `build = "exec 3<>/dev/tcp/127.0.0.1/1 || { echo no network >&2; exit 7; }"`)
		}, says: "ended with status"},
		{name: "a build that reads the home", edit: func(r repository) {
			r.Edit("cell.toml", noBuild, `build = "cat $HOME/home/keys/account.key > bin/greet"`)
		}, says: "ended with status"},
		{name: "a link out of the tree", edit: func(r repository) {
			if err := os.Symlink("../../../../../etc/passwd", filepath.Join(r.dir, "passwd")); err != nil {
				r.t.Fatal(err)
			}
		}, says: "a link that leads outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.skip != "" {
				t.Skip(c.skip)
			}
			n := New(t)
			n.rustup()
			n.Bootstrap()
			r := n.Repository("greet")
			c.edit(r)
			r.Commit()
			a, id := n.sourceOnly(r)
			caller := n.Headless("caller")
			caller.Start()
			caller.AwaitProviders(id, 1)
			added := n.ctlWithin(buildTime, nil, caller.Dir, "mirror", "add", id)
			if c.says != "" {
				if added.Code == 0 || !strings.Contains(added.Stderr, c.says) {
					t.Errorf("exit code %d\n%s", added.Code, added.Stderr)
				}
				n.nothingLeft(t)
				if got := caller.Must("use", id, "greet", "Ann"); got != `"Hello, Ann!"` {
					t.Errorf("the provider says %s", got)
				}
				return
			}
			if added.Code != 0 {
				t.Fatalf("exit code %d\n%s", added.Code, added.Stderr)
			}
			mirror := n.At(strings.TrimSuffix(added.Stdout, "\n"))
			a.Kill()
			if got := caller.Must("use", id, "greet", "Ann"); got != `"built"` {
				t.Errorf("it says %s", got)
			}
			row := n.mirrors(t, 1)[0]
			if row.Source != "file://"+r.dir+"@"+r.git("rev-parse", "HEAD") || row.CID != id || row.Public {
				t.Errorf("%+v", row)
			}
			if s := mirror.Status(); !strings.HasPrefix(s.SandboxTier, "T") || s.CID != id || len(s.Addrs) != 0 {
				t.Errorf("its status is %+v", s)
			}
			// Announced it serves others, who know by its advert what it was built from.
			caller.Must("mirror", "add", id, "--public")
			other := n.Machine().Headless("other")
			other.Start()
			other.AwaitProviders(id, 1)
			reply, meta, err := other.Use(t.Context(), id, "greet", "Ann")
			if err != nil || string(reply) != `"built"` || meta.Provider != mirror.Status().PeerID {
				t.Errorf("others get %s from %s: %v", reply, meta.Provider, err)
			}
		})
	}
}

// rustup has a toolchain of the user who runs the tests found.
func (n *Net) rustup() {
	if home, err := os.UserHomeDir(); err == nil && os.Getenv("RUSTUP_HOME") == "" {
		n.env = append(n.env, "RUSTUP_HOME="+filepath.Join(home, ".rustup"), "CARGO_HOME="+filepath.Join(home, ".cargo"))
	}
}

// nothingLeft checks that no mirror is there, and nothing of one but what a fetch has.
func (n *Net) nothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.root, "foreign"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s was left", e.Name())
		}
		if e.Name() == ".new" || e.Name() == ".gone" {
			if left, err := os.ReadDir(filepath.Join(n.root, "foreign", e.Name())); err != nil || len(left) > 0 {
				t.Errorf("%v was left in %s: %v", left, e.Name(), err)
			}
		}
	}
}

// addMirror makes a mirror through the cell's nucleus, which says what it does.
func (c *Cell) addMirror(id string, progress func(string)) (ctl.MirrorRow, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*Patience)
	defer cancel()
	return (&ctl.Client{Dir: c.Dir, Progress: progress}).AddMirror(ctx, id, false)
}

// A nucleus that is killed in the middle of a copy leaves nothing that could be taken for one, and the next attempt
// goes on with what had come.
func TestKilledWhileCopying(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	a := n.Example("calculator")
	program := filepath.Join(a.Dir, "bin", "calculator")
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 128<<20) // behind its end: no loader looks at it
	for i := range large {
		large[i] = byte(i >> 16 * 31)
	}
	if err := os.WriteFile(program, append(data, large...), 0o755); err != nil {
		t.Fatal(err)
	}
	a.Start()
	id := a.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(id, 1)
	add := func(killAt string) (first string, err error) {
		var once sync.Once
		_, err = caller.addMirror(id, func(text string) {
			if _, percent, ok := strings.Cut(text, "fetching the program, "); ok && strings.Contains(percent, " %") {
				if first == "" {
					first = percent
				}
				if killAt != "" && strings.HasPrefix(percent, killAt) {
					once.Do(caller.Kill)
				}
			}
		})
		return first, err
	}
	if first, err := add("30 %"); err == nil || caller.proc != nil {
		t.Fatalf("it was not killed in the middle: first %s, %v", first, err)
	}
	n.nothingLeft(t)
	n.mirrors(t, 0)
	caller.Start()
	if got := caller.Must("use", id, "add", "3", "4"); got != "7" {
		t.Errorf("the provider says %s", got)
	}
	first, err := add("")
	if err != nil || strings.HasPrefix(first, "10 %") || first == "" {
		t.Errorf("the second attempt began with %s: %v", first, err)
	}
	mirror := n.At(n.mirrors(t, 1)[0].Dir)
	a.Kill()
	if got := caller.Must("use", id, "add", "3", "4"); got != "7" {
		t.Errorf("the copy says %s", got)
	}
	if s := mirror.Status(); s.CID != id {
		t.Errorf("%+v", s)
	}
	if left, err := os.ReadDir(filepath.Join(n.root, "foreign", ".fetch")); err != nil || len(left) > 0 {
		t.Errorf("%v was left: %v", left, err)
	}
}

// Killed in the middle of a build, it leaves no process of it, and cellctl gc sweeps the rest.
func TestKilledWhileBuilding(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	r := n.Repository("greet")
	r.Edit("cell.toml", "mkdir -p bin", "sleep 3217 ; mkdir -p bin")
	r.Commit()
	_, id := n.sourceOnly(r)
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(id, 1)
	sleeps := func() bool {
		out, _ := exec.Command("pgrep", "-f", "^sleep 3217").Output()
		return len(out) > 0
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := caller.addMirror(id, nil); err == nil {
			t.Error("it was made")
		}
	})
	Eventually(t, "it is being built", sleeps)
	caller.Kill()
	wait.Wait()
	Eventually(t, "the build has ended", func() bool { return !sleeps() })
	caller.Start()
	Eventually(t, "what is left of it is swept", func() bool {
		rest, err := filepath.Glob(filepath.Join(n.root, "foreign", ".new", "*"))
		return err == nil && len(rest) == 0
	})
	n.mirrors(t, 0)
	var rows []ctl.MirrorRow
	if err := json.Unmarshal([]byte(n.Must(n.root, "gc", "--json")), &rows); err != nil || len(rows) > 0 {
		t.Errorf("%+v: %v", rows, err)
	}
	n.nothingLeft(t)
}
