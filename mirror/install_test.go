package mirror

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

var program = []byte("#!/bin/sh\necho hello\n")

// A mirror is a whole cell, with the bytes that the manifest names.
func TestAdd(t *testing.T) {
	there, here := newFetcher(t), newFetcher(t)
	s := newTestStore(t, here, nil)
	w := want(t, there.serve(t, program), []peer.AddrInfo{there.info()}, nil)
	if _, ok := s.Dir(w.CID); ok {
		t.Error("there is one before")
	}
	m := mustAdd(t, s, w)
	if got, err := os.ReadFile(filepath.Join(m.Dir, "bin", "calculator")); err != nil || !bytes.Equal(got, program) {
		t.Errorf("the program is %q: %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(m.Dir, "bin", "calculator")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("its mode is %v: %v", info.Mode(), err)
	}
	toml, err := celltoml.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if toml.Sandbox.Tier != celltoml.SandboxAuto || toml.Cell.Name != "calculator" || toml.Cell.Version != "1.2.3" ||
		toml.Resources.CPU != 0.5 || toml.Resources.Memory != 64<<20 || toml.Resources.Concurrency != 10 || toml.Network.Name != "lab" {
		t.Errorf("cell.toml says %+v", toml)
	}
	block, err := os.ReadFile(filepath.Join(m.Dir, "published", w.CID.String()+".cbor"))
	if err != nil || !bytes.Equal(block, w.Block) {
		t.Errorf("the manifest that was kept differs: %v", err)
	}
	if m.CID != w.CID.String() || m.Version != "1.2.3" || m.Source != SourceArtefact || m.Public || m.Owner != string(owner(t)) {
		t.Errorf("the record says %+v", m.Record)
	}
	if dir, ok := s.Dir(w.CID); !ok || dir != m.Dir || filepath.Dir(dir) != s.cfg.Root {
		t.Errorf("it is in %q", dir)
	}
	for _, name := range left(t, s) {
		if !strings.HasPrefix(name, filepath.Base(m.Dir)+"/") {
			t.Errorf("%s was left besides", name)
		}
	}
}

// What is there already is not made again; it is announced from then on if that is wanted.
func TestAddAgain(t *testing.T) {
	there := newFetcher(t)
	s := newTestStore(t, newFetcher(t), nil)
	w := want(t, there.serve(t, program), []peer.AddrInfo{there.info()}, nil)
	first := mustAdd(t, s, w)
	w.From, w.Public = nil, true
	m, made, err := s.Add(t.Context(), w, silent)
	if err != nil || made || m.Dir != first.Dir || !m.Public {
		t.Errorf("made %v, %+v: %v", made, m, err)
	}
	if r, err := ReadRecord(first.Dir); err != nil || !r.Public {
		t.Errorf("%+v: %v", r, err)
	}
}

// A version of this person's own is replaced by another one; what is hosted for others is not.
func TestOthers(t *testing.T) {
	there := newFetcher(t)
	s := newTestStore(t, newFetcher(t), nil)
	a := there.serve(t, program)
	named := func(version string, hosted bool) Want {
		w := want(t, a, []peer.AddrInfo{there.info()}, func(m *signed.Manifest) { m.Version = version })
		w.Public, w.Hosted = hosted, hosted
		return w
	}
	own, next := mustAdd(t, s, named("1.0.0", false)), named("3.0.0", false)
	mustAdd(t, s, named("2.0.0", true))
	m, err := signed.OpenManifest(next.CID, next.Block)
	if err != nil {
		t.Fatal(err)
	}
	if others, err := s.Others(next.CID, m); err != nil || len(others) != 1 || others[0].CID != own.CID {
		t.Errorf("%+v, %v", others, err)
	}
	if others, err := s.Others(cid.MustParse(own.CID), m); err != nil || len(others) != 0 {
		t.Errorf("%+v, %v", others, err)
	}
}

// What is hosted for others is this person's as soon as they want it; the other way round it is not.
func TestAddWhatIsHosted(t *testing.T) {
	there := newFetcher(t)
	s := newTestStore(t, newFetcher(t), nil)
	w := want(t, there.serve(t, program), []peer.AddrInfo{there.info()}, nil)
	w.Public, w.Hosted, w.AskedBy = true, true, there.info().ID
	hosted := mustAdd(t, s, w)
	if !hosted.Hosted || hosted.AskedBy == "" {
		t.Errorf("%+v", hosted.Record)
	}
	w.Public, w.Hosted = false, false
	m, made, err := s.Add(t.Context(), w, silent)
	if err != nil || made || m.Hosted || m.AskedBy != "" || m.Public {
		t.Errorf("made %v, %+v: %v", made, m, err)
	}
	if r, err := ReadRecord(hosted.Dir); err != nil || r.Hosted || r.Public {
		t.Errorf("%+v: %v", r, err)
	}
	w.Public, w.Hosted = true, true
	if _, _, err := s.Add(t.Context(), w, silent); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("it is hosted again: %v", err)
	}
}

// fetching is a fetcher that a test makes up.
type fetching func(dst string) error

func (f fetching) Fetch(_ context.Context, _ signed.Artefact, _ []peer.AddrInfo, dst string, _ func(done, total int64)) error {
	return f(dst)
}

// Whoever publishes a cell with the hash of another one's program cannot write to that program, though both are
// fetched at once by two nuclei.
func TestHashOfAnother(t *testing.T) {
	root := filepath.Join(t.TempDir(), "foreign")
	a := artefact(t, program)
	victim, hostile := want(t, a, nil, nil), want(t, a, nil, func(m *signed.Manifest) { m.Name = "hostile" })
	begun, installed, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	slow := storeAt(t, root, fetching(func(dst string) error {
		f, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		close(begun)
		<-installed
		_, err = f.WriteAt([]byte("something else"), 0)
		return err
	}), nil)
	go func() { _, _, err := slow.Add(t.Context(), hostile, silent); ended <- err }()
	<-begun
	m := mustAdd(t, storeAt(t, root, fetching(func(dst string) error { return os.WriteFile(dst, program, 0o600) }), nil), victim)
	close(installed)
	if err := <-ended; cellproto.KindOf(err) != cellproto.Corrupt {
		t.Errorf("the hostile one: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Dir, "bin", "calculator")); err != nil || !bytes.Equal(got, program) {
		t.Errorf("the program was changed to %q, %v", got, err)
	}
}

// What another process makes is seen at once.
func TestDirOfOthers(t *testing.T) {
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} // stands still
	root := filepath.Join(t.TempDir(), "foreign")
	mine, theirs := storeAt(t, root, lying(program), c.Now), storeAt(t, root, lying(program), c.Now)
	w := want(t, artefact(t, program), nil, nil)
	if _, ok := mine.Dir(w.CID); ok {
		t.Error("it is there before")
	}
	m := mustAdd(t, theirs, w)
	if dir, ok := mine.Dir(w.CID); !ok || dir != m.Dir {
		t.Errorf("%q, %v", dir, ok)
	}
	if _, err := theirs.Remove(t.Context(), m.CID); err != nil {
		t.Fatal(err)
	}
	if dir, ok := mine.Dir(w.CID); ok {
		t.Errorf("%s is there still", dir)
	}
}

// Of two that make the same mirror at once, one does, and both have it.
func TestAddTwice(t *testing.T) {
	there := newFetcher(t)
	data := make([]byte, 3<<20)
	rand.Read(data)
	w := want(t, there.serve(t, data), []peer.AddrInfo{there.info()}, nil)
	root := filepath.Join(t.TempDir(), "foreign")
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		s := storeAt(t, root, newFetcher(t), nil)
		wg.Go(func() {
			m, did, err := s.Add(t.Context(), w, silent)
			if err != nil || m == nil {
				t.Error(err)
			} else if got, err := os.ReadFile(filepath.Join(m.Dir, "bin", "calculator")); err != nil || !bytes.Equal(got, data) {
				t.Errorf("its program has %d bytes: %v", len(got), err)
			}
			if did {
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d have made it", made.Load())
	}
}

// What its owner keeps is not taken, whoever offers it.
func TestPlacement(t *testing.T) {
	there := newFetcher(t)
	s := newTestStore(t, newFetcher(t), nil)
	a := there.serve(t, program)
	with := func(placement string) Want {
		return want(t, a, []peer.AddrInfo{there.info()}, func(m *signed.Manifest) { m.Privacy = placement })
	}
	refused(t, s, with("local"), cellproto.Denied, "keeps it on one machine")
	refused(t, s, with("friends"), cellproto.Denied, "does not give it to strangers")
	for _, placement := range []string{"local", "friends"} { // as a donor is asked
		if err := s.Check(with(placement)); cellproto.KindOf(err) != cellproto.Denied {
			t.Errorf("%s: %v", placement, err)
		}
	}
	s.cfg.Account = owner(t)
	refused(t, s, with("local"), cellproto.Denied, "keeps it on one machine")
	mustAdd(t, s, with("friends"))
}

// What only keys may call that the owner has named is not announced by others; a copy for this machine alone
// is its user's affair. What everybody may call everybody may call here too.
func TestChallenge(t *testing.T) {
	there := newFetcher(t)
	s := newTestStore(t, newFetcher(t), nil)
	a := there.serve(t, program)
	with := func(challenge string, public bool) Want {
		w := want(t, a, []peer.AddrInfo{there.info()}, func(m *signed.Manifest) { m.Challenge = challenge })
		w.Public = public
		return w
	}
	refused(t, s, with("sig", true), cellproto.Denied, "keys that the owner has named")
	mustAdd(t, s, with("sig", false))
	if _, _, err := s.Add(t.Context(), with("sig", true), silent); cellproto.KindOf(err) != cellproto.Denied {
		t.Errorf("it is announced from now on: %v", err)
	}
	for challenge, want := range map[string]celltoml.Challenge{"": celltoml.ChallengeSimple, "none": celltoml.ChallengeNone} {
		m := mustAdd(t, newTestStore(t, newFetcher(t), nil), with(challenge, true))
		cfg, err := celltoml.Load(m.Dir)
		if err != nil || cfg.Auth.Challenge != want {
			t.Errorf("a mirror of one with the challenge %q has %q: %v", challenge, cfg.Auth.Challenge, err)
		}
	}
}

// lying writes what it likes.
type lying []byte

func (l lying) Fetch(_ context.Context, _ signed.Artefact, _ []peer.AddrInfo, dst string, _ func(done, total int64)) error {
	return os.WriteFile(dst, l, 0o600)
}

// failing fetches nothing.
type failing struct{ err error }

func (f failing) Fetch(context.Context, signed.Artefact, []peer.AddrInfo, string, func(done, total int64)) error {
	return f.err
}

func artefact(t testing.TB, data []byte) signed.Artefact {
	t.Helper()
	return signed.Artefact{
		OS: testOS, Arch: testArch, CID: signed.Link{Cid: testCID(t, string(data))}, Size: int64(len(data)), BLAKE3: blake3.Sum256(data),
	}
}

// elfFor gives the head of a program for a processor.
func elfFor(machine elf.Machine) []byte {
	var b bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	_ = binary.Write(&b, binary.LittleEndian, elf.Header64{ // to memory
		Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	})
	return b.Bytes()
}

// Whatever is wrong with what came, nothing is left of it.
func TestRefused(t *testing.T) {
	good := want(t, artefact(t, program), nil, nil)
	other := bytes.Replace(program, []byte("hello"), []byte("jello"), 1)
	schema, err := cellproto.ParseSchema([]byte(`{"cell":"other","functions":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	altered := good
	altered.Block = bytes.Replace(good.Block, []byte("1.2.3"), []byte("6.6.6"), 1)
	another := good
	another.CID = want(t, artefact(t, other), nil, nil).CID
	strange := good
	strange.Schema = schema
	badListen := good
	badListen.Network.Listen = []string{"nowhere"}
	for _, c := range []struct {
		name  string
		fetch Fetcher
		want  Want
		kind  cellproto.Kind
		says  string
	}{
		{"other bytes", lying(other), good, cellproto.Corrupt, "BLAKE3"},
		{"too few bytes", lying(program[:5]), good, cellproto.Corrupt, "it has 5 bytes"},
		{"too many bytes", lying(append(slices.Clone(program), 'x')), good, cellproto.Corrupt, "the manifest says"},
		{"an altered manifest", lying(program), altered, cellproto.Corrupt, "hash"},
		{"another manifest", lying(program), another, cellproto.Corrupt, "hash"},
		{"another schema", lying(program), strange, cellproto.Corrupt, "schema"},
		{"a network that is none", lying(program), badListen, cellproto.BadInput, "listen"},
		{"nobody has it", failing{cellproto.Errorf("fetch", cellproto.NotFound, "none has it")}, good, cellproto.NotFound, "none has it"},
		{"no program for this machine", lying(program), want(t, artefact(t, program), nil, func(m *signed.Manifest) { m.Artefacts[0].Arch = "riscv64" }),
			cellproto.Unsupported, "only for linux/riscv64"},
		{"a program for another processor", lying(elfFor(elf.EM_AARCH64)), want(t, artefact(t, elfFor(elf.EM_AARCH64)), nil, nil),
			cellproto.Unsupported, "EM_AARCH64"},
		{"half a program", lying(elfFor(elf.EM_X86_64)[:40]), want(t, artefact(t, elfFor(elf.EM_X86_64)[:40]), nil, nil), cellproto.Corrupt, "whole program"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, newTestStore(t, c.fetch, nil), c.want, c.kind, c.says) })
	}
	mustAdd(t, newTestStore(t, lying(program), nil), good)
	mustAdd(t, newTestStore(t, lying(elfFor(elf.EM_X86_64)), nil), want(t, artefact(t, elfFor(elf.EM_X86_64)), nil, nil))
}

// A peer that has other bytes than the manifest says is found out while they come.
func TestFetchedWrong(t *testing.T) {
	there := newFetcher(t)
	a := there.serve(t, program)
	a.BLAKE3[0] ^= 1
	s := newTestStore(t, newFetcher(t), nil)
	refused(t, s, want(t, a, []peer.AddrInfo{there.info()}, nil), cellproto.Corrupt, "")
}

// A fetch that breaks off in the middle is gone on with by the next attempt, and nothing of a mirror is
// seen meanwhile.
func TestInterrupted(t *testing.T) {
	data := make([]byte, 8<<20)
	rand.Read(data)
	first, second, here := newFetcher(t), newFetcher(t), newFetcher(t)
	a := first.serve(t, data)
	second.serve(t, data)
	s := newTestStore(t, cutting{here, first.host.Close}, nil)
	w := want(t, a, []peer.AddrInfo{first.info()}, nil)
	if _, _, err := s.Add(t.Context(), w, silent); err == nil {
		t.Fatal("it was not interrupted")
	}
	for _, name := range left(t, s) {
		if !strings.HasPrefix(name, fetchDir+"/") {
			t.Errorf("%s was left", name)
		}
	}
	if all, err := s.List(); err != nil || len(all) > 0 {
		t.Errorf("%v: %v", all, err)
	}
	rest := &counting{Fetcher: here}
	s.deps.Fetch = rest
	w.From = []peer.AddrInfo{second.info()}
	m := mustAdd(t, s, w)
	if got, err := os.ReadFile(filepath.Join(m.Dir, "bin", "calculator")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("its program has %d bytes: %v", len(got), err)
	}
	if rest.first < 64<<10 {
		t.Errorf("it began at %d", rest.first)
	}
}

// cutting cuts the peer off when a quarter has come.
type cutting struct {
	Fetcher
	cut func() error
}

func (c cutting) Fetch(ctx context.Context, a signed.Artefact, from []peer.AddrInfo, dst string, progress func(done, total int64)) error {
	var once sync.Once
	return c.Fetcher.Fetch(ctx, a, from, dst, func(done, total int64) {
		if done > total/4 {
			once.Do(func() { _ = c.cut() }) // of a host that nobody needs any more
		}
		progress(done, total)
	})
}

// counting notes where a fetch begins.
type counting struct {
	Fetcher
	first int64
}

func (c *counting) Fetch(ctx context.Context, a signed.Artefact, from []peer.AddrInfo, dst string, progress func(done, total int64)) error {
	return c.Fetcher.Fetch(ctx, a, from, dst, func(done, total int64) {
		if c.first == 0 {
			c.first = done
		}
		progress(done, total)
	})
}

// What a killed attempt has left is in nobody's way.
func TestAfterKill(t *testing.T) {
	s := newTestStore(t, lying(program), nil)
	w := want(t, artefact(t, program), nil, nil)
	m, err := signed.OpenManifest(w.CID, w.Block)
	if err != nil {
		t.Fatal(err)
	}
	name, err := nameOf(w.CID, m)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(s.cfg.Root, newDir, name, "bin")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "calculator"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, w)
}

// A link in the directory of the foreign cells leads nowhere.
func TestLinks(t *testing.T) {
	for _, sub := range []string{newDir, fetchDir, goneDir, locksDir} {
		s := newTestStore(t, lying(program), nil)
		outside := t.TempDir()
		if err := os.MkdirAll(s.cfg.Root, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(s.cfg.Root, sub)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Add(t.Context(), want(t, artefact(t, program), nil, nil), silent); cellproto.KindOf(err) != cellproto.Failed {
			t.Errorf("%s is a link: %v", sub, err)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v was written outside: %v", sub, entries, err)
		}
	}
}

// Whatever a manifest says, its mirror is a directory of a plain name, and cell.toml can be read.
func TestNames(t *testing.T) {
	for _, m := range []signed.Manifest{
		{Owner: "12D3KooW/../../etc", Name: "x"}, {Owner: "short", Name: "x"}, {Owner: "12D3KooWabcdefgh", Name: ".."},
		{Owner: "12D3KooWabcdefgh", Name: "a/b"}, {Owner: "12D3KooWabcdefgh", Name: ""},
	} {
		if name, err := nameOf(testCID(t, "x"), &m); err == nil {
			t.Errorf("%+v gives %q", m, name)
		}
	}
	name, err := nameOf(testCID(t, "x"), &signed.Manifest{Owner: "12D3KooWabcdefgh", Name: "calc-2"})
	if err != nil || !strings.HasPrefix(name, "abcdefgh-calc-2-") || !filepath.IsLocal(name) {
		t.Errorf("%q: %v", name, err)
	}
}

// Resources of a stranger are brought within bounds.
func TestResources(t *testing.T) {
	for _, r := range []signed.Resources{{}, {CPUMilli: 1, MemoryBytes: 1, Concurrency: 1}, {CPUMilli: 1 << 50, MemoryBytes: 1 << 50, Concurrency: 1 << 50}} {
		w := want(t, artefact(t, program), nil, func(m *signed.Manifest) { m.Resources = r })
		m := mustAdd(t, newTestStore(t, lying(program), nil), w)
		toml, err := celltoml.Load(m.Dir)
		if err != nil || toml.Resources.Memory < minMemory != (r.MemoryBytes == 0) || toml.Resources.Memory > maxMemory {
			t.Error(fmt.Errorf("%+v: %+v, %w", r, toml, err))
		}
	}
}
