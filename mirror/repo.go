package mirror

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// resolveTimeout bounds the asking of a repository what a reference is.
const resolveTimeout = 30 * time.Second

// Pin is what a reference of a repository is.
type Pin struct {
	Commit string
	Moves  bool // it is a branch
}

// ResolveRepo asks a repository that this machine's person has named what a reference of it is: a tag
// before a branch, as git has it. A commit is asked of nobody. The kinds: Denied, NotFound, Timeout, Failed.
func (s *Store) ResolveRepo(ctx context.Context, repo celltoml.Repo) (Pin, error) {
	op := "look at " + repo.URL
	if isCommit(repo.Ref) {
		return Pin{Commit: repo.Ref}, nil
	}
	as := s.person()
	if err := as.allows(op, repo.URL); err != nil {
		return Pin{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	tag, branch := "refs/tags/"+repo.Ref, "refs/heads/"+repo.Ref
	var out []byte
	err := s.asPerson(ctx, repo.URL, func(as reach) (err error) {
		out, err = git{dir: os.DevNull, reach: as}.run(ctx, "ls-remote", "--quiet", "--end-of-options", repo.URL, tag, tag+"^{}", branch)
		return err
	})
	if err != nil {
		return Pin{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	if pin, ok := parseRefs(string(out), repo.Ref); ok {
		return pin, nil
	}
	return Pin{}, cellproto.Errorf(op, cellproto.NotFound, "it has no tag and no branch %q", repo.Ref).
		WithHint("Of a commit, give all of its hash.")
}

// parseRefs reads what ls-remote prints, "commit\tname" a line, and gives what a reference is: an annotated tag
// is the commit that it names. Lines that are none are passed over.
func parseRefs(out, ref string) (Pin, bool) {
	tag, branch := "refs/tags/"+ref, "refs/heads/"+ref
	found := map[string]string{}
	for line := range strings.Lines(out) {
		commit, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if ok && isCommit(commit) && (name == tag || name == tag+"^{}" || name == branch) {
			found[name] = commit
		}
	}
	for _, name := range []string{tag + "^{}", tag, branch} {
		if commit := found[name]; commit != "" {
			return Pin{Commit: commit, Moves: name == branch}, true
		}
	}
	return Pin{}, false
}

// isCommit reports that a text is all of a commit's hash.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// asPerson runs git as nobody, and then, if a repository wants to know who asks, as this machine's person.
func (s *Store) asPerson(ctx context.Context, repo string, do func(reach) error) error {
	as := s.person()
	err := do(as)
	if err == nil || ctx.Err() != nil || !wantsCredential(err) {
		return err
	}
	if named, ok := as.withCredential(ctx, s.environ(), repo); ok {
		return do(named)
	}
	return cellproto.Errorf("fetch "+repo, cellproto.KindOf(err), "%w", err).
		WithHint("If it is private, set up a credential helper of git (git help credentials), or give an ssh URL and run an agent.")
}

// HasRepo gives the copy of a commit of a repository, if there is one.
func (s *Store) HasRepo(url, commit string) (*Mirror, bool) {
	if !isCommit(commit) {
		return nil, false
	}
	m, err := s.at(repoName(url, commit))
	return m, err == nil && m.Repo == url && m.Commit == commit
}

// AddRepo makes a cell of a commit of a repository that this machine's person has named, and reports
// whether it did. It is a mirror as all others are: built in the sandbox, run confined, never announced.
// The kinds of error are those of Add; BadInput also for a repository that is no cell.
func (s *Store) AddRepo(ctx context.Context, repo celltoml.Repo, commit string, progress func(string)) (m *Mirror, made bool, err error) {
	op := "take up " + repo.URL
	if !isCommit(commit) || s.deps.Build == nil {
		return nil, false, cellproto.Errorf(op, cellproto.BadInput, "%.80q is not a commit", commit)
	}
	name := repoName(repo.URL, commit)
	root, err := s.open()
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return nil, false, cellproto.Errorf(op, cellproto.KindOf(err), "somebody else is making it: %w", err)
	}
	defer unlock()
	switch m, err := s.at(name); {
	case err == nil && (m.Repo != repo.URL || m.Commit != commit):
		return nil, false, cellproto.Errorf(op, cellproto.Failed, "its directory %s is that of %s", m.Dir, m.Source)
	case err == nil:
		m.ReplacedBy = ""
		return m, false, Replace(m.Dir, "") // a branch that went on may come back
	case cellproto.KindOf(err) != cellproto.NotFound:
		return nil, false, err
	}
	defer s.forget()
	err = s.assemble(ctx, root, name, func(dir string) error { return s.fillRepo(ctx, root, dir, repo, commit, progress) })
	if err != nil {
		return nil, false, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", s.hintOf(err))
	}
	m, err = s.at(name)
	return m, err == nil, err
}

// hintOf gives the hint of an error, and one for a full disk.
func (s *Store) hintOf(err error) string {
	if hint := cellproto.HintOf(err); hint != "" || !errors.Is(err, syscall.ENOSPC) {
		return hint
	}
	return "Free some space on the disk of " + s.cfg.Root + "."
}

// fillRepo clones and builds a commit, and makes the cell of it in dir.
func (s *Store) fillRepo(ctx context.Context, root *os.Root, dir string, repo celltoml.Repo, commit string, progress func(string)) (err error) {
	work := dir + sourceSuffix
	if err := root.RemoveAll(work); err != nil { // of an attempt that was killed
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(work)) }()
	if err := root.Mkdir(work, 0o755); err != nil {
		return err
	}
	progress("cloning " + repo.URL + " at " + commit[:12])
	src := &signed.Source{Repo: repo.URL, Commit: commit}
	if !isCommit(repo.Ref) {
		src.Ref = repo.Ref
	}
	if err := s.asPerson(ctx, repo.URL, func(as reach) error { return s.clone(ctx, root, work, src, as) }); err != nil {
		return err
	}
	tree, err := root.OpenRoot(work) // what it has leads nowhere else
	if err != nil {
		return err
	}
	defer tree.Close()
	c, schema, err := readCell(tree)
	if err != nil {
		return err
	}
	p := &plan{manifest: manifestOf(c), binary: path.Join("bin", c.Cell.Name), of: repo.URL + " at " + commit}
	if p.toml, err = p.cellToml(); err != nil {
		return err
	}
	src.Build = c.Cell.Build
	to := path.Join(dir, p.binary)
	r, err := recognise(root, work, src, c.Cell.Binary)
	switch {
	case err == nil:
		err = s.buildIn(ctx, root, work, r, c.Cell.Binary, to, false, progress)
	case cellproto.KindOf(err) == cellproto.Unsupported: // a script is there as it is
		if taken := takeBuilt(tree, c.Cell.Binary, root, to, s.cfg); taken == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	progress("making the cell " + c.Cell.Name)
	files := map[string][]byte{celltoml.FileName: p.toml}
	if schema != nil {
		files[schemaFile] = schema.Canonical()
	}
	now := s.deps.Now().UTC()
	return writeCell(root, dir, files, &Record{
		Name: c.Cell.Name, Version: c.Cell.Version, Source: repo.URL + "@" + commit, Created: now, LastUsed: now, State: StateReady,
		Repo: repo.URL, Commit: commit,
	})
}

// readCell reads what a repository says of the cell that it is.
func readCell(tree *os.Root) (*celltoml.Config, *cellproto.Schema, error) {
	const op = "read its " + celltoml.FileName
	data, err := readFile(tree, celltoml.FileName, cellproto.MaxCellToml)
	if err != nil {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "the repository is no cell: %w", err).
			WithHint("A cell has a %s in its topmost directory.", celltoml.FileName)
	}
	c, err := celltoml.Parse(data)
	if err != nil {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	if c.Headless() {
		return nil, nil, cellproto.Errorf(op, cellproto.BadInput, "it names no program")
	}
	if c.Cell.Speaks != celltoml.JSONL {
		return c, nil, nil
	}
	data, err = readFile(tree, schemaFile, cellproto.MaxSchema)
	var schema *cellproto.Schema
	if err == nil {
		schema, err = cellproto.ParseSchema(data)
	}
	if err != nil {
		return nil, nil, cellproto.Errorf("read its "+schemaFile, cellproto.BadInput, "%w", err)
	}
	return c, schema, nil
}

// readFile reads a stranger's file, no more than most bytes of it.
func readFile(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := openPlain(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", filepath.Base(name), most)
	}
	return data, err
}

// openPlain opens a file that is no link. A Root follows links that stay within it, whatever the flags.
func openPlain(root *os.Root, name string) (*os.File, error) {
	before, err := root.Lstat(name)
	if err == nil && !before.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %v", name, before.Mode())
	}
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !os.SameFile(before, info) {
		f.Close()
		return nil, fmt.Errorf("%s is being replaced", name)
	}
	return f, nil
}

// manifestOf gives what a cell.toml says as a manifest does. A copy of a repository never leaves this machine.
func manifestOf(c *celltoml.Config) *signed.Manifest {
	m := &signed.Manifest{
		Name: c.Cell.Name, Version: c.Cell.Version, Privacy: string(celltoml.PlacementLocal),
		Resources: signed.Resources{
			CPUMilli: int64(c.Resources.CPU * 1000), MemoryBytes: c.Resources.Memory, Concurrency: int64(c.Resources.Concurrency),
		},
	}
	if c.Cell.Speaks == celltoml.JSONL {
		m.Speaks = string(c.Cell.Speaks)
	}
	return m
}

// repoName gives the name of the directory of a commit: whatever the URL is, a plain one.
func repoName(url, commit string) string {
	sum := blake3.Sum256([]byte(url))
	owner := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
	base := strings.ToLower(strings.TrimSuffix(url[strings.LastIndexAny(url, "/:")+1:], ".git"))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, base)
	if name = name[:min(len(name), 32)]; name == "" {
		name = "cell"
	}
	return fmt.Sprintf("%s-%s-%s", owner, name, commit[:refChars])
}
