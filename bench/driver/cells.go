package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// network is the private network of a section: a headless nucleus to bootstrap from, and what every
// other celld is told.
type network struct {
	b    *bench
	env  []string
	boot *cellDir
}

// cellDir is a cell whose nucleus runs.
type cellDir struct {
	dir string
	pr  *proc
}

func (c *cellDir) pid() int { return c.pr.cmd.Process.Pid }

func (c *cellDir) status(b *bench) (ctl.Status, error) {
	return (&ctl.Client{Dir: c.dir}).Status(b.ctx)
}

// network starts a private network under a name of its own.
func (b *bench) network(name string) (*network, error) {
	n := &network{b: b, env: []string{
		cellproto.EnvHome + "=" + filepath.Join(b.dir, name, "home"),
		cellproto.EnvNetwork + "=bench-" + name,
		cellproto.EnvListen + "=/ip4/127.0.0.1/tcp/0",
		cellproto.EnvMDNS + "=off",
	}}
	boot, err := n.cell("boot", "")
	if err != nil {
		return nil, err
	}
	st, err := boot.status(b)
	if err != nil {
		return nil, err
	}
	if len(st.Addrs) == 0 {
		return nil, fmt.Errorf("the bootstrap nucleus has no address")
	}
	n.boot, n.env = boot, append(n.env, cellproto.EnvBootstrap+"="+st.Addrs[0])
	return n, nil
}

func (n *network) path(name string) string {
	return filepath.Join(n.b.dir, strings.TrimPrefix(n.env[1], cellproto.EnvNetwork+"=bench-"), name)
}

// cell makes a cell and starts its nucleus. Without a program it is headless. extra goes to the end of
// its cell.toml.
func (n *network) cell(name, program string, extra ...string) (*cellDir, error) {
	dir := n.path(name)
	toml := fmt.Sprintf("[cell]\nname = %q\nversion = \"1.0.0\"\n", name)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
		return nil, err
	}
	if program != "" {
		toml += "binary = \"bin/program\"\n\n[resources]\nconcurrency = 256\n"
		if err := copyFile(filepath.Join(n.b.o.bin, program), filepath.Join(dir, "bin", "program")); err != nil {
			return nil, err
		}
	}
	toml += strings.Join(extra, "")
	if err := os.WriteFile(filepath.Join(dir, "cell.toml"), []byte(toml), 0o600); err != nil {
		return nil, err
	}
	return n.start(dir)
}

// start runs the nucleus of a directory and waits until it answers.
func (n *network) start(dir string) (*cellDir, error) {
	pr, err := n.b.procs.start(n.env, filepath.Join(n.b.o.bin, "celld"), dir)
	if err != nil {
		return nil, err
	}
	c := &cellDir{dir, pr}
	for end := time.Now().Add(readyTimeout); ; time.Sleep(20 * time.Millisecond) {
		if _, err = c.status(n.b); err == nil {
			return c, nil
		}
		if time.Now().After(end) || n.b.ctx.Err() != nil {
			return nil, fmt.Errorf("celld %s is not ready: %w: %s", dir, err, pr.lastWords())
		}
	}
}

// copy makes another provider of a published cell: the same directory with a host key of its own.
func (n *network) copy(from *cellDir, name string) (*cellDir, error) {
	dir := n.path(name)
	err := filepath.WalkDir(from.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from.dir, path)
		if err != nil {
			return err
		}
		switch {
		case rel == "run" || rel == "keys" || rel == "log" || rel == filepath.Join("cache", "dht"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		return copyFile(path, filepath.Join(dir, rel))
	})
	if err != nil {
		return nil, err
	}
	return n.start(dir)
}

// publish publishes a cell and gives its CID.
func (n *network) publish(c *cellDir) (string, error) {
	out, err := n.cellctl(c.dir, "publish", "--json", c.dir)
	if err != nil {
		return "", err
	}
	var p struct{ CID string }
	if err := json.Unmarshal(out, &p); err != nil {
		return "", fmt.Errorf("publish printed %q: %w", out, err)
	}
	return p.CID, nil
}

// cellctl runs cellctl in a directory and gives what it prints.
func (n *network) cellctl(dir string, args ...string) ([]byte, error) {
	cmd := n.command(dir, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cellctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

func (n *network) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(n.b.ctx, filepath.Join(n.b.o.bin, "cellctl"), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), n.env...)
	return cmd
}

// awaitProviders waits until the bootstrap nucleus finds so many providers of each CID.
func (n *network) awaitProviders(want int, cids ...string) error {
	for end := time.Now().Add(2 * time.Minute); len(cids) > 0; {
		out, err := n.cellctl(n.boot.dir, "find", "--json", cids[0])
		var rows []json.RawMessage
		if err == nil && json.Unmarshal(out, &rows) == nil && len(rows) >= want {
			cids = cids[1:]
			continue
		}
		if time.Now().After(end) || n.b.ctx.Err() != nil {
			return fmt.Errorf("%d of %d providers of %s are found: %w", len(rows), want, cids[0], err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

// sleep stops a cell's program by the way of its nucleus: it is started anew and so has none yet.
func (n *network) sleep(c *cellDir) error {
	c.pr.stop()
	again, err := n.start(c.dir)
	if err != nil {
		return err
	}
	c.pr = again.pr
	return nil
}
