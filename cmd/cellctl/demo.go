package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// demoTimeout bounds the whole demonstration; half a minute more is for its end.
const demoTimeout = 2 * time.Minute

func (a *app) demoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Publish a cell and use it by its CID, with real processes on this machine",
		Long: "Makes two providers of a small cell, a nucleus without a program by which they meet, and a caller that knows\n" +
			"nothing but the CID; has the caller find, race and call the providers, stops the one that wins, and calls again.\n" +
			"All of it is in a directory and a network of its own on loopback, which are gone afterwards.",
		Args: args(0, 0),
	}
	timeout := timeoutFlag(cmd, demoTimeout)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		d, err := a.newDemo()
		if err != nil {
			return err
		}
		defer d.end()
		shown, err := d.run(ctx)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(shown)
		}
		return a.print(fmt.Appendf(nil, "%s was answered by %s, and by %s when that one was stopped.\n", shown.CID, shown.First, shown.Second))
	}
	return cmd
}

// demoShown is what the command prints. Its JSON fields are a promise.
type demoShown struct {
	CID    string `json:"cid"`
	Reply  string `json:"reply"`
	First  string `json:"first"`  // peer that answered
	Second string `json:"second"` // the other one, which answered when the first was stopped
}

// demo runs this very program, as a person would.
type demo struct {
	a       *app
	self    string
	dir     string
	env     []string
	started []string // directories of cells, the last one first
}

func (a *app) newDemo() (*demo, error) {
	const op = "demo"
	self, err := os.Executable()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	dir, err := os.MkdirTemp("", "cellctl-demo-")
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	d := &demo{a: a, self: self, dir: dir}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CELL_") {
			d.env = append(d.env, v)
		}
	}
	d.env = append(d.env, cellproto.EnvNetwork+"="+filepath.Base(dir), cellproto.EnvListen+"=/ip4/127.0.0.1/tcp/0",
		cellproto.EnvMDNS+"=off", cellproto.EnvHome+"="+filepath.Join(dir, "home"))
	d.started = []string{"home"} // by the first that needs it
	return d, nil
}

// end stops what was started, the last one first, and removes the directory.
func (d *demo) end() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, name := range d.started {
		if _, err := os.Stat(filepath.Join(d.dir, name, ctl.RunDir)); err == nil {
			_, _ = d.a.stop(ctx, filepath.Join(d.dir, name)) // it ends with its directory at the latest
		}
	}
	os.RemoveAll(d.dir) //nolint:errcheck // it is below the system's directory for such
}

func (d *demo) say(text string) { fmt.Fprintf(d.a.errOut, "\n%s\n", text) }

// ctl runs cellctl in the demo's directory, shows the command and what it prints, and gives that.
func (d *demo) ctl(ctx context.Context, args ...string) (string, error) {
	fmt.Fprintf(d.a.errOut, "    $ cellctl %s\n", strings.Join(args, " "))
	out, err := d.quietly(ctx, args...)
	for line := range strings.Lines(out) {
		fmt.Fprintf(d.a.errOut, "      %s", safe(strings.TrimSuffix(line, "\n"))+"\n")
	}
	return strings.TrimSpace(out), err
}

func (d *demo) quietly(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, d.self, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.dir, d.env, &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.String(), cellproto.Errorf("demo", cellproto.KindOf(err), "cellctl %s: %w: %s", args[0], err, lastOf(errs.String())).
			WithHint("cellctl doctor")
	}
	return out.String(), nil
}

// lastOf gives the last line that says what is wrong, for an error.
func lastOf(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return safe(lines[len(lines)-1])
}

func (d *demo) start(ctx context.Context, name string) (status ctl.Status, err error) {
	d.started = append([]string{name}, d.started...)
	if _, err = d.ctl(ctx, "start", name); err != nil {
		return status, err
	}
	return status, d.json(ctx, &status, "status", name)
}

func (d *demo) json(ctx context.Context, v any, args ...string) error {
	out, err := d.quietly(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return cellproto.Errorf("demo", cellproto.Corrupt, "cellctl %s: %w", args[0], err)
	}
	return nil
}

func (d *demo) run(ctx context.Context) (shown demoShown, err error) {
	d.say("A nucleus without a program, as a home router runs it: the first peer of the network.")
	if err := d.write("router/cell.toml", "[cell]\nname = \"router\"\n"); err != nil {
		return shown, err
	}
	router, err := d.start(ctx, "router")
	if err != nil {
		return shown, err
	}
	d.env = append(d.env, cellproto.EnvBootstrap+"="+strings.Join(router.Addrs, ","))
	one, two, cid, err := d.provide(ctx)
	if err != nil {
		return shown, err
	}
	d.say("The caller: somebody else, who knows the CID and an address of the network, and nothing more.")
	d.env = append(d.env, cellproto.EnvHome+"="+filepath.Join(d.dir, "caller"))
	d.started = append([]string{"caller"}, d.started...)
	if err := d.awaitBoth(ctx, cid); err != nil {
		return shown, err
	}
	for _, args := range [][]string{{"find", cid}, {"race", cid}, {"use", cid, "greet", "World"}} {
		if _, err := d.ctl(ctx, args...); err != nil {
			return shown, err
		}
	}
	if shown, err = d.call(ctx, cid); err != nil {
		return shown, err
	}
	d.say("Who answers is stopped. The next call goes to the other one.")
	stop := map[string]string{one: "one", two: "two"}[shown.First]
	if stop == "" {
		return shown, cellproto.Errorf("demo", cellproto.Failed, "%s has answered, who provides nothing", safe(shown.First))
	}
	if _, err := d.ctl(ctx, "stop", stop); err != nil {
		return shown, err
	}
	if _, err := d.ctl(ctx, "use", cid, "greet", "World"); err != nil {
		return shown, err
	}
	again, err := d.call(ctx, cid)
	if err == nil && again.First == shown.First {
		err = cellproto.Errorf("demo", cellproto.Failed, "who was stopped has answered")
	}
	shown.Second = again.First
	return shown, err
}

// provide makes and starts two providers of one cell, and gives their peer IDs and its CID.
func (d *demo) provide(ctx context.Context) (one, two, cid string, err error) {
	d.say("The first provider: a shell script that greets. It is published.")
	for _, args := range [][]string{{"init", "--lang", "sh", "one"}, {"build", "one"}} {
		if _, err := d.ctl(ctx, args...); err != nil {
			return "", "", "", err
		}
	}
	first, err := d.start(ctx, "one")
	if err != nil {
		return "", "", "", err
	}
	out, err := d.ctl(ctx, "publish", "one")
	if err != nil {
		return "", "", "", err
	}
	cid, _, _ = strings.Cut(out, "\n")
	d.say("The second one: a copy of its directory without keys/host.key. The same cell, another peer.")
	if err := d.copy("one", "two"); err != nil {
		return "", "", "", cellproto.Errorf("demo", cellproto.KindOf(err), "cannot copy the cell: %w", err)
	}
	second, err := d.start(ctx, "two")
	return first.PeerID, second.PeerID, cid, err
}

// call makes a call and gives what came of it.
func (d *demo) call(ctx context.Context, cid string) (demoShown, error) {
	var r struct{ Reply, Provider string }
	err := d.json(ctx, &r, "use", cid, "greet", "World")
	return demoShown{CID: cid, Reply: r.Reply, First: r.Provider}, err
}

// awaitBoth waits until the caller finds both providers: they have only just announced themselves.
func (d *demo) awaitBoth(ctx context.Context, cid string) error {
	for {
		var found []ctl.FindRow
		if err := d.json(ctx, &found, "find", cid); err == nil && len(found) == 2 {
			return nil
		}
		select {
		case <-time.After(pollPeriod):
		case <-ctx.Done():
			return cellproto.Errorf("demo", cellproto.KindOf(ctx.Err()), "the caller does not find both providers")
		}
	}
}

func (d *demo) write(name, text string) error {
	path := filepath.Join(d.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		return cellproto.Errorf("demo", cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// copy copies a cell as it is carried to another machine: without its host key, and what belongs to the one that runs.
func (d *demo) copy(from, to string) error {
	src := filepath.Join(d.dir, from)
	return filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(src, path)
		if err != nil || rerr != nil {
			return err
		}
		target := filepath.Join(d.dir, to, rel)
		switch {
		case rel == ctl.RunDir || rel == "log" || rel == "cache":
			return filepath.SkipDir
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case !e.Type().IsRegular() || rel == filepath.Join("keys", "host.key"):
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}
