package celltest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
)

// Whatever is wrong with what is to be copied, not one call notices: the provider serves them all meanwhile, the
// log has a reason, and nothing is left half done.
func TestBadCopyCostsNoCall(t *testing.T) {
	t.Parallel()
	// twin has the manifest name another program for this machine than the one that the provider runs, which it
	// names for a machine that nobody has.
	twin := func(change func(a *signed.Artefact)) func(*signed.Manifest) {
		return func(m *signed.Manifest) {
			bad := m.Artefacts[0]
			m.Artefacts[0].Arch = "riscv64"
			change(&bad)
			m.Artefacts = append(m.Artefacts, bad)
		}
	}
	other := cid.MustParse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
	for _, c := range []struct {
		name string
		edit func(*signed.Manifest)
		disk bool // that of the mirrors is small
		says string
	}{
		{name: "another hash", edit: twin(func(a *signed.Artefact) { a.BLAKE3[0] ^= 1 }), says: "name different files"},
		{name: "another size", edit: twin(func(a *signed.Artefact) { a.Size += 4096 }), says: "bytes"},
		{name: "bytes that nobody has", edit: twin(func(a *signed.Artefact) { a.CID, a.BLAKE3[0] = signed.Link{Cid: other}, a.BLAKE3[0]^1 }), says: "no such artefact is here"},
		{name: "no program for this machine", edit: func(m *signed.Manifest) { m.Artefacts[0].Arch = "riscv64" }, says: "there is no program for"},
		{name: "a full disk", disk: true, says: "no space left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			if c.disk {
				smallDisk(t, filepath.Join(n.root, "foreign"), "1m")
			}
			n.Bootstrap()
			a := n.Example("calculator")
			a.Start()
			published := a.Publish()
			id := published.CID
			if c.edit != nil {
				a.Stop()
				id = a.Republish(published, c.edit)
				a.Start()
			}
			caller := n.Headless("caller")
			caller.write(".cell-cache/slo.json", `{"max_p99_ms": 5, "clone_on_violation": true}`, 0o600)
			caller.Start()
			caller.AwaitProviders(id, 1)
			calls := 0
			Eventually(t, "a copy was tried", func() bool {
				reply, meta, err := caller.Use(t.Context(), id, "slow", "40")
				if err != nil || string(reply) != "40" || meta.Source == "mirror" {
					t.Fatalf("call %d: %s by %s: %v", calls, reply, meta.Source, err)
				}
				calls++
				return strings.Contains(caller.Log(), noCopy)
			})
			for _, line := range strings.Split(caller.Log(), "\n") {
				if strings.Contains(line, noCopy) && !strings.Contains(strings.ToLower(line), c.says) {
					t.Errorf("the reason is %s", line)
				}
			}
			for range 5 {
				if reply, meta, err := caller.Use(t.Context(), id, "slow", "40"); err != nil || string(reply) != "40" || meta.Source == "mirror" {
					t.Errorf("afterwards: %s by %s: %v", reply, meta.Source, err)
				}
			}
			n.mirrors(t, 0)
			n.nothingLeft(t)
		})
	}
}

// noCopy is what the log says of a copy that could not be made.
const noCopy = "no copy was made"

// smallDisk mounts a disk of so many bytes, as mount has them.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// Two nuclei that make the same mirror at once have it both, and there is one.
func TestMirroredTwiceAtOnce(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("calculator")
	var wait sync.WaitGroup
	dirs := make([]string, 3)
	for i := range dirs {
		c := n.Headless("caller")
		c.Start()
		c.AwaitProviders(published.CID, 1)
		wait.Go(func() {
			row, err := c.addMirror(published.CID, nil)
			if err != nil || row.State != ctl.Running {
				t.Errorf("%+v: %v", row, err)
			}
			dirs[i] = row.Dir
		})
	}
	wait.Wait()
	mirror := n.At(n.mirrors(t, 1)[0].Dir)
	for _, dir := range dirs {
		if dir != mirror.Dir {
			t.Errorf("one is in %s, another in %s", mirror.Dir, dir)
		}
	}
	a.Kill()
	if got := n.Must(n.root, "use", published.CID, "add", "3", "4"); got != "7" {
		t.Errorf("%s", got)
	}
}
