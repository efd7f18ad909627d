package celltest

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
)

// emptyHanded checks that a donor hosts nothing, and that nothing is left of what it has tried.
func (n *Net) emptyHanded(t *testing.T) {
	t.Helper()
	n.hosted(0, "")
	n.mirrors(t, 0)
	n.nothingLeft(t)
	if left, err := os.ReadDir(filepath.Join(n.root, "foreign", ".fetch")); err != nil || len(left) > 0 {
		t.Errorf("what it has fetched was left: %v, %v", left, err)
	}
}

// fill writes to a disk until it is full. What it gives makes room again.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path, some := filepath.Join(dir, "filler"), make([]byte, 4<<10)
	f, err := os.Create(path)
	for err == nil {
		_, err = f.Write(some)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
			t.Fatal(err)
		}
	}
}

// The disk of a donor becomes full while it fetches: the caller is told, gets its copy elsewhere, and misses no answer; the
// donor keeps nothing, and takes the cell up when there is room again. One that has no room to begin with says so.
func TestFullDonor(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("calculator")
	donor := n.Machine()
	smallDisk(t, donor.root, "64m")
	donor.At("home") // is stopped before its disk is taken away
	donor.give("--disk", "1MB/s")
	caller := n.wanting("caller")
	_, stop := caller.load(published.CID)
	t.Cleanup(func() { stop() })
	Eventually(t, "the donor has a part of it", func() bool {
		parts, _ := filepath.Glob(filepath.Join(donor.root, "foreign", ".fetch", "*")) // of a good pattern
		return slices.ContainsFunc(parts, func(part string) bool {
			info, err := os.Stat(part)
			return err == nil && info.Size() > 0
		})
	})
	free := fill(t, donor.root)
	Eventually(t, "there is a copy here", func() bool { return caller.placement(published.CID).State == ctl.PlacementHere })
	t.Logf("%d calls", stop())
	caller.n.Must(caller.n.root, "mirror", "rm", published.CID)
	donor.emptyHanded(t)
	for who, log := range map[string]string{"caller": caller.Log(), "donor": donor.home.Log()} {
		if !strings.Contains(log, "no space left on device") {
			t.Errorf("the log of the %s does not say why", who)
		}
	}

	o := provider.offerOf(published.CID)
	if r := newStranger(t).ask(t, donor, o).Refusal; r == nil || r.RetryAfter == 0 || !strings.Contains(r.Error(), "no room on the disk") {
		t.Errorf("while it is full it says %v", r)
	}
	free()
	talk := newStranger(t).ask(t, donor, o)
	if talk.Refusal != nil {
		t.Fatalf("with room again it says %v", talk.Refusal)
	}
	if _, err := talk.Take(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	if reply, _, err := mirror.Use(t.Context(), "", "add", "3", "4"); err != nil || string(reply) != "7" {
		t.Errorf("it answers %s, %v", reply, err)
	}
	donor.Must(donor.root, "give", "stop")
	donor.emptyHanded(t)
}

// The room that counts is that of the disk to which a copy comes.
func TestRoomWhereCopiesAre(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("calculator")
	donor := n.Machine()
	smallDisk(t, filepath.Join(donor.root, "foreign"), "1m")
	donor.give()
	Eventually(t, "it gives", func() bool { return donor.giving("give", "status").Running })
	if r := newStranger(t).ask(t, donor, provider.offerOf(published.CID)).Refusal; r == nil || !strings.Contains(r.Error(), "no room on the disk") {
		t.Errorf("it says %v", r)
	}
}

// A donor that is offered what is not what its manifest says takes nothing up, tells who asked, and keeps nothing; the
// provider answers all calls meanwhile.
func TestBadTakeCostsNoCall(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	a := n.Example("calculator")
	a.Start()
	published := a.Publish()
	a.Stop()
	id := a.Republish(published, func(m *signed.Manifest) { // the program that it runs is for a machine that nobody has
		bad := m.Artefacts[0]
		m.Artefacts[0].Arch = "riscv64"
		bad.BLAKE3[0] ^= 1
		m.Artefacts = append(m.Artefacts, bad)
	})
	a.Start()
	donor := n.donor()
	caller := n.wanting("caller")
	caller.AwaitProviders(id, 1)
	_, stop := caller.load(id)
	t.Cleanup(func() { stop() })
	Eventually(t, "a copy was tried", func() bool { return strings.Contains(caller.Log(), noCopy) })
	t.Logf("%d calls", stop())
	const why = "name different files"
	if !strings.Contains(donor.home.Log(), why) || !strings.Contains(caller.Log(), "a donor does not take it after all") {
		t.Errorf("the reason is not in the logs of the donor\n%s\nand the caller\n%s", donor.home.Log(), caller.Log())
	}
	if p := caller.placement(id); p.State != ctl.PlacementNone || !strings.Contains(p.Why, why) {
		t.Errorf("the caller's status says %+v", p)
	}
	donor.emptyHanded(t)
}

// A program of another architecture than its manifest says is not taken up, and who asked is told.
func TestForeignProgramIsNotTakenUp(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, published := n.provide("greet", func(c *Cell) {
		program, err := os.ReadFile(filepath.Join(Bin(t), "calculator"))
		if err != nil {
			t.Fatal(err)
		}
		other := elf.EM_AARCH64
		if runtime.GOARCH == "arm64" {
			other = elf.EM_X86_64
		}
		binary.LittleEndian.PutUint16(program[18:], uint16(other)) // e_machine
		c.write("bin/greet", string(program), 0o755)
	})
	donor := n.donor()
	talk := newStranger(t).ask(t, donor, a.offerOf(published.CID))
	if talk.Refusal != nil {
		t.Fatal(talk.Refusal)
	}
	const why = "it is a program for EM_"
	if info, err := talk.Take(t.Context(), func(string) {}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("it is at %v: %v", info, err)
	}
	donor.emptyHanded(t)
	if st := donor.giving("give", "status"); len(st.Refused) != 1 || st.Refused[0].CID != published.CID || !strings.Contains(st.Refused[0].Why, why) {
		t.Errorf("its owner is told of %+v", st.Refused)
	}
	if text := donor.Must(donor.root, "give", "status"); !strings.Contains(text, why) {
		t.Errorf("the reason is not in\n%s", text)
	}
}

// Two who want the same version at the same time from the same donor get the same copy.
func TestTakenUpTwiceAtOnce(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("calculator")
	donor := n.donor("--disk", "2MB/s") // so that the second comes while the first is served
	o := provider.offerOf(published.CID)
	var infos [2]peer.AddrInfo
	var wait sync.WaitGroup
	for i := range infos {
		talk := newStranger(t).ask(t, donor, o)
		if talk.Refusal != nil {
			t.Fatal(talk.Refusal)
		}
		wait.Go(func() {
			var err error
			if infos[i], err = talk.Take(t.Context(), func(string) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	if m := donor.mirrors(t, 1)[0]; m.Dir != mirror.Dir {
		t.Errorf("%s is listed, and %s hosted", m.Dir, mirror.Dir)
	}
	if id := mirror.Status().PeerID; infos[0].ID.String() != id || infos[1].ID.String() != id {
		t.Errorf("they are told of %v, it is %s", infos, id)
	}
	donor.Must(donor.root, "give", "stop")
	donor.emptyHanded(t)
}
