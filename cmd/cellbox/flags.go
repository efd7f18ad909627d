package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/celldnet/celld/node/sandbox"
)

const usageText = `usage: cellbox --dir DIR [options] -- PROGRAM [ARGS]
       cellbox --probe [--json]

Runs PROGRAM, which may read DIR and nothing else of this machine: no other file, no network, no other
process. PROGRAM is a path in DIR, an absolute path, or a name that is looked up in DIR, DIR/bin and
the usual directories. If DIR has a cell.toml only bin/, cell.toml and schema.json are shown.

`

// options is what the command line asks for.
type options struct {
	config  sandbox.Config
	keep    []int
	owner   int    // a descriptor's number; 0 for none
	report  string // a descriptor's number or a file; "" for none
	plan    bool
	probe   bool
	json    bool
	version bool
}

// list is a flag that may be given more than once.
type list struct {
	add func(string) error
}

func (l list) String() string { return "" }

// Set takes in one more.
func (l list) Set(s string) error { return l.add(s) }

// parse reads the command line; help goes to w.
func parse(args []string, w io.Writer) (options, error) {
	o := options{}
	c := &o.config
	fs := flag.NewFlagSet("cellbox", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // main says what is wrong, once
	fs.Usage = func() {}
	fs.StringVar(&c.Dir, "dir", "", "the `directory` that the program may read")
	limitFlags(fs, c)
	fs.Func("system", "what it sees of the system: auto, none or all (default auto: what it needs to start)", func(s string) error {
		c.System = sandbox.System(strings.TrimPrefix(s, "auto"))
		return nil
	})
	fs.Var(list{func(s string) error { c.Read = append(c.Read, s); return nil }}, "read", "a further `path` that it may read; may be repeated")
	fs.Var(list{func(s string) error { c.Env = append(c.Env, s); return nil }}, "env", "`KEY=value` for its environment; may be repeated")
	fs.Var(list{o.keepFD}, "keep-fd", "`number` of a descriptor that it inherits; may be repeated")
	fs.Func("read-rate", "`size` a second that storage delivers to it (default: no bound); it is stopped for a while if it reads faster", func(s string) (err error) {
		c.ReadRate, err = sandbox.ParseSize(s)
		return err
	})
	fs.Func("log-rate", "`size` a second that it may print to standard error (default 64KiB); more is dropped", func(s string) (err error) {
		c.LogRate, err = sandbox.ParseSize(s)
		return err
	})
	fs.BoolVar(&c.LogStdout, "log-stdout", false, "its standard output is a log too")
	fs.StringVar(&c.Cgroup, "cgroup", "", "a control group (v2) of this process's, as a `directory`, or none")
	fs.Var(list{o.pool}, "pool", "`controller=directory` of a control group that is entered first, which bounds more than this program; may be repeated")
	fs.DurationVar(&c.Grace, "grace", 0, "how long it may take to end after SIGTERM (default 5s)")
	fs.DurationVar(&c.Every, "every", 0, "how often --report says what it uses (default 1s)")
	build, isBuild := sandbox.Build{}, false
	fs.BoolVar(&isBuild, "build", false, "it is a build: it starts processes and writes, in a copy of --dir that is gone when it ends")
	buildFlags(fs, &build)
	fs.StringVar(&o.report, "report", "", "descriptor or `file` that takes lines of JSON on what it uses")
	fs.IntVar(&o.owner, "owner-fd", 0, "`number` of a pipe's descriptor: when its other end closes the program is killed")
	fs.BoolVar(&o.plan, "plan", false, "print what would be done, for each tier, and do nothing")
	fs.BoolVar(&o.probe, "probe", false, "print which tiers work here")
	fs.BoolVar(&o.json, "json", false, "with --probe: as JSON")
	fs.BoolVar(&o.version, "version", false, "print the version")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(w, usageText)
		fs.SetOutput(w)
		fs.PrintDefaults()
	}
	if err != nil {
		return o, err
	}
	switch {
	case isBuild:
		c.Build = &build
	case build.Disk != 0 || build.Files != 0 || build.Timeout != 0 || build.Output != nil:
		return o, fmt.Errorf("--disk, --inodes, --timeout and --output are for --build")
	}
	return o, o.finish(fs)
}

// limitFlags adds those that say what the program may use.
func limitFlags(fs *flag.FlagSet, c *sandbox.Config) {
	fs.Func("memory", "`size` of its memory, such as 64MiB (default 256MiB)", func(s string) (err error) {
		c.Memory, err = sandbox.ParseSize(s)
		return err
	})
	fs.Func("cpu", "`share` of the processors: 10% of all of them, or 1.5 cores (default all)", func(s string) (err error) {
		c.CPU, err = sandbox.ParseCPU(s, runtime.NumCPU())
		return err
	})
	fs.Func("tier", "`tier` that must be used: T1, T2 or T3 (default auto, the strongest that works)", func(s string) (err error) {
		c.Tier, err = sandbox.ParseTier(s)
		return err
	})
	fs.IntVar(&c.Threads, "threads", 0, "how many threads it may have (default 64)")
	fs.IntVar(&c.Files, "files", 0, "how many descriptors it may have open (default 256)")
	fs.IntVar(&c.Nice, "nice", 0, "scheduling priority, -1 for the caller's (default 10)")
}

// buildFlags adds those that a build has.
func buildFlags(fs *flag.FlagSet, b *sandbox.Build) {
	fs.Func("disk", "of a build: `size` of that copy and all that it writes (default 512MiB)", func(s string) (err error) {
		b.Disk, err = sandbox.ParseSize(s)
		return err
	})
	fs.IntVar(&b.Files, "inodes", 0, "of a build: how many files and directories there may be (default 50000)")
	fs.DurationVar(&b.Timeout, "timeout", 0, "of a build: how long it may take (default 2m)")
	fs.Var(list{func(s string) error { b.Output = append(b.Output, s); return nil }}, "output", "of a build: a `file` that is copied to --dir if it ends well; may be repeated")
}

func (o *options) pool(s string) error {
	controller, dir, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%.80q is not controller=directory", s)
	}
	if o.config.Pool == nil {
		o.config.Pool = map[string]string{}
	}
	o.config.Pool[controller] = dir
	return nil
}

func (o *options) keepFD(s string) error {
	fd, err := strconv.Atoi(s)
	if err != nil || fd < 3 || fd > 1000 {
		return fmt.Errorf("%.20q is no descriptor between 3 and 1000", s)
	}
	o.keep = append(o.keep, fd)
	return nil
}

// finish checks what belongs together.
func (o *options) finish(fs *flag.FlagSet) error {
	if o.probe || o.version {
		if fs.NArg() > 0 {
			return fmt.Errorf("--probe and --version take no program")
		}
		return nil
	}
	if fs.NArg() == 0 || o.config.Dir == "" {
		return fmt.Errorf("give --dir DIR and, after --, a program; cellbox --help says more")
	}
	if o.owner != 0 && o.owner < 3 {
		return fmt.Errorf("%d is no descriptor above 2", o.owner)
	}
	dir, err := filepath.Abs(o.config.Dir)
	if err != nil {
		return err
	}
	o.config.Dir, o.config.Program, o.config.Args = dir, fs.Arg(0), fs.Args()[1:]
	return o.config.Validate()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
