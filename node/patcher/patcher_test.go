package patcher

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/cellproto/patch/delta"
	"github.com/celldnet/celld/internal/ctl"
)

// The environment of a helper process, which changes a cell's program and is killed in the middle.
const (
	envDir    = "PATCHER_TEST_DIR"
	envKillAt = "PATCHER_TEST_KILL_AT" // number of the step
	envReject = "PATCHER_TEST_REJECT"  // hash of a program that does not run
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		helper(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func helper(dir string) {
	killAt, _ := strconv.Atoi(os.Getenv(envKillAt))
	p, err := New(Config{Dir: dir, Program: "bin/prog", Trusted: trusted, UID: os.Getuid()}, Deps{Swap: &swapper{dir: dir, reject: os.Getenv(envReject)}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	step := 0
	p.at = func(string) {
		if step++; step == killAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	work(p)
}

// work looks at the directory and does what is to be done, to the end.
func work(p *Patcher) {
	p.scan(context.Background())
	for p.trial != nil {
		p.finish(context.Background(), <-p.trial.result)
	}
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

var trusted = []patch.Key{patch.PublicKey(key(1))}

// swapper notes which programs it is given, and refuses one.
type swapper struct {
	dir    string
	reject string // hash of a program that never says hello
	late   string // hash of one that dies soon after
	ran    []patch.Hash
}

func (s *swapper) Swap(context.Context) error {
	data, err := os.ReadFile(filepath.Join(s.dir, "bin", "prog"))
	if err != nil {
		return err
	}
	hash := patch.Hash(cellproto.BLAKE3(data))
	if hash.String() == s.reject {
		return errors.New("it never said hello")
	}
	s.ran = append(s.ran, hash)
	return nil
}

func (s *swapper) Settled(context.Context) error {
	if n := len(s.ran); n > 0 && s.ran[n-1].String() == s.late {
		return errors.New("it died after a second")
	}
	return nil
}

// cell is a directory with a program and patches.
type cell struct {
	t       *testing.T
	dir     string
	swapper *swapper
	p       *Patcher
}

func newCell(t *testing.T) *cell {
	t.Helper()
	c := &cell{t: t, dir: t.TempDir()}
	c.write("bin/prog", program(0), 0o755)
	c.open()
	return c
}

// open makes a patcher for what is in the directory.
func (c *cell) open() {
	c.t.Helper()
	c.swapper = &swapper{dir: c.dir}
	p, err := New(Config{Dir: c.dir, Program: "bin/prog", Trusted: trusted, UID: os.Getuid()}, Deps{Swap: c.swapper})
	if err != nil {
		c.t.Fatal(err)
	}
	c.p = p
}

// program gives version n of a program.
func program(n int) []byte {
	b := make([]byte, 50_000)
	rand.New(rand.NewSource(1)).Read(b)
	return append(b, fmt.Sprintf("version %d", n)...)
}

func hashOf(n int) patch.Hash { return cellproto.BLAKE3(program(n)) }

// made has the patches that were made: the compressor takes its time to begin.
var made = map[string][]byte{}

func patchOf(t testing.TB, from, to int, signer byte) []byte {
	t.Helper()
	name := fmt.Sprint(from, to, signer)
	if data, ok := made[name]; ok {
		return data
	}
	tail, err := delta.Make(program(from), program(to))
	if err != nil {
		t.Fatal(err)
	}
	data, err := patch.Make(program(from), program(to), tail, time.UnixMilli(1), key(signer))
	if err != nil {
		t.Fatal(err)
	}
	made[name] = data
	return data
}

func (c *cell) write(name string, data []byte, mode os.FileMode) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, data, mode)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cell) drop(name string, from, to int) {
	c.t.Helper()
	c.write("patch/"+name+".patch", patchOf(c.t, from, to, 1), 0o644)
}

func (c *cell) remove(name string) {
	c.t.Helper()
	if err := os.Remove(filepath.Join(c.dir, "patch", name+".patch")); err != nil {
		c.t.Fatal(err)
	}
}

// version says which version of the program there is, whole.
func (c *cell) version() int {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "bin", "prog"))
	if err != nil {
		c.t.Fatal(err)
	}
	for n := range 10 {
		if bytes.Equal(data, program(n)) {
			return n
		}
	}
	c.t.Fatalf("the program is none of the versions: %d bytes", len(data))
	return -1
}

// expect looks at the directory and checks what comes of it: entries as in entriesOf.
func (c *cell) expect(version int, entries string) {
	c.t.Helper()
	work(c.p)
	c.check(version, entries)
}

func (c *cell) check(version int, entries string) {
	c.t.Helper()
	if got := strings.ReplaceAll(entriesOf(c.p.Status()), ".patch", ""); c.version() != version || got != entries {
		c.t.Fatalf("version %d, %q; want %d, %q: %v", c.version(), got, version, entries, c.p.Status())
	}
	if n := len(c.swapper.ran); n > 0 && c.swapper.ran[n-1] != hashOf(version) {
		c.t.Fatalf("what runs is not version %d", version)
	}
	info, err := os.Stat(filepath.Join(c.dir, "bin", "prog"))
	if err != nil || info.Mode().Perm() != 0o755 {
		c.t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func (c *cell) says(file, text string) {
	c.t.Helper()
	if !slices.ContainsFunc(c.p.Status(), func(e ctl.Patch) bool { return e.File == file && strings.Contains(e.Reason, text) }) {
		c.t.Errorf("nothing says %q of %s: %v", text, file, c.p.Status())
	}
}

func (c *cell) inBase() string {
	entries, err := os.ReadDir(filepath.Join(c.dir, "patch", ".base"))
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestLife(t *testing.T) {
	c := newCell(t)
	c.expect(0, "")
	c.drop("1", 0, 1)
	c.expect(1, "1+")
	if got := c.inBase(); got != "program record.json" {
		t.Errorf("kept: %s", got)
	}
	c.expect(1, "1+") // and nothing is done twice
	c.drop("3", 2, 3)
	c.expect(1, "1+ 3-")
	c.drop("2", 1, 2)
	c.expect(3, "1+ 2+ 3+")
	if len(c.swapper.ran) != 2 {
		t.Errorf("%d swaps", len(c.swapper.ran))
	}
	c.open() // another nucleus
	c.expect(3, "1+ 2+ 3+")
	if len(c.swapper.ran) != 0 {
		t.Errorf("%d swaps of what was there", len(c.swapper.ran))
	}
	c.remove("2")
	c.expect(3, "1+ 2- 3+")
	c.says("2.patch", "but 3.patch rests on it")
	c.drop("2", 1, 2)
	c.expect(3, "1+ 2+ 3+")
	c.remove("3")
	c.expect(2, "1+ 2+")
	c.remove("2")
	c.remove("1")
	c.expect(0, "")
	if got := c.inBase(); got != "" {
		t.Errorf("left in patch/.base: %s", got)
	}
}

// The owner builds anew while patches are applied: that is the program then.
func TestOwnerBuilds(t *testing.T) {
	c := newCell(t)
	c.drop("1", 0, 1)
	c.expect(1, "1+")
	c.write("bin/new", program(7), 0o755)
	if err := os.Rename(filepath.Join(c.dir, "bin/new"), filepath.Join(c.dir, "bin/prog")); err != nil {
		t.Fatal(err)
	}
	c.swapper.ran = nil
	c.expect(7, "1-")
	c.says("1.patch", "it is for the program")
	c.drop("2", 7, 8)
	c.expect(8, "1- 2+")
	c.remove("2")
	c.expect(7, "1-")
}

func TestRefused(t *testing.T) {
	good := patchOf(t, 0, 1, 1)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-10] ^= 1
	liar := lie(t)
	for _, c := range []struct {
		name string
		set  func(c *cell, path string)
		says string
	}{
		{"of another signer", func(c *cell, _ string) { c.write("patch/a.patch", patchOf(t, 0, 1, 2), 0o644) }, "it is signed by 12D3KooW"},
		{"of another program", func(c *cell, _ string) { c.drop("a", 4, 5) }, "it is for the program"},
		{"whose result is another one", func(c *cell, _ string) { c.write("patch/a.patch", liar, 0o644) }, "what comes out is not the program that was signed"},
		{"a flipped bit", func(c *cell, _ string) { c.write("patch/a.patch", flipped, 0o644) }, "its delta is not the one that was signed"},
		{"cut", func(c *cell, _ string) { c.write("patch/a.patch", good[:len(good)-1], 0o644) }, "it is not all there: "},
		{"cut in the header", func(c *cell, _ string) { c.write("patch/a.patch", good[:50], 0o644) }, "it ends within its header"},
		{"empty", func(c *cell, _ string) { c.write("patch/a.patch", nil, 0o644) }, "it ends within its header"},
		{"garbage", func(c *cell, _ string) { c.write("patch/a.patch", program(3), 0o644) }, "this is no patch"},
		{"a program", func(c *cell, _ string) { c.write("patch/a.patch", []byte("\x7fELF\x02\x01\x01\x00\x00"), 0o755) }, "this is no patch"},
		{"too large", func(c *cell, path string) {
			c.write("patch/a.patch", good, 0o644)
			if err := os.Truncate(path, maxFile+1); err != nil { // sparse
				t.Fatal(err)
			}
		}, "the limit is"},
		{"a symbolic link", func(c *cell, path string) {
			c.write("good", good, 0o644)
			if err := os.Symlink("../good", path); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
		{"a directory", func(c *cell, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		{"a pipe", func(c *cell, path string) {
			if err := syscall.Mkfifo(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		{"a file that everybody can write", func(c *cell, _ string) { c.write("patch/a.patch", good, 0o646) }, "everybody can write to it (mode 646)"},
		{"under another name", func(c *cell, path string) {
			c.write("patch/a.zst", good, 0o644)
		}, "its name does not end in .patch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cell := newCell(t)
			c.set(cell, filepath.Join(cell.dir, "patch/a.patch"))
			work(cell.p)
			if cell.version() != 0 || len(cell.swapper.ran) != 0 {
				t.Errorf("version %d runs", cell.version())
			}
			got := cell.p.Status()
			if len(got) != 1 || got[0].State != ctl.PatchRefused || !strings.Contains(got[0].Reason, c.says) {
				t.Fatalf("%v, want %q", got, c.says)
			}
			// A good one beside it is applied all the same.
			cell.drop("b", 0, 1)
			work(cell.p)
			if cell.version() != 1 {
				t.Errorf("a good one is not applied: %v", cell.p.Status())
			}
		})
	}
}

// lie gives a patch whose signer says of it what it does not do.
func lie(t *testing.T) []byte {
	t.Helper()
	a, b := patchOf(t, 0, 1, 1), patchOf(t, 0, 2, 1)
	ha, err := patch.ReadHeader(bytes.NewReader(a), int64(len(a)))
	if err != nil {
		t.Fatal(err)
	}
	hb, err := patch.ReadHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	tail := b[int64(len(b))-hb.DeltaSize:]
	ha.Delta, ha.DeltaSize = hb.Delta, hb.DeltaSize
	sealed, err := ha.Seal(key(1))
	if err != nil {
		t.Fatal(err)
	}
	return append(sealed, tail...)
}

func TestDirectoryRefused(t *testing.T) {
	c := newCell(t)
	c.drop("1", 0, 1)
	if err := os.Chmod(c.p.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	work(c.p)
	if c.version() != 0 {
		t.Fatal("applied")
	}
	c.says(".", "everybody can write to it")
	if err := os.Chmod(c.p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.expect(1, "1+")
}

func TestMany(t *testing.T) {
	c := newCell(t)
	for i := range cellproto.MaxPatches + 3 {
		c.write(fmt.Sprintf("patch/%03d.patch", i), []byte("garbage"), 0o644)
	}
	c.drop("zzz", 0, 1) // past the limit
	work(c.p)
	got := c.p.Status()
	if n := len(got); n != cellproto.MaxPatches+4 || got[n-1].State != ctl.PatchRefused || !strings.Contains(got[n-1].Reason, "more than 64") {
		t.Errorf("%d entries, the last %v", n, got[n-1])
	}
	if c.version() != 0 {
		t.Error("applied")
	}
}

// A patch whose result does not run is undone, is not tried again, and can be tried anew.
func TestRolledBack(t *testing.T) {
	for name, fails := range map[string]func(s *swapper, hash string){
		"it never says hello": func(s *swapper, hash string) { s.reject = hash },
		"it dies soon after":  func(s *swapper, hash string) { s.late = hash },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			c.drop("1", 0, 1)
			c.expect(1, "1+")
			fails(c.swapper, hashOf(2).String())
			c.drop("2", 1, 2)
			work(c.p)
			c.swapper.ran = nil // the old one runs on, or is started again by somebody else
			c.check(1, "1+ 2~")
			c.says("2.patch", "its result did not run: it ")
			c.expect(1, "1+ 2~")
			c.open()
			c.expect(1, "1+ 2~")
			c.drop("3", 1, 3)
			c.expect(3, "1+ 2~ 3+")
			c.remove("3")
			c.remove("2")
			c.expect(1, "1+")
			c.drop("2", 1, 2) // and now it runs
			c.expect(2, "1+ 2+")
			c.remove("1")
			c.remove("2")
			c.expect(0, "")
		})
	}
}

// The program to roll back to does not run any more: the patched one stays.
func TestBaseDoesNotRun(t *testing.T) {
	c := newCell(t)
	c.drop("1", 0, 1)
	c.expect(1, "1+")
	c.swapper.reject = hashOf(0).String()
	c.remove("1")
	c.expect(1, "1-")
	c.says("1.patch", "the program before it was tried, and its result did not run")
	swaps := len(c.swapper.ran)
	c.expect(1, "1-")
	if len(c.swapper.ran) != swaps {
		t.Error("it is tried again and again")
	}
}

func TestBaseLost(t *testing.T) {
	c := newCell(t)
	c.drop("1", 0, 1)
	c.expect(1, "1+")
	if err := os.RemoveAll(filepath.Join(c.dir, "patch/.base")); err != nil {
		t.Fatal(err)
	}
	c.expect(1, "1+")
	c.says("1.patch", "it cannot be rolled back")
	c.drop("2", 1, 2)
	c.expect(2, "1+ 2+")
	c.remove("2")
	c.expect(1, "1+")
	c.write("patch/.base/record.json", []byte("{garbage"), 0o600)
	c.expect(1, "1+")
}

func TestProgramIsALink(t *testing.T) {
	c := newCell(t)
	if err := os.Rename(filepath.Join(c.dir, "bin/prog"), filepath.Join(c.dir, "real")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real", filepath.Join(c.dir, "bin/prog")); err != nil {
		t.Fatal(err)
	}
	c.drop("1", 0, 1)
	work(c.p)
	if got := c.p.Status(); len(got) != 1 || got[0].State != ctl.PatchRefused || got[0].Reason == "" {
		t.Errorf("%v", got)
	}
}

// The owner puts another program there while a patch is rebuilt: that is not lost, and looked at again.
func TestReplacedMeanwhile(t *testing.T) {
	c := newCell(t)
	c.drop("1", 0, 1)
	c.p.at = func(step string) {
		if step != "rename" {
			return
		}
		c.p.at = func(string) {}
		c.write("bin/new", program(0), 0o755) // what it was, built anew
		if err := os.Rename(filepath.Join(c.dir, "bin/new"), filepath.Join(c.dir, "bin/prog")); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(0, "1-")
	c.says("1.patch", "it has just been replaced")
	if !c.p.retry {
		t.Error("nobody looks again")
	}
	c.expect(1, "1+")
	if c.p.retry {
		t.Error("it looks again and again")
	}
}

// Another name for a file, by which programs are kept for a rollback, makes it no other file.
func TestStamp(t *testing.T) {
	c := newCell(t)
	path := filepath.Join(c.dir, "bin/prog")
	stampNow := func() stamp {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return stampOf(info)
	}
	before := stampNow()
	if err := os.Link(path, filepath.Join(c.dir, "other")); err != nil {
		t.Fatal(err)
	}
	if stampNow() != before {
		t.Error("a link makes another stamp")
	}
	c.write("bin/prog", program(1), 0o755)
	if stampNow() == before {
		t.Error("a write makes no other stamp")
	}
}

// TestKilled: a nucleus that is killed at any step of a change leaves the program as it was or as it
// is to be, whole, and the next one finishes the change and leaves nothing behind.
func TestKilled(t *testing.T) {
	for _, c := range []struct {
		name     string
		set      func(c *cell)
		old, new int
		end      int
		reject   string
		entries  string
		left     string
	}{
		{"the first patch", func(c *cell) { c.drop("1", 0, 1) }, 0, 1, 1, "", "1+", "program record.json"},
		{"the second patch", func(c *cell) { c.drop("1", 0, 1); work(c.p); c.drop("2", 1, 2) }, 1, 2, 2, "", "1+ 2+", "program record.json"},
		{"two at once", func(c *cell) { c.drop("1", 0, 1); c.drop("2", 1, 2) }, 0, 2, 2, "", "1+ 2+", "program record.json"},
		{"back by one", func(c *cell) {
			c.drop("1", 0, 1)
			c.drop("2", 1, 2)
			work(c.p)
			c.remove("2")
		}, 2, 1, 1, "", "1+", "program record.json"},
		{"back to the base", func(c *cell) { c.drop("1", 0, 1); work(c.p); c.remove("1") }, 1, 0, 0, "", "", ""},
		{"one that does not run", func(c *cell) { c.drop("1", 0, 1) }, 0, 1, 0, hashOf(1).String(), "1~", "program record.json"},
		{"a second one that does not run", func(c *cell) { c.drop("1", 0, 1); work(c.p); c.drop("2", 1, 2) }, 1, 2, 1, hashOf(2).String(), "1+ 2~", "program record.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			counted := newCell(t)
			c.set(counted)
			steps := 0
			counted.p.at = func(string) { steps++ }
			counted.swapper.reject = c.reject
			work(counted.p)
			if steps < 5 {
				t.Fatalf("%d steps", steps)
			}
			for n := 1; n <= steps; n++ {
				killedAt(t, c.set, c.reject, n, func(cell *cell) {
					if v := cell.version(); v != c.old && v != c.new {
						t.Fatalf("step %d: version %d is left", n, v)
					}
					cell.swapper.reject = c.reject
					work(cell.p)
					cell.swapper.ran = nil
					cell.check(c.end, c.entries)
					if got := cell.inBase(); got != c.left {
						t.Errorf("step %d: in patch/.base: %s", n, got)
					}
				})
			}
		})
	}
}

func killedAt(t *testing.T, set func(c *cell), reject string, n int, after func(c *cell)) {
	t.Helper()
	c := newCell(t)
	set(c)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envDir+"="+c.dir, envKillAt+"="+strconv.Itoa(n), envReject+"="+reject)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("step %d: it was not killed: %v\n%s", n, err, out)
	}
	c.open()
	after(c)
}

// TestWatch: dropping, deleting and building are noticed, also when a file comes in pieces.
func TestWatch(t *testing.T) {
	c := newCell(t)
	swapped := make(chan patch.Hash, 10)
	c.p.swap = signalling{c.swapper, swapped}
	c.p.Start()
	defer c.p.Stop()
	next := func(want int) {
		t.Helper()
		select {
		case got := <-swapped:
			if got != hashOf(want) {
				t.Fatalf("not version %d runs", want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("version %d does not run: %v", want, c.p.Status())
		}
	}
	data := patchOf(t, 0, 1, 1)
	f, err := os.Create(filepath.Join(c.dir, "patch/1.patch"))
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 100)
		if _, err := f.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	f.Close()
	next(1)
	c.remove("1")
	next(0)
	for try := 1; ; try++ { // the end of the change before is still being written down in it
		if err := os.RemoveAll(c.p.dir); err == nil {
			break
		} else if try == 1000 {
			t.Fatal(err)
		}
	}
	c.drop("1", 0, 1)
	next(1)
}

type signalling struct {
	*swapper
	swapped chan patch.Hash
}

func (s signalling) Swap(ctx context.Context) error {
	err := s.swapper.Swap(ctx)
	s.swapped <- s.ran[len(s.ran)-1]
	return err
}

// Settled never ends by itself: what is wanted next does not wait for the trial of what is not.
func (s signalling) Settled(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
