package program

import (
	"io"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// Defaults of Config.
const (
	defaultStartTimeout = 10 * time.Second
	defaultStopTimeout  = 5 * time.Second
	defaultConcurrency  = 100
	maxTimeout          = 10 * time.Minute // of a start and of each step of a stop
)

// Config says what is run and how. Dir, Name and Binary must be set.
type Config struct {
	// Dir is the cell's directory, absolute. It is the program's working directory.
	Dir string
	// Name is the cell's name.
	Name string
	// Binary is the program, relative to Dir and inside of it.
	Binary string
	// Speaks is celltoml.Frames (default) or celltoml.JSONL.
	Speaks celltoml.Speaks
	// StartTimeout is how long the program has to say hello; default 10 s, at most 10 min.
	StartTimeout time.Duration
	// StopTimeout is how long a program has to end by itself after goaway, and again after SIGTERM;
	// then it is killed. Default 5 s, at most 10 min.
	StopTimeout time.Duration
	// IdleTimeout is after how long without a call the program is stopped. 0: never.
	IdleTimeout time.Duration
	// FreezeAfter is after how long without a call the program's processes are stopped where they are
	// (SIGSTOP), until the next one. 0: never. A program that says CapBackground never is.
	FreezeAfter time.Duration
	// Concurrency bounds the calls in flight; default 100, at most cellproto.MaxStreams.
	Concurrency int
	// Env is added to the program's environment, which is otherwise PATH, HOME, the locale, TZ,
	// TMPDIR and what EnvDir, EnvName, EnvFD and EnvHandoff of cellproto name. Those cannot be set.
	Env map[string]string
	// Sandbox confines the program; nil: it is the owner's own. A confined one sees of its environment
	// only EnvName, EnvFD, Env and what the sandbox sets, and has the sandbox's view of Dir.
	Sandbox *Sandbox
}

// Deps is what a Program needs of others. All may be nil.
type Deps struct {
	// Log takes what happens to the program.
	Log *zap.Logger
	// Output takes what the program prints, one line a Write: at most 64 KiB a second, control bytes
	// escaped. Usually a *Log.
	Output io.Writer
	// Accept takes the program's calls to other cells; see cellproto.Config. Nil refuses them.
	Accept func(c *cellproto.Conn, f *cellproto.Frame)
	// RolledBack is told when a new program was no good and the one before it was taken up again. c was
	// the connection to the new one, nil if it had none. It must not wait for the Program. Nil: nothing.
	RolledBack func(c *cellproto.Conn, why error)
	// Proven is told when a new program is not on trial any more: it takes connections of callers from now
	// on. It must not wait for the Program. Nil: nothing.
	Proven func()
}

func (c Config) withDefaults() Config {
	if c.Speaks == "" {
		c.Speaks = celltoml.Frames
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = defaultStartTimeout
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = defaultStopTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	return c
}

// Validate reports the first field that is out of bounds, with kind BadInput. Zero fields that have
// a default are in bounds.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return cellproto.Errorf("check program config", cellproto.BadInput, format, args...)
	}
	switch c = c.withDefaults(); {
	case !filepath.IsAbs(c.Dir):
		return bad("Dir %q is not an absolute path", c.Dir)
	case !cellproto.ValidCellName(c.Name):
		return bad("%.80q is not the name of a cell", c.Name)
	case c.Binary == "." || !filepath.IsLocal(c.Binary):
		return bad("Binary %q is not a path inside of the cell's directory", c.Binary)
	case c.Speaks != celltoml.Frames && c.Speaks != celltoml.JSONL:
		return cellproto.Errorf("check program config", cellproto.Unsupported,
			"this version starts no program that speaks %q", string(c.Speaks))
	case c.StartTimeout < 0 || c.StartTimeout > maxTimeout:
		return bad("StartTimeout is %v, not between 0 and %v", c.StartTimeout, maxTimeout)
	case c.StopTimeout < 0 || c.StopTimeout > maxTimeout:
		return bad("StopTimeout is %v, not between 0 and %v", c.StopTimeout, maxTimeout)
	case c.IdleTimeout < 0 || c.FreezeAfter < 0:
		return bad("IdleTimeout is %v, FreezeAfter %v", c.IdleTimeout, c.FreezeAfter)
	case c.Sandbox != nil && !filepath.IsAbs(c.Sandbox.Launcher):
		return bad("Sandbox.Launcher %q is not an absolute path", c.Sandbox.Launcher)
	case c.Concurrency < 0 || c.Concurrency > cellproto.MaxStreams:
		return bad("Concurrency is %d, not between 1 and %d", c.Concurrency, cellproto.MaxStreams)
	}
	for key, value := range c.Env {
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00") || strings.Contains(value, "\x00"):
			return bad("Env has an entry %q that no environment can hold", key)
		case key == cellproto.EnvFD || key == cellproto.EnvHandoff || key == cellproto.EnvDir || key == cellproto.EnvName:
			return bad("Env sets %s, which is the nucleus's", key)
		}
	}
	return nil
}
