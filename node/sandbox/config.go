package sandbox

import (
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Bounds and defaults of Config.
const (
	defaultMemory  = 256 << 20
	minMemory      = 4 << 20
	maxMemory      = 1 << 46
	minCPU         = 0.01
	defaultThreads = 64
	maxThreads     = 4096
	defaultFiles   = 256
	minFiles       = 16
	maxFiles       = 65536
	defaultNice    = 10
	maxNice        = 19
	defaultLogRate = 64 << 10
	defaultGrace   = 5 * time.Second
	maxGrace       = 10 * time.Minute
	defaultEvery   = time.Second
	minEvery       = 100 * time.Millisecond
	maxPaths       = 64
	maxArgs        = 1024

	// Of builds.
	defaultBuildMemory  = 1 << 30
	defaultBuildThreads = 256
	defaultBuildDisk    = 512 << 20
	minBuildDisk        = 1 << 20
	defaultBuildFiles   = 50_000
	minBuildFiles       = 16
	maxBuildFiles       = 10_000_000
	defaultBuildTimeout = 2 * time.Minute
	maxBuildTimeout     = 24 * time.Hour
	maxOutputs          = 64
)

// System says which of the machine's own programs and libraries a confined program sees.
type System string

// What a program may see of the system, always read-only.
const (
	// SystemAuto is SystemAll for a program that needs an interpreter or a dynamic linker, and
	// SystemNone for a static one.
	SystemAuto System = ""
	SystemNone System = "none"
	SystemAll  System = "all" // /usr, /lib and the like, and what the dynamic linker reads in /etc
)

// Control groups that a Config can name instead of a directory.
const (
	CgroupAuto = ""     // one below this process's own, if it can be made
	CgroupNone = "none" // none: the duty cycle and the watchdog hold the limits
)

// Config says what is run and within which bounds. Dir and Program must be set.
type Config struct {
	// Dir is the directory that the program may read; absolute, not the root. If it has a cell.toml
	// it is a cell's, and the program sees of it only bin/, cell.toml and schema.json: not the keys,
	// not the sockets, not what the cell keeps.
	Dir string
	// Program is what is run: a path relative to Dir, an absolute path, or, without a slash, a
	// name that is looked up in Dir, in Dir/bin and in the usual directories.
	Program string
	// Args are its arguments, without its name; at most 1024.
	Args []string
	// Env is added to its environment, as "KEY=value". It is otherwise PATH, HOME, the locale, the
	// time zone, and what tells a Go program its limits.
	Env []string
	// Read are further absolute paths that it may read; at most 64.
	Read []string
	// System says what it sees of the machine's programs and libraries.
	System System
	// Tier is Auto or the only one that will do.
	Tier Tier

	// Memory in bytes: default 256 MiB, at least 4 MiB.
	Memory int64
	// CPU in cores: default all of them, at least 0.01.
	CPU float64
	// Threads bounds its threads: default 64, at most 4096.
	Threads int
	// Files bounds its open descriptors: default 256, 16 to 65536.
	Files int
	// ReadRate bounds, in bytes a second, what storage delivers to it, on average: who reads faster is stopped for a while. 0:
	// no bound but that of a control group. What it has in the system's cache costs nothing and counts nothing.
	ReadRate int64
	// Nice is the scheduling priority, 0 to 19: default 10. NiceNone is 0.
	Nice int
	// LogRate bounds, in bytes a second, what it may print to the standard error, and to the
	// standard output if LogStdout is set: default 64 KiB, with as much as 1 MiB at once. What is
	// more is dropped and counted.
	LogRate int64
	// LogStdout says that the standard output is a log too, and not the program's answers.
	LogStdout bool
	// Cgroup is a directory of the control groups (v2) that belongs to this process, or CgroupAuto
	// or CgroupNone.
	Cgroup string
	// Pool are the groups of a Pool, which cellbox enters before it starts the program; Cgroup is not set then.
	Pool map[string]string

	// Grace is how long it may take to end after SIGTERM: default 5 s, at most 10 min.
	Grace time.Duration
	// Every is how often Deps.Report is called: default 1 s, at least 100 ms.
	Every time.Duration

	// Build lets it do what a build needs; nil for all other programs.
	Build *Build
}

// Build is what a program may do that turns source into programs, beyond what all may: it starts
// processes, which all end with it, and it works in a copy of Dir that it may write. The copy is in
// memory and is gone when it ends; Dir is only read, and gets the outputs. It needs T1: without a
// process namespace what it starts could outlive it. System is SystemAll for it unless it is set, Memory
// is 1 GiB and is that of all processes together, and so is Threads, 256.
type Build struct {
	// Disk bounds, in bytes, the copy and all that is written: default 512 MiB, at least 1 MiB. It
	// comes on top of Memory.
	Disk int64
	// Files bounds how many files and directories there are: default 50,000, 16 to 10 million.
	Files int
	// Timeout is how long it may take: default 2 minutes, at most a day.
	Timeout time.Duration
	// Output are files, as paths relative to Dir, that are copied to Dir when the program has ended
	// with status 0: at most 64, regular files all. They are a stranger's work like the source.
	Output []string
}

// NiceNone leaves the scheduling priority as it is.
const NiceNone = -1

// WithDefaults gives c with every zero field set that has a default.
func (c Config) WithDefaults() Config {
	if c.Build != nil {
		b := *c.Build
		setDefault(&b.Disk, defaultBuildDisk)
		setDefault(&b.Files, defaultBuildFiles)
		setDefault(&b.Timeout, defaultBuildTimeout)
		setDefault(&c.Memory, defaultBuildMemory)
		setDefault(&c.Threads, defaultBuildThreads)
		setDefault(&c.System, SystemAll)
		c.Build = &b
	}
	setDefault(&c.Memory, defaultMemory)
	setDefault(&c.CPU, float64(runtime.NumCPU()))
	setDefault(&c.Threads, defaultThreads)
	setDefault(&c.Files, defaultFiles)
	setDefault(&c.Nice, defaultNice)
	setDefault(&c.LogRate, defaultLogRate)
	setDefault(&c.Grace, defaultGrace)
	setDefault(&c.Every, defaultEvery)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first field that is out of bounds, with kind BadInput. Zero fields that have a
// default are in bounds.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return cellproto.Errorf("check sandbox config", cellproto.BadInput, format, args...)
	}
	switch c = c.WithDefaults(); {
	case !filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) == "/":
		return bad("Dir %q is not an absolute path below the root", c.Dir)
	case c.Program == "":
		return bad("there is no program to run")
	case len(c.Args) > maxArgs:
		return bad("%d arguments are more than %d", len(c.Args), maxArgs)
	case c.System != SystemAuto && c.System != SystemNone && c.System != SystemAll:
		return bad("System %q is not none or all", string(c.System))
	case c.Tier > T3:
		return bad("there is no tier %d", uint8(c.Tier))
	case c.Memory < minMemory || c.Memory > maxMemory:
		return bad("Memory is %d bytes, not between 4 MiB and 64 TiB", c.Memory)
	case !(c.CPU >= minCPU && c.CPU <= 4096):
		return bad("CPU is %v cores, not at least %v", c.CPU, minCPU)
	case c.Threads < 1 || c.Threads > maxThreads:
		return bad("Threads is %d, not between 1 and %d", c.Threads, maxThreads)
	case c.Files < minFiles || c.Files > maxFiles:
		return bad("Files is %d, not between %d and %d", c.Files, minFiles, maxFiles)
	case c.Nice < NiceNone || c.Nice > maxNice:
		return bad("Nice is %d, not between 0 and %d", c.Nice, maxNice)
	case c.ReadRate < 0 || c.ReadRate > maxBytes:
		return bad("ReadRate is %d", c.ReadRate)
	case c.LogRate < 1 || c.LogRate > maxBytes:
		return bad("LogRate is %d", c.LogRate)
	case c.Cgroup != CgroupAuto && c.Cgroup != CgroupNone && !filepath.IsAbs(c.Cgroup):
		return bad("Cgroup %q is not an absolute path", c.Cgroup)
	case len(c.Pool) > 0 && c.Cgroup != CgroupAuto:
		return bad("both Pool and Cgroup are set")
	case c.Grace < 0 || c.Grace > maxGrace:
		return bad("Grace is %v, not between 0 and %v", c.Grace, maxGrace)
	case c.Every < minEvery:
		return bad("Every is %v, less than %v", c.Every, minEvery)
	case len(c.Read) > maxPaths:
		return bad("%d paths to read are more than %d", len(c.Read), maxPaths)
	}
	if err := c.Build.validate(c.Tier, bad); err != nil {
		return err
	}
	return c.validateText(bad)
}

// validate checks a build that has its defaults.
func (b *Build) validate(t Tier, bad func(string, ...any) error) error {
	switch {
	case b == nil:
		return nil
	case t != Auto && t != T1:
		return bad("a build needs T1, and Tier is %v", t)
	case b.Disk < minBuildDisk || b.Disk > maxBytes:
		return bad("Build.Disk is %d bytes, not at least 1 MiB", b.Disk)
	case b.Files < minBuildFiles || b.Files > maxBuildFiles:
		return bad("Build.Files is %d, not between %d and %d", b.Files, minBuildFiles, maxBuildFiles)
	case b.Timeout <= 0 || b.Timeout > maxBuildTimeout:
		return bad("Build.Timeout is %v, not between 0 and %v", b.Timeout, maxBuildTimeout)
	case len(b.Output) > maxOutputs:
		return bad("%d outputs are more than %d", len(b.Output), maxOutputs)
	}
	for _, p := range b.Output {
		if !filepath.IsLocal(p) || filepath.Clean(p) == "." || strings.ContainsRune(p, 0) {
			return bad("the output %.40q is not a path below Dir", p)
		}
	}
	return nil
}

// validateText checks what is text: no system call takes a zero byte.
func (c Config) validateText(bad func(string, ...any) error) error {
	for _, p := range c.Read {
		if !filepath.IsAbs(p) || filepath.Clean(p) == "/" {
			return bad("the path to read %q is not an absolute path below the root", p)
		}
	}
	for controller, dir := range c.Pool {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(controller, "=\x00") || strings.ContainsRune(dir, 0) {
			return bad("the group %q of %q is not an absolute path", dir, controller)
		}
	}
	for _, kv := range c.Env {
		if key, _, ok := strings.Cut(kv, "="); !ok || key == "" {
			return bad("the environment has an entry %.40q that is not KEY=value", kv)
		}
	}
	for _, s := range slices.Concat([]string{c.Dir, c.Program, c.Cgroup}, c.Args, c.Env, c.Read) {
		if strings.ContainsRune(s, 0) {
			return bad("%.40q has a zero byte in it", s)
		}
	}
	return nil
}
