package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// Want is a mirror that is to be made.
type Want struct {
	CID     cid.Cid
	Block   []byte            // the manifest, as it came
	Schema  *cellproto.Schema // that it names; nil: it names none
	From    []peer.AddrInfo   // who has the program, the best first
	Public  bool              // it is to be announced
	Hosted  bool              // it is made for others: see Record
	AskedBy peer.ID           // with Hosted
	// Before is called with the directory of a mirror that is complete, before anybody sees it; nil: nothing is.
	Before  func(dir string) error
	Network Network // that it is announced in
	// Arrived is told how many bytes of the program are there, each time that more have come, and may wait: nothing
	// comes meanwhile. nil: nobody asks.
	Arrived func(done int64)
}

// Add makes a mirror, and reports whether it did: if there is one already, or somebody else makes one
// meanwhile, that is the one. progress says what is going on. Nothing of a mirror is seen before all of it
// is there; of one that cannot be made nothing is left, but what was fetched, so that the next attempt
// goes on from there. Where the disk is full that goes too: others need the room now.
//
// The kinds of error: Denied (the owner does not want it copied), Unsupported (no program for this
// machine), Corrupt (what came is not what the manifest names, or the manifest is not its owner's),
// BadInput, TooLarge, those of Fetcher, and Failed.
func (s *Store) Add(ctx context.Context, w Want, progress func(string)) (m *Mirror, made bool, err error) {
	op := "mirror " + w.CID.String()
	progress("checking the manifest")
	manifest, err := signed.OpenManifest(w.CID, w.Block)
	if err != nil {
		return nil, false, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	p, err := s.plan(op, w, manifest)
	if err != nil {
		return nil, false, err
	}
	root, err := s.open()
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	unlock, err := s.lock(ctx, p.name)
	if err != nil {
		return nil, false, cellproto.Errorf(op, cellproto.KindOf(err), "somebody else is making it: %w", err)
	}
	defer unlock()
	if m, err := s.at(p.name); cellproto.KindOf(err) != cellproto.NotFound {
		return s.again(op, m, err, w)
	}
	defer s.forget()
	if err := s.build(ctx, root, p, progress); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = errors.Join(err, s.drop(root, p.name))
		}
		return nil, false, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", s.hintOf(err))
	}
	m, err = s.at(p.name)
	return m, err == nil, err
}

// again gives the mirror that is there already, announced from now on if that is wanted. One that was hosted for
// others is this person's from the moment on that they want it.
func (s *Store) again(op string, m *Mirror, err error, w Want) (*Mirror, bool, error) {
	if err == nil && m.CID != w.CID.String() {
		err = cellproto.Errorf(op, cellproto.Failed, "its directory %s has a mirror of %s", m.Dir, m.CID)
	}
	if err == nil && w.Hosted && !m.Hosted && !m.Public {
		err = cellproto.Errorf(op, cellproto.Denied, "this machine has a copy of its own, which is not shared")
	}
	switch {
	case err != nil:
	case m.Hosted && !w.Hosted:
		err = change(m.Dir, func(r *Record) bool {
			r.Hosted, r.AskedBy, r.Public = false, "", w.Public
			m.Record = *r
			return true
		})
	case w.Public && !m.Public:
		err = change(m.Dir, func(r *Record) bool {
			r.Public = true
			m.Record = *r
			return true
		})
	}
	if err != nil {
		return nil, false, err
	}
	return m, false, nil
}

// Check says whether a mirror may be made here, as Add does before it fetches anything: its manifest, what
// its owner allows, and whether there is a program for this machine.
func (s *Store) Check(w Want) error {
	op := "mirror " + w.CID.String()
	m, err := signed.OpenManifest(w.CID, w.Block)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	_, err = s.plan(op, w, m)
	return err
}

// plan is a mirror that may be made.
type plan struct {
	Want
	manifest *signed.Manifest
	artefact signed.Artefact // zero: it is built from source
	built    signed.Digest   // the program, when it has been
	name     string          // of the directory
	binary   string          // of the program, within it
	toml     []byte
	of       string // the repository and commit, if it was named by these
}

func (p *plan) what() string {
	if p.of != "" {
		return p.of
	}
	return p.CID.String()
}

// plan checks that the mirror may be made here, before anything is fetched.
func (s *Store) plan(op string, w Want, m *signed.Manifest) (*plan, error) {
	switch celltoml.Placement(m.Privacy) {
	case celltoml.PlacementPublic:
	case celltoml.PlacementFriends:
		if s.cfg.Account == "" || m.Owner != s.cfg.Account {
			return nil, cellproto.Errorf(op, cellproto.Denied, `placement is "friends": its owner does not give it to strangers`)
		}
	default:
		return nil, cellproto.Errorf(op, cellproto.Denied, "placement is %q: its owner keeps it on one machine", m.Privacy)
	}
	if w.Public && m.Challenge == cellproto.AuthSig {
		return nil, cellproto.Errorf(op, cellproto.Denied, `challenge is "sig": its owner admits only keys that the owner has named, which a mirror cannot know`).
			WithHint("Without --public it is a mirror for this machine alone.")
	}
	a, ok := m.Artefact(s.cfg.OS, s.cfg.Arch)
	if err := s.buildable(m); !ok && err != nil {
		var have []string
		for _, a := range m.Artefacts {
			have = append(have, a.OS+"/"+a.Arch)
		}
		if have == nil {
			have = []string{"no platform"}
		}
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "there is no program for %s/%s, only for %s, %w",
			s.cfg.OS, s.cfg.Arch, strings.Join(have, ", "), errors.Unwrap(err))
	}
	if w.Schema != nil && w.Schema.Hash() != m.SchemaHash {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "the schema is not the one that the manifest names")
	}
	name, err := nameOf(w.CID, m)
	if err != nil {
		return nil, err
	}
	p := &plan{Want: w, manifest: m, artefact: a, name: name, binary: path.Join("bin", m.Name)}
	p.toml, err = p.cellToml()
	return p, err
}

// build fetches what a mirror needs, and makes its directory.
func (s *Store) build(ctx context.Context, root *os.Root, p *plan, progress func(string)) error {
	if p.artefact.Size > 0 {
		if err := s.fetch(ctx, root, p, progress); err != nil {
			return err
		}
	}
	return s.assemble(ctx, root, p.name, func(dir string) (err error) {
		if p.artefact.Size == 0 {
			err = s.buildProgram(ctx, root, p, dir, progress)
		} else {
			progress("checking the program")
			err = root.Rename(p.fetched(), path.Join(dir, p.binary))
			if err == nil {
				err = verify(root, path.Join(dir, p.binary), p.artefact)
			}
		}
		if err != nil {
			return err
		}
		progress("making the cell " + p.name)
		if err := p.writeFiles(root, dir, s.deps.Now()); err != nil || p.Before == nil {
			return err
		}
		return p.Before(filepath.Join(s.cfg.Root, dir))
	})
}

// assemble makes the directory of a mirror under another name, has it filled, and gives it its own.
func (s *Store) assemble(ctx context.Context, root *os.Root, name string, fill func(dir string) error) (err error) {
	dir := path.Join(newDir, name)
	if err := root.RemoveAll(dir); err != nil { // of an attempt that was killed
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(dir))
		}
	}()
	for _, d := range []struct {
		sub  string
		mode os.FileMode
	}{{"", 0o755}, {"bin", 0o755}, {"published", 0o755}, {"cache", 0o700}, {"keys", 0o700}} {
		err := root.Mkdir(path.Join(dir, d.sub), d.mode)
		if err == nil {
			err = root.Chmod(path.Join(dir, d.sub), d.mode) // whatever the umask is
		}
		if err != nil {
			return err
		}
	}
	if err := fill(dir); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // nobody waits for it any more
		return err
	}
	if err := root.Rename(dir, name); err != nil {
		return err
	}
	return syncDir(root, ".")
}

// fetched is where a program is fetched to. It is nobody else's: another manifest may name the same hash, and
// whoever fetches for that in another process would go on writing to what was checked here.
func (p *plan) fetched() string { return path.Join(fetchDir, p.name) }

// fetch fetches the program.
func (s *Store) fetch(ctx context.Context, root *os.Root, p *plan, progress func(string)) error {
	if err := s.makeRoom(root, path.Base(p.fetched())); err != nil {
		return err
	}
	progress(fmt.Sprintf("fetching the program, %s", size(p.artefact.Size)))
	show := percent(p.artefact.Size, progress)
	return s.deps.Fetch.Fetch(ctx, p.artefact, p.From, filepath.Join(s.cfg.Root, p.fetched()), func(done, total int64) {
		if p.Arrived != nil {
			p.Arrived(done)
		}
		show(done, total)
	})
}

// verify checks the file at path against what the manifest says of it, and makes it a program.
func verify(root *os.Root, path string, a signed.Artefact) error {
	const op = "check the program"
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != a.Size {
		return cellproto.Errorf(op, cellproto.Corrupt, "it has %d bytes, the manifest says %d", info.Size(), a.Size)
	}
	h := blake3.New(32, nil)
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if [32]byte(h.Sum(nil)) != a.BLAKE3 {
		return cellproto.Errorf(op, cellproto.Corrupt, "its BLAKE3 is not the one that the manifest names")
	}
	if err := checkPlatform(f, a.OS, a.Arch); err != nil {
		return err
	}
	if err := f.Chmod(0o755); err != nil {
		return err
	}
	return f.Sync()
}

// schemaFile is where a cell whose program speaks lines ships its schema.
const schemaFile = "schema.json"

// writeFiles writes all of a mirror but the program, and syncs it.
func (p *plan) writeFiles(root *os.Root, dir string, now time.Time) error {
	id, files := p.CID.String(), map[string][]byte{celltoml.FileName: p.toml}
	files["published/"+id+".cbor"] = p.Block
	files["published/latest"] = []byte(id + "\n")
	if p.Schema != nil {
		files["published/"+id+".schema.json"] = p.Schema.Canonical()
		files[schemaFile] = p.Schema.Canonical()
	}
	if len(p.Network.PSK) > 0 {
		files[pskFile] = p.Network.PSK
	}
	r := &Record{
		CID: id, Name: p.manifest.Name, Version: p.manifest.Version, Owner: string(p.manifest.Owner), Source: SourceArtefact,
		Public: p.Public, Hosted: p.Hosted, Created: now.UTC(), LastUsed: now.UTC(), State: StateReady,
	}
	if p.Hosted {
		r.AskedBy = p.AskedBy.String()
	}
	if p.artefact.Size == 0 {
		r.Source, r.Built = sourceOf(p.manifest.Source), &p.built
	}
	return writeCell(root, dir, files, r)
}

// writeCell writes files and the record of a mirror, and syncs all of it.
func writeCell(root *os.Root, dir string, files map[string][]byte, r *Record) error {
	for name, data := range files {
		mode := os.FileMode(0o644) // started by root, the program runs as another user
		if name == pskFile {
			mode = 0o600
		}
		if err := write(root, path.Join(dir, name), data, mode); err != nil {
			return err
		}
	}
	data, err := r.marshal()
	if err == nil {
		err = write(root, path.Join(dir, RecordFile), data, 0o600)
	}
	for _, sub := range []string{"published", "bin", ""} {
		err = errors.Join(err, syncDir(root, path.Join(dir, sub)))
	}
	return err
}

// write makes a file that is not there yet, and syncs it.
func write(root *os.Root, name string, data []byte, mode os.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync()) // whatever the umask is
	}
	return errors.Join(err, f.Close())
}

// syncDir has a directory's entries written out.
func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	_ = dir.Sync() // some file systems cannot: then only the name could be lost
	return dir.Close()
}

// percent turns bytes into lines for people, one for each tenth.
func percent(total int64, progress func(string)) func(done, total int64) {
	last := int64(0)
	return func(done, _ int64) {
		if total <= 0 || done*10/total == last {
			return
		}
		last = done * 10 / total
		progress(fmt.Sprintf("fetching the program, %d %% of %s", last*10, size(total)))
	}
}

func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
