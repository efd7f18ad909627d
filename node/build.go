package node

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/mirror/offer"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/program"
	"github.com/celldnet/celld/node/sandbox"
)

// builder builds sources of strangers in the sandbox: no network, no home, nothing written but the output.
type builder struct{ n *nucleus }

// Limits of a build. Its files and its memory come on top of each other.
const (
	buildDisk    = 512 << 20
	buildMemory  = 1 << 30
	buildTimeout = 5 * time.Minute
	toolsTimeout = 10 * time.Second // for a toolchain to say where it is
	maxBuildTail = 300              // bytes of what a build has printed, for its error
)

// Build does a job. What it prints goes to log/build.log of this cell.
func (b builder) Build(ctx context.Context, job mirror.Job) error {
	op := "build " + filepath.Base(job.Dir)
	launcher, err := sandbox.FindLauncher(os.Getenv)
	if err != nil {
		return err
	}
	c := sandbox.Config{
		Dir: job.Dir, Program: "/bin/sh", Args: []string{"-c", "mkdir -p bin && " + job.Command}, Memory: buildMemory, LogStdout: true,
		Build: &sandbox.Build{Disk: buildDisk, Timeout: buildTimeout, Output: []string{job.Output}},
	}
	if job.Hosted {
		boundBuild(&c, b.n.giver.BuildPlace(ctx))
	}
	if c.Read, c.Env, err = toolchain(ctx, job.Tools); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	out, printed, err := b.record(op)
	if err != nil {
		return err
	}
	p, err := sandbox.Confine(ctx, launcher, c, sandbox.Deps{Stdout: out, Stderr: out})
	out.Close()
	if err != nil {
		printed()
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	end, tail := p.Wait(), printed()
	switch {
	case ctx.Err() != nil:
		return cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	case end.Why == sandbox.WhyTimeout:
		return cellproto.Errorf(op, cellproto.Timeout, "it takes longer than %v", c.Build.Timeout)
	case end.Err() != nil:
		return cellproto.Errorf(op, cellproto.Failed, "%w", end.Err()).WithHint("%s", cellproto.HintOf(end.Err()))
	case end.Exit != 0 || end.Signal != "":
		why := end.Why
		if why != "" {
			why = ", by its sandbox: " + why
		}
		return cellproto.Errorf(op, cellproto.Failed, "it ended with status %d%s: %s", end.Exit, why, tail).
			WithHint("A build has no network: its source has to bring what it needs. See log/build.log.")
	}
	return nil
}

// record gives what a build prints to, which goes to log/build.log. printed gives the end of it, once out and its copies are
// closed, and is called once.
func (b builder) record(op string) (out *os.File, printed func() *tail, err error) {
	log, err := program.OpenLog(filepath.Join(b.n.cfg.Dir, "log", "build.log"))
	if err != nil {
		return nil, nil, err
	}
	r, out, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	end, read := &tail{}, make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		defer log.Close()
		buf := make([]byte, 4<<10)
		for {
			n, err := r.Read(buf)
			harmless(buf[:n])
			_, _ = log.Write(buf[:n]) // a full disk shows elsewhere
			end.add(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return out, func() *tail { <-read; return end }, nil
}

// boundBuild keeps a build for others within what this machine gives: in the group of all that is hosted, else
// with the share of one cell. There it takes as long as whoever asks for it waits.
func boundBuild(c *sandbox.Config, p *give.Placement) {
	c.Build.Disk = min(c.Build.Disk, max(p.Memory/3, leastMemory)) // it is in memory
	c.Memory = max(min(c.Memory, p.Memory-c.Build.Disk), leastMemory)
	c.Build.Timeout = offer.TakeTimeout
	if c.Pool = p.Groups; len(c.Pool) == 0 {
		c.CPU = max(p.CPU, leastCPU)
	}
}

// harmless takes out of a text what could drive a terminal.
func harmless(text []byte) {
	for i, b := range text {
		if b < ' ' && b != '\n' && b != '\t' || b == 0x7f {
			text[i] = '?'
		}
	}
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) add(p []byte) {
	t.b = append(t.b, p...)
	t.b = t.b[max(len(t.b)-maxBuildTail, 0):]
}

// String gives it in a line.
func (t *tail) String() string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(t.b), "?")), " ")
}

const systemPath = "/usr/local/bin:/usr/bin:/bin"

// toolchain says what a build may read besides the system, and its environment.
func toolchain(ctx context.Context, tools mirror.Tools) (read, env []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, toolsTimeout)
	defer cancel()
	where := func(name string, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		dir := strings.TrimSpace(string(out))
		if err == nil && !filepath.IsAbs(dir) {
			err = exec.ErrNotFound
		}
		if err != nil {
			return "", cellproto.Errorf("look for "+name, cellproto.Unsupported, "this source needs it: %w", err).
				WithHint("Install %s, or ask the cell's owner for a program for this machine.", name)
		}
		return dir, nil
	}
	switch tools {
	case mirror.Go:
		root, err := where("go", "env", "GOROOT")
		return []string{root}, []string{
			"GOROOT=" + root, "PATH=" + root + "/bin:" + systemPath, "GOTOOLCHAIN=local", "GOPROXY=off", "GOFLAGS=", "GOWORK=off",
			"CGO_ENABLED=0", "GOTELEMETRY=off",
		}, err
	case mirror.Cargo:
		root, err := where("rustc", "--print", "sysroot")
		// rustc finds its library, and its linker itself, by /proc/self/exe, which is not there.
		return []string{root}, []string{
			"PATH=" + root + "/bin:" + systemPath, "LD_LIBRARY_PATH=" + root + "/lib", "RUSTFLAGS=-Clink-arg=-fuse-ld=bfd", "CARGO_NET_OFFLINE=true",
		}, err
	}
	return nil, []string{"PATH=" + systemPath}, nil
}
