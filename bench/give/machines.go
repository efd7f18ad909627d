package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// patience is how long any step may take that is not measured.
const patience = 2 * time.Minute

// machine is one of a network of machines, with a home cell of its own.
type machine struct {
	o         options
	dir       string
	bootstrap string
	site
}

// site is where in the network a machine is.
type site struct {
	listen string                // multiaddr
	start  func(*exec.Cmd) error // starts a process there
}

// loopback is where all machines are between which distance does not matter.
var loopback = site{"/ip4/127.0.0.1/tcp/0", (*exec.Cmd).Start}

func (o options) machine(name, bootstrap string, at site) (*machine, error) {
	m := &machine{o, filepath.Join(o.work, o.phase, name), bootstrap, at}
	return m, os.MkdirAll(m.dir, 0o755)
}

func (m *machine) home() string { return filepath.Join(m.dir, "home") }

// ctl runs cellctl and gives what it prints.
func (m *machine) ctl(args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(m.o.bin, "cellctl"), args...)
	cmd.Env = append(os.Environ(), "CELL_HOME="+m.home(), "CELL_NETWORK=give-bench", "CELL_LISTEN="+m.listen, "CELL_MDNS=off",
		"CELL_BOOTSTRAP="+m.bootstrap, "PATH="+m.o.bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Dir = m.dir
	return m.output(cmd)
}

// output runs a command on the machine and gives what it prints.
func (m *machine) output(cmd *exec.Cmd) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := m.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, errs.String())
	}
	return out.Bytes(), err
}

// ask is ctl for what --json prints.
func ask[T any](m *machine, args ...string) (v T, err error) {
	out, err := m.ctl(append(args, "--json")...)
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	return v, err
}

// stop stops the home cell, with all that it hosts, and the cells in dirs.
func (m *machine) stop(dirs ...string) {
	hosted, _ := filepath.Glob(filepath.Join(m.dir, "foreign", "[^.]*")) // the pattern is good
	for _, dir := range append(append(dirs, m.home()), hosted...) {
		_, _ = m.ctl("stop", dir) // it may not run
	}
}

// provider has a stranger publish a cell that wants everything, and gives its directory and what it is offered as.
func (o options) provider(at site) (m *machine, dir, addr string, what offer.Offer, err error) {
	if m, err = o.machine("stranger", "", at); err != nil {
		return
	}
	dir = filepath.Join(m.dir, "hungry")
	err = os.MkdirAll(filepath.Join(dir, "bin"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cell.toml"), []byte(
			"[cell]\nname = \"hungry\"\nversion = \"1.0.0\"\nbinary = \"bin/hungry\"\n[resources]\nmemory = \"128MiB\"\n"), 0o644)
	}
	if err == nil {
		err = os.Link(filepath.Join(filepath.Dir(o.self), "hungry"), filepath.Join(dir, "bin", "hungry"))
	}
	if err == nil {
		_, err = m.ctl("start", dir)
	}
	if err != nil {
		return
	}
	published, err := ask[ctl.Published](m, "publish", dir)
	if err != nil {
		return
	}
	status, err := ask[ctl.Status](m, "status", dir)
	if err != nil {
		return
	}
	addr = status.Addrs[0]
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return
	}
	what.Providers = []peer.AddrInfo{*info}
	if what.Cell, err = cid.Decode(published.CID); err != nil {
		return
	}
	what.Block, err = os.ReadFile(filepath.Join(dir, "published", published.CID+".cbor"))
	return
}

// pair is a stranger who has published a cell that wants everything, and the machine of an owner that could host it.
type pair struct {
	cell  string // its directory
	addr  string // of its daemon
	what  offer.Offer
	donor *machine
	stop  func() // stops all of both
}

func (o options) pair(strangers, owners site) (pair, error) {
	stranger, cell, addr, what, err := o.provider(strangers)
	if err != nil {
		return pair{}, err
	}
	donor, err := o.machine("owner", addr, owners)
	if err != nil {
		stranger.stop(cell)
		return pair{}, err
	}
	return pair{cell, addr, what, donor, func() { donor.stop(); stranger.stop(cell) }}, nil
}

// give has a machine give as its owner would, and waits until it does.
func (m *machine) give() error {
	if _, err := m.ctl("give", "--busy", m.o.busy); err != nil {
		return err
	}
	return m.until("it gives", func(g ctl.Giving) bool { return g.Running })
}

// until waits until the giving is so.
func (m *machine) until(what string, ok func(ctl.Giving) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	var last ctl.Giving
	for {
		g, err := (&ctl.Client{Dir: m.home()}).GiveStatus(ctx)
		if err == nil && ok(g) {
			return nil
		}
		if err == nil {
			last = g
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("still not: %s: running %v, why %q, used %+v, hosted %+v, sensors %+v, looked at %v",
				what, last.Running, last.Why, last.Used, last.Hosted, last.Sensors, last.Looked)
		}
	}
}

// place has a stranger offer a cell to a machine, from beside it, and gives the directory of the mirror that hosts it.
func (m *machine) place(what offer.Offer) (dir string, err error) {
	status, err := ask[ctl.Status](m, "status", m.home())
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(what)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(m.o.self, "place", m.listen, status.Addrs[0])
	cmd.Stdin = bytes.NewReader(text)
	if _, err := m.output(cmd); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, err := (&ctl.Client{Dir: m.home()}).GiveStatus(ctx)
	if err == nil && len(g.Hosted) != 1 {
		err = errors.New("it is not hosted")
	}
	if err != nil {
		return "", err
	}
	return g.Hosted[0].Dir, nil
}

// place is a stranger who listens at args[0] and offers the cell on the standard input to the donor at args[1].
func place(args []string) {
	if err := offerTo(args[0], args[1], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "give, place:", err)
		os.Exit(1)
	}
}

func offerTo(listen, addr string, in io.Reader) error {
	var what offer.Offer
	if err := json.NewDecoder(in).Decode(&what); err != nil {
		return err
	}
	donor, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return err
	}
	h, err := libp2p.New(libp2p.ListenAddrStrings(listen), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(context.Background(), "bench"), patience)
	defer cancel()
	talk, err := offer.Ask(ctx, h, *donor, what)
	if err != nil {
		return err
	}
	defer talk.Close()
	if talk.Refusal != nil {
		return talk.Refusal
	}
	_, err = talk.Take(ctx, func(string) {})
	return err
}

// use calls a function of a cell through the nucleus in dir, and gives who has answered.
func use(ctx context.Context, dir, target, fn string, ms int) (provider string, err error) {
	req := ctl.UseRequest{Target: target, Func: fn, Argv: []string{fmt.Sprint(ms)}, Timeout: patience, CallerDir: dir}
	reply, err := (&ctl.Client{Dir: dir}).Use(ctx, req, nil)
	if err != nil {
		return "", err
	}
	defer reply.Close()
	_, err = io.Copy(io.Discard, reply)
	return reply.Provider, err
}

// feed keeps the program of the mirror in dir at its meal until stop is called. While it is paused it is asked again
// and again.
func feed(dir string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := use(ctx, dir, "", "eat", 3000); err == nil { // longer than calls may go on when it is paused
				continue
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-ended }
}
