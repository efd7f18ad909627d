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

	"lukechampine.com/blake3"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// Builder builds what somebody else has written, confined and without a network.
type Builder interface {
	// Build runs a job's command in its directory and, if that succeeds, gives that the output.
	Build(ctx context.Context, job Job) error
}

// Job is a build.
type Job struct {
	Dir     string // has the source
	Command string
	Output  string // a path within Dir
	Tools   Tools  // that it needs besides the system's own programs
	Hosted  bool   // it is for others: within what this machine gives
}

// Tools are what a build needs.
type Tools string

// The tools.
const (
	NoTools Tools = ""
	Go      Tools = "go"
	Cargo   Tools = "cargo"
)

// What is beside a mirror that is being made, while it is built from source.
const (
	sourceSuffix  = ".src"     // the files
	objectsSuffix = ".objects" // what git has fetched
)

// maxBuilt bounds a program that was built, in bytes.
const maxBuilt = 1 << 30

// recipe is how a source is built.
type recipe struct {
	command string
	tools   Tools
}

// recognise finds out how the source below dir of root is built: by the manifest's build command, else by
// what is there, in the order of go.mod, Cargo.toml, Makefile.
func recognise(root *os.Root, dir string, src *signed.Source, output string) (recipe, error) {
	has := func(name string) bool {
		info, err := root.Lstat(path.Join(dir, name))
		return err == nil && info.Mode().IsRegular()
	}
	name := path.Base(output)
	tools := NoTools
	switch {
	case has("go.mod"):
		tools = Go
	case has("Cargo.toml"):
		tools = Cargo
	}
	switch {
	case src.Build != "":
		return recipe{src.Build, tools}, nil
	case tools == Go:
		return recipe{"go build -trimpath -buildvcs=false -o " + output + " .", Go}, nil
	case tools == Cargo:
		return recipe{"cargo build --release --offline && mkdir -p bin && cp target/release/" + name + " " + output, Cargo}, nil
	case has("Makefile"):
		return recipe{"make", NoTools}, nil
	case has("flake.nix"):
		return recipe{}, cellproto.Errorf("build "+src.Repo, cellproto.Unsupported, "a flake cannot be built without the daemon of nix and a network").
			WithHint("Its owner can set build under [cell] in cell.toml to what builds it without them.")
	}
	return recipe{}, cellproto.Errorf("build "+src.Repo, cellproto.Unsupported,
		"nothing says how: it has no build command, go.mod, Cargo.toml or Makefile").
		WithHint("Its owner can set build under [cell] in cell.toml.")
}

// buildable says whether a manifest's source may be built here, and why not.
func (s *Store) buildable(m *signed.Manifest) error {
	op := "build " + m.Name
	switch {
	case m.Source == nil || s.deps.Build == nil:
		return cellproto.Errorf(op, cellproto.Unsupported, "and no source is named")
	case m.Source.Commit == "":
		return cellproto.Errorf(op, cellproto.Unsupported, "and its source is not pinned to a commit")
	}
	return nil
}

// buildProgram clones and builds the source, and puts the program where the mirror in dir wants it.
func (s *Store) buildProgram(ctx context.Context, root *os.Root, p *plan, dir string, progress func(string)) (err error) {
	src := p.manifest.Source
	work := path.Join(newDir, p.name+sourceSuffix)
	if err := root.RemoveAll(work); err != nil { // of an attempt that was killed
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(work)) }()
	if err := root.Mkdir(work, 0o755); err != nil {
		return err
	}
	progress("cloning " + src.Repo + " at " + src.Commit[:12])
	as := s.anybody()
	if s.strange(p) {
		if as, err = s.stranger(ctx, src.Repo); err != nil {
			return err
		}
	}
	if err := s.clone(ctx, root, work, src, as); err != nil {
		return err
	}
	r, err := recognise(root, work, src, p.binary)
	if err != nil {
		return err
	}
	to := path.Join(dir, p.binary)
	if err := s.buildIn(ctx, root, work, r, p.binary, to, p.Hosted, progress); err != nil {
		return err
	}
	p.built, err = digest(root, to)
	return err
}

// strange says that whoever has named a source may be anybody, so that nothing of this machine's own network is asked for
// it: of what is built for others, and on the public network of all but this person's own. Who is let into a private
// network may have its sources there.
func (s *Store) strange(p *plan) bool {
	own := s.cfg.Account != "" && p.manifest.Owner == s.cfg.Account
	return p.Hosted || p.Network.Name == celltoml.PublicNetwork && !own
}

// digest gives the BLAKE3 of the file at path.
func digest(root *os.Root, path string) (sum signed.Digest, err error) {
	f, err := root.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := blake3.New(len(sum), nil)
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// buildIn builds the source in work, which makes output there, and puts that to the path to.
func (s *Store) buildIn(ctx context.Context, root *os.Root, work string, r recipe, output, to string, hosted bool, progress func(string)) error {
	progress("building it in a sandbox: " + strings.Join(strings.Fields(r.command), " "))
	// What the tree has under the program's name is not what was built.
	if err := root.RemoveAll(path.Join(work, output)); err != nil {
		return err
	}
	job := Job{Dir: filepath.Join(s.cfg.Root, work), Command: r.command, Output: output, Tools: r.tools, Hosted: hosted}
	if err := s.deps.Build.Build(ctx, job); err != nil {
		return err
	}
	tree, err := root.OpenRoot(work)
	if err != nil {
		return err
	}
	defer tree.Close()
	return takeBuilt(tree, output, root, to, s.cfg)
}

// takeBuilt copies a program that was built: it is a stranger's work, and only its bytes are taken.
func takeBuilt(tree *os.Root, from string, root *os.Root, to string, cfg Config) error {
	const op = "take what was built"
	in, err := openPlain(tree, from)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "there is no %s: %w", path.Base(from), err).
			WithHint("The build has to leave the program under bin/, with the name of the cell.")
	}
	defer in.Close()
	info, err := in.Stat()
	if err == nil && (info.Size() == 0 || info.Size() > maxBuilt) {
		err = fmt.Errorf("it is no program: %v, %d bytes", info.Mode(), info.Size())
	}
	if err == nil {
		err = checkPlatform(in, cfg.OS, cfg.Arch)
	}
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	out, err := root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxBuilt))
	return errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
}
