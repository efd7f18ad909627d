package celltoml

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

const minimal = "[cell]\nname = \"a\"\n"

func write(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, minimal+"binary = \"bin/a\"\n")
	t.Chdir(dir)
	c, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(c.Dir) || c.Path(c.Cell.Binary) != filepath.Join(c.Dir, "bin", "a") || c.Headless() || c.Path("") != "" {
		t.Errorf("dir %q, binary %q", c.Dir, c.Path(c.Cell.Binary))
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		kind cellproto.Kind
		want string
		hint string
	}{
		{"missing", func(*testing.T, string) {}, cellproto.NotFound, "no such file", "cellctl init NAME makes one"},
		{"symlink", func(t *testing.T, dir string) {
			other := t.TempDir()
			write(t, other, minimal)
			if err := os.Symlink(filepath.Join(other, FileName), filepath.Join(dir, FileName)); err != nil {
				t.Fatal(err)
			}
		}, cellproto.BadInput, "symbolic link", "copy"},
		{"directory", func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, FileName), 0o700); err != nil {
				t.Fatal(err)
			}
		}, cellproto.BadInput, "not a regular file", "text file"},
		{"pipe", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, FileName), 0o600); err != nil {
				t.Fatal(err)
			}
		}, cellproto.BadInput, "not a regular file", "text file"},
		{"large", func(t *testing.T, dir string) {
			write(t, dir, "")
			// Sparse: read whole, it would fill the memory of a small machine.
			if err := os.Truncate(filepath.Join(dir, FileName), 1<<40); err != nil {
				t.Fatal(err)
			}
		}, cellproto.TooLarge, "the limit is 65536", "another file"},
		{"faulty", func(t *testing.T, dir string) { write(t, dir, "[cell]\nnmae = 1\n") },
			cellproto.BadInput, "cell.toml:2: unknown key", "docs/cell-toml.md"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			cfg, err := Load(dir)
			if err == nil || cfg != nil {
				t.Fatalf("got %+v, %v", cfg, err)
			}
			if cellproto.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || !strings.Contains(cellproto.HintOf(err), c.hint) {
				t.Errorf("kind %v, hint %q: %v", cellproto.KindOf(err), cellproto.HintOf(err), err)
			}
			if !strings.Contains(err.Error(), filepath.Join(dir, FileName)) || strings.Count(err.Error(), dir) != 1 {
				t.Errorf("the error does not name the file once: %v", err)
			}
		})
	}
}

func TestLoadOfAFileAsDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, minimal)
	if _, err := Load(filepath.Join(dir, FileName)); cellproto.KindOf(err) != cellproto.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestFindUp(t *testing.T) {
	top := t.TempDir()
	cell := filepath.Join(top, "cell")
	deep := filepath.Join(cell, "src", "pkg")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, cell, minimal)
	// A directory of that name is not a cell.toml.
	if err := os.Mkdir(filepath.Join(deep, FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{deep, filepath.Dir(deep), cell} {
		if got, ok := FindUp(from); !ok || got != cell {
			t.Errorf("from %s: %q, %v", from, got, ok)
		}
	}
	t.Chdir(deep)
	if got, ok := FindUp("."); !ok || filepath.Base(got) != "cell" || !filepath.IsAbs(got) {
		t.Errorf("relative: %q, %v", got, ok)
	}
	if got, ok := FindUp(top); ok && strings.HasPrefix(got, top) {
		t.Errorf("above the cell: %q", got)
	}
}

func TestFindUpPassesOverAStrangersFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a file away")
	}
	dir := t.TempDir()
	write(t, dir, minimal)
	if err := os.Chown(filepath.Join(dir, FileName), 65534, 65534); err != nil {
		t.Skip(err)
	}
	if got, ok := FindUp(dir); ok && got == dir {
		t.Error("a file of another user counts")
	}
	if _, err := Load(dir); err != nil {
		t.Errorf("named explicitly it must load: %v", err)
	}
}

func TestApplyEnv(t *testing.T) {
	base := func() *Config {
		c := Default()
		c.Cell.Name = "a"
		return c
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		want func(*Network) // nil: an error
		err  string
	}{
		{"nothing", nil, func(*Network) {}, ""},
		{"all", map[string]string{
			"CELL_NETWORK": "lab", "CELL_LISTEN": "/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/0,",
			"CELL_BOOTSTRAP": "/ip4/192.0.2.1/tcp/4001", "CELL_MDNS": "off",
		}, func(n *Network) {
			*n = Network{Name: "lab", Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"}, Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001"}}
		}, ""},
		{"mdns on", map[string]string{"CELL_MDNS": "on"}, func(*Network) {}, ""},
		{"only commas", map[string]string{"CELL_LISTEN": ","}, func(n *Network) { n.Listen = []string{} }, ""},
		{"bad network", map[string]string{"CELL_NETWORK": "My Net"}, nil, `CELL_NETWORK is not a name: "My Net"`},
		{"bad listen", map[string]string{"CELL_LISTEN": "127.0.0.1:0"}, nil, `CELL_LISTEN is not a multiaddr: "127.0.0.1:0"`},
		{"bad bootstrap", map[string]string{"CELL_NETWORK": "lab", "CELL_BOOTSTRAP": "/ip4/192.0.2.1/tcp/1,x"}, nil, `CELL_BOOTSTRAP is not a multiaddr: "x"`},
		{"many", map[string]string{"CELL_LISTEN": strings.Repeat("/ip4/127.0.0.1/tcp/0,", 65)}, nil, "CELL_LISTEN has more than 64 entries"},
		{"bad mdns", map[string]string{"CELL_MDNS": "no"}, nil, `CELL_MDNS must be on or off, not "no"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, want := base(), base()
			err := got.ApplyEnv(func(k string) string { return c.env[k] })
			if c.want == nil {
				if err == nil || !strings.Contains(err.Error(), c.err) || cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == "" {
					t.Errorf("got %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				c.want(&want.Network)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}

	private := base()
	private.Network.Name, private.Network.PSK = "lab", "keys/psk"
	err := private.ApplyEnv(func(k string) string { return map[string]string{"CELL_NETWORK": "public"}[k] })
	if err == nil || !strings.Contains(err.Error(), "CELL_NETWORK puts a cell with a pre-shared key") || private.Network.Name != "lab" {
		t.Errorf("got %v, network %q", err, private.Network.Name)
	}
}
