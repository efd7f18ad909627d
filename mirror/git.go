package mirror

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// MaxClone is how many bytes a clone may have, packed, and unpacked once more.
const MaxClone = 100 << 20

// Bounds of a clone.
const (
	maxCloneFiles = 10_000
	maxGitMemory  = 1 << 30 // bytes of address space: three of the largest files, a pack and git itself
	maxCloneDepth = 32      // directories above a file
	maxClonePath  = 255     // bytes of a path
	maxLinkTarget = 4 << 10
	cloneTimeout  = 120 * time.Second
	maxGitSays    = 4 << 10 // of what git prints when it fails
)

// clone fetches the pinned commit of a repository and writes its files below dir of root. git only gets
// the objects: what it would do with them, hooks, filters, submodules, attributes, never happens. The
// kinds: Denied for a URL that is not https, TooLarge, BadInput for a tree that is not to be written,
// NotFound, Timeout, Failed.
func (s *Store) clone(ctx context.Context, root *os.Root, dir string, src *signed.Source, as reach) (err error) {
	op := "clone " + src.Repo
	if err := as.allows(op, src.Repo); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.cfg.CloneTimeout, cloneTimeout))
	defer cancel()
	objects := strings.TrimSuffix(dir, sourceSuffix) + objectsSuffix
	err = root.RemoveAll(objects) // of an attempt that was killed
	if err == nil {
		err = root.Mkdir(objects, 0o700)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(objects)) }()
	g := git{dir: filepath.Join(s.cfg.Root, objects), reach: as}
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--template=", "."); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	fetch := []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--end-of-options", src.Repo}
	_, err = g.run(ctx, append(fetch, src.Commit)...)
	if err != nil && src.Ref != "" && ctx.Err() == nil { // some servers give no commit by its hash
		_, err = g.run(ctx, append(fetch, src.Ref)...)
	}
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if kind, err := g.run(ctx, "cat-file", "-t", src.Commit); err != nil || strings.TrimSpace(string(kind)) != "commit" {
		return cellproto.Errorf(op, cellproto.NotFound, "commit %s is not there (any more)", src.Commit)
	}
	if err := g.write(ctx, root, dir, src.Commit); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// git runs the system's git on a bare repository, without any configuration but its own.
type git struct {
	dir string
	reach
}

// command prepares git. No file that it writes grows past the limit of a clone, and it takes no more memory than that
// needs: a pack of a few KiB can hold a delta whose result, which git has in memory, is many GiB. Its processes end with
// ctx.
func (g git) command(ctx context.Context, args ...string) *exec.Cmd {
	// 512-byte blocks, and KiB; the shell is the one that POSIX describes, which has no -v: some systems have no such limit.
	script := fmt.Sprintf(`ulimit -v %d 2>/dev/null; ulimit -f %d && exec git "$@"`, maxGitMemory>>10, MaxClone/512)
	safe := []string{"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.askPass=", "-c", "credential.helper=",
		"-c", "transfer.fsckObjects=true", "-c", "fetch.unpackLimit=1", "-c", "pack.threads=1", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
		"-c", "submodule.recurse=false", "-c", "http.followRedirects=initial", "-c", "protocol.ext.allow=never"}
	cmd := exec.CommandContext(ctx, "/bin/sh", slices.Concat([]string{"-c", script, "git"}, safe, g.config, args)...)
	if cmd.Dir = g.dir; cmd.Dir == os.DevNull { // no repository at all
		cmd.Dir = "/"
	}
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "XDG_CONFIG_HOME=" + g.dir, "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "SSH_ASKPASS=/bin/false",
		"GIT_ALLOW_PROTOCOL=" + strings.Join(g.protocols, ":"), "GIT_PROTOCOL_FROM_USER=0", "GIT_LFS_SKIP_SMUDGE=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_ATTR_NOSYSTEM=1", "GIT_DIR=" + g.dir,
	}
	cmd.Env = append(cmd.Env, g.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

func (g git) run(ctx context.Context, args ...string) ([]byte, error) {
	var out, says bytes.Buffer
	cmd := g.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &capped{&out, 64 << 10}, &capped{&says, maxGitSays}
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, cellproto.Errorf("git "+args[0], cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
	text := strings.Join(strings.Fields(says.String()), " ")
	if strings.Contains(text, "Out of memory") {
		return nil, cellproto.Errorf("git "+args[0], cellproto.TooLarge, "it takes more than %d MiB of memory", maxGitMemory>>20)
	}
	if strings.Contains(text, "File too large") || strings.Contains(err.Error(), "file size limit") || strings.Contains(text, "died of signal 25") {
		return nil, cellproto.Errorf("git "+args[0], cellproto.TooLarge, "it is larger than %d MiB", MaxClone>>20)
	}
	return nil, cellproto.Errorf("git "+args[0], cellproto.Failed, "%v: %.300s", err, text)
}

// capped takes n bytes and drops the rest.
type capped struct {
	w io.Writer
	n int
}

func (c *capped) Write(b []byte) (int, error) {
	part := b[:min(len(b), c.n)]
	c.n -= len(part)
	_, err := c.w.Write(part)
	return len(b), err
}

// entry is one file of a commit.
type entry struct {
	mode, object, path string
	size               int64
}

// The modes of a tree's entries.
const (
	modeFile      = "100644"
	modeProgram   = "100755"
	modeLink      = "120000"
	modeSubmodule = "160000"
)

// tree lists the files of a commit, if all of them may be written.
func (g git) tree(ctx context.Context, commit string) ([]entry, error) {
	cmd := g.command(ctx, "ls-tree", "-r", "-z", "--long", "--full-tree", commit)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	entries, err := parseTree(stdout)
	if err != nil {
		_ = cmd.Cancel() // it is not read any further
	}
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	return entries, err
}

// parseTree reads what ls-tree -z --long prints: "mode type object size\tpath\0".
func parseTree(r io.Reader) (entries []entry, err error) {
	const op = "read the tree"
	total, seen := int64(0), 0
	lines := bufio.NewReaderSize(r, 2*maxClonePath+256)
	for {
		line, err := lines.ReadSlice(0)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return entries, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "a path is longer than %d bytes", maxClonePath)
		}
		if err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "it is cut off: %w", err)
		}
		head, name, ok := strings.Cut(string(line[:len(line)-1]), "\t")
		words := strings.Fields(head)
		if !ok || len(words) != 4 {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "a line is none: %.100q", line)
		}
		if seen++; seen > maxCloneFiles { // submodules too: a tree of a few objects can have any number
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "it has more than %d files", maxCloneFiles)
		}
		e := entry{mode: words[0], object: words[2], path: name}
		if e.mode == modeSubmodule {
			continue
		}
		if e.size, err = strconv.ParseInt(words[3], 10, 64); err != nil || e.size < 0 {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%.100q has no size", name)
		}
		if err := e.check(); err != nil {
			return nil, err
		}
		total, entries = total+e.size, append(entries, e)
		if e.size > MaxClone || total > MaxClone {
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "its files have more than %d MiB", MaxClone>>20)
		}
	}
}

// check says whether an entry may be written.
func (e entry) check() error {
	bad := func(why string) error {
		return cellproto.Errorf("read the tree", cellproto.BadInput, "%.100q %s", e.path, why)
	}
	switch {
	case len(e.path) > maxClonePath:
		return cellproto.Errorf("read the tree", cellproto.TooLarge, "a path is longer than %d bytes", maxClonePath)
	case !fs.ValidPath(e.path) || e.path == "." || strings.ContainsAny(e.path, "\\\x00"):
		return bad("is not a path within the tree")
	case strings.Count(e.path, "/") > maxCloneDepth:
		return bad("is too deep")
	case e.mode != modeFile && e.mode != modeProgram && e.mode != modeLink:
		return bad("is neither a file nor a link")
	case e.mode == modeLink && e.size > maxLinkTarget:
		return bad("is a link with too long a target")
	}
	for part := range strings.SplitSeq(e.path, "/") {
		if strings.EqualFold(part, ".git") {
			return bad("would be git's own")
		}
	}
	return nil
}

// write writes the files of a commit below dir. Everything is made through root, so that no link of the
// tree leads a later file outside.
func (g git) write(ctx context.Context, root *os.Root, dir, commit string) error {
	entries, err := g.tree(ctx, commit)
	if err != nil {
		return err
	}
	cmd := g.command(ctx, "cat-file", "--batch")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	objects := bufio.NewReader(out)
	for _, e := range entries {
		if _, err = io.WriteString(in, e.object+"\n"); err == nil {
			err = e.write(root, dir, objects)
		}
		if err != nil {
			break
		}
	}
	in.Close()
	if err != nil {
		_ = cmd.Cancel() // it is not read any further
	}
	return errors.Join(err, ctx.Err(), ignoreKilled(cmd.Wait(), err))
}

// ignoreKilled drops the end of a git that was killed because of why.
func ignoreKilled(end, why error) error {
	if why != nil {
		return nil
	}
	return end
}

// write writes one entry, whose object comes next.
func (e entry) write(root *os.Root, dir string, objects *bufio.Reader) error {
	head, err := objects.ReadString('\n')
	if err != nil {
		return err
	}
	words := strings.Fields(head)
	if len(words) != 3 || words[1] != "blob" || words[2] != strconv.FormatInt(e.size, 10) {
		return cellproto.Errorf("read the tree", cellproto.Corrupt, "%.100q is not what the tree says", e.path)
	}
	body := io.LimitReader(objects, e.size)
	name := path.Join(dir, e.path)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return cellproto.Errorf("write the tree", cellproto.BadInput, "%.100q cannot be written: %w", e.path, err)
	}
	if e.mode == modeLink {
		err = e.link(root, dir, body)
	} else {
		err = e.file(root, name, body)
	}
	if err == nil {
		_, err = objects.Discard(1) // the newline behind it
	}
	return err
}

func (e entry) file(root *os.Root, name string, body io.Reader) error {
	mode := os.FileMode(0o644)
	if e.mode == modeProgram {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return cellproto.Errorf("write the tree", cellproto.KindOf(err), "%w", err)
	}
	n, err := io.Copy(f, body)
	if err == nil && n != e.size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, f.Close())
}

// link makes a symbolic link, if it stays within the tree.
func (e entry) link(root *os.Root, dir string, body io.Reader) error {
	target, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	to := path.Join(path.Dir(e.path), string(target))
	if path.IsAbs(string(target)) || !fs.ValidPath(to) || goesBack(string(target)) || bytes.ContainsRune(target, 0) || len(target) == 0 {
		return cellproto.Errorf("write the tree", cellproto.BadInput, "%.100q is a link that leads outside, to %.100q", e.path, target)
	}
	return root.Symlink(string(target), path.Join(dir, e.path))
}

// goesBack reports a .. behind a name: that leads out of wherever the name leads, if it is a link itself.
func goesBack(target string) bool {
	down := false
	for part := range strings.SplitSeq(target, "/") {
		if part == ".." && down {
			return true
		}
		down = down || part != ".." && part != "." && part != ""
	}
	return false
}
