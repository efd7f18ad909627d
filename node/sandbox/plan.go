package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// verb is what a step does. The words are those of the kernel's calls where it has one.
type verb string

const (
	doWait       verb = "wait"       // until the owner has written the id maps
	doOpenTree   verb = "open_tree"  // take hold of a part of the machine's tree, while it can be named
	doHold       verb = "hold"       // take hold of the directory that the new root is put on
	doSetGroups  verb = "setgroups"  // to none
	doSetGID     verb = "setresgid"  // N
	doSetUID     verb = "setresuid"  // N
	doUmask      verb = "umask"      // N
	doPrivate    verb = "private"    // mounts made here are seen by nobody else
	doWork       verb = "work"       // make the file system in memory that a build works in; What are its options
	doHandOver   verb = "hand_over"  // that to the owner, who fills it
	doTmpfs      verb = "tmpfs"      // an empty root in memory; What are its options
	doPutRoot    verb = "put_root"   // on the directory held
	doMkdir      verb = "mkdir"      // below the new root
	doMkfile     verb = "mkfile"     // below the new root
	doSymlink    verb = "symlink"    // What, below the new root, to To
	doBind       verb = "bind"       // the tree What below the new root, read-only
	doSeal       verb = "seal"       // the new root is read-only
	doPivot      verb = "pivot_root" // and the old root is gone
	doHostname   verb = "sethostname"
	doAnnounce   verb = "announce" // tell the owner the process's number
	doJoin       verb = "join"     // the Nth control group
	doSession    verb = "setsid"
	doTether     verb = "tether"  // it ends with the guard, which has one thread and no namespace
	doInherit    verb = "inherit" // the standard descriptors and those of Keep; all others end with exec
	doRlimit     verb = "rlimit"  // What to N
	doNice       verb = "nice"    // N
	doChroot     verb = "chroot"  // What
	doChdir      verb = "chdir"   // What
	doNoNewPrivs verb = "no_new_privs"
	doDropBound  verb = "drop_bounding" // capabilities 0 to N
	doSecureBits verb = "securebits"    // user 0 is nobody special
	doDropCaps   verb = "drop_caps"
	doLandlock   verb = "landlock"
	doSignals    verb = "signals" // as a fresh process has them
	doSeccomp    verb = "seccomp"
	doExec       verb = "exec" // What
	doExit       verb = "exit" // instead of exec: all before it worked
)

// step is one thing on the way into the sandbox. All steps must succeed, but for soft ones.
type step struct {
	Do   verb
	What string
	To   string
	N    int64
	Soft bool
}

// String gives the step as it stands in transcripts and in errors.
func (s step) String() string {
	words := []string{string(s.Do)}
	if s.What != "" {
		words = append(words, s.What)
	}
	if s.To != "" {
		words = append(words, "->", s.To)
	}
	switch s.Do {
	case doSetGID, doSetUID, doRlimit, doNice, doDropBound, doJoin:
		words = append(words, fmt.Sprint(s.N))
	case doUmask:
		words = append(words, fmt.Sprintf("%04o", s.N))
	}
	if s.Soft {
		words = append(words, "(if it can)")
	}
	return strings.Join(words, " ")
}

// plan is everything that is done to confine one program. It is made by makePlan and not changed.
type plan struct {
	Tier       Tier
	Namespaces []string   // that the guard begins in
	OutUID     int        // with a user namespace: whom its user and group 0 are outside
	OutGID     int        //
	Groups     bool       // supplementary groups can be, and are, dropped
	Guard      []step     // done by the guard, before it makes the program's process
	Program    []step     // done by the program's process
	Landlock   *ruleset   // nil: none
	Filter     []callRule // of seccomp
	Family     bool       // the program may start others
	Dir        string     // for a build: what its work is a copy of,
	Cell       bool       // and whether that is a cell's directory
	WorkUID    int        // and whose the copy is
	Path       string     // of the program, as it is named inside
	Env        []string
}

// makePlan decides how the program is confined in tier t. It is a pure function. dry plans end where
// the program would begin. c has its defaults.
func makePlan(c Config, f facts, t Tier, dry bool) (*plan, error) {
	if err := allowed(c, f, t); err != nil {
		return nil, err
	}
	seen := visible(f, c)
	p := &plan{Tier: t, OutUID: f.UID, OutGID: f.GID, Groups: f.Root, Path: f.Program}
	if c.Build != nil {
		p.Family, p.Dir, p.Cell, p.WorkUID = true, f.Dir, f.CellDir, f.UID
	}
	cwd := f.Dir
	p.Filter = filterRules(t, f.ABI, c.Build != nil)
	// A session of its own: who kills the owner's process group leaves the guard to clean up.
	p.Guard = []step{{Do: doWait}, {Do: doSession}}
	if t == T1 {
		p.Namespaces = []string{"user", "mount", "pid", "net", "ipc", "uts", "cgroup"}
		p.Guard = append(p.Guard, newRoot(c, f, seen)...)
	}
	if t == T3 {
		in := jail(f)
		p.Path, cwd = "/"+strings.TrimPrefix(strings.TrimPrefix(f.Program, in), "/"), "/"
	} else {
		p.Landlock = makeRuleset(seen, f.ABI)
	}
	p.Env = environment(c, f, cwd)
	p.Program = confine(c, f, t, cwd)
	if dry {
		p.Program = append(p.Program, step{Do: doExit})
	} else {
		p.Program = append(p.Program, step{Do: doExec, What: p.Path})
	}
	return p, nil
}

// allowed says why a tier cannot be, before anything is tried.
func allowed(c Config, f facts, t Tier) error {
	refuse := func(format string, args ...any) error {
		return cellproto.Errorf("plan "+t.String(), cellproto.Unavailable, format, args...)
	}
	switch {
	case t != T1 && c.Build != nil:
		return refuse("what a build starts ends for certain only in a process namespace")
	case t != T3 && f.ABI < 1:
		return refuse("this kernel has no Landlock")
	case t != T3:
		return nil
	case !f.Root:
		return refuse("it needs root")
	case f.Dynamic || c.System == SystemAll:
		return refuse("the program needs files of the system, which are not in its directory")
	case len(f.Extra) > 0:
		return refuse("it shows the program nothing but its directory")
	case slices.Contains(f.Owners, f.UID):
		return refuse("what is in %s belongs to user %d, as whom the program would run", jail(f), f.UID)
	case !strings.HasPrefix(f.Program, jail(f)+"/"):
		return refuse("the program is not in %s", jail(f))
	}
	return nil
}

// jail is the directory that T3 makes the root.
func jail(f facts) string {
	if f.CellDir {
		return path.Join(f.Dir, "bin")
	}
	return f.Dir
}

// newRoot gives the steps that leave nothing of the machine's tree but what seen names. What it takes
// hold of it does as the user that it still is; from setresuid on it may not be able to name it.
func newRoot(c Config, f facts, seen []root) []step {
	steps := []step{{Do: doHold, What: f.Dir}}
	for _, r := range seen {
		if r.Kind != linkRoot && r.Kind != workRoot {
			steps = append(steps, step{Do: doOpenTree, What: r.Path})
		}
	}
	if f.Root {
		steps = append(steps, step{Do: doSetGroups})
	}
	steps = append(steps, step{Do: doSetGID}, step{Do: doSetUID}, step{Do: doUmask, N: 0o022},
		step{Do: doPrivate})
	if b := c.Build; b != nil {
		options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=0700", b.Disk, b.Files)
		steps = append(steps, step{Do: doWork, What: options}, step{Do: doHandOver}, step{Do: doWait})
	}
	steps = append(steps, step{Do: doTmpfs, What: "size=256k,nr_inodes=1024,mode=0755"}, step{Do: doPutRoot})
	made := map[string]bool{}
	mkdir := func(dirs ...string) {
		for _, d := range dirs {
			if !made[d] && !slices.ContainsFunc(seen, func(r root) bool { return r.covers(d) && r.Path != d }) {
				made[d] = true
				steps = append(steps, step{Do: doMkdir, What: d})
			}
		}
	}
	for _, r := range seen {
		mkdir(parents(r.Path)...)
		switch r.Kind {
		case linkRoot:
			steps = append(steps, step{Do: doSymlink, What: r.Path, To: r.Target})
			continue
		case dirRoot, workRoot:
			mkdir(r.Path)
		default:
			steps = append(steps, step{Do: doMkfile, What: r.Path})
		}
		steps = append(steps, step{Do: doBind, What: r.Path, To: kindWords[r.Kind]})
	}
	mkdir(append(parents(f.Dir), f.Dir)...)
	return append(steps, step{Do: doSeal}, step{Do: doPivot}, step{Do: doHostname, What: "cell"})
}

// goSlack is what RLIMIT_DATA allows beyond the quota: a Go program reserves data that it never
// touches, and stops when it cannot (measured).
const goSlack = 96 << 20

const (
	// noCore is a limit that leaves no core, neither in a file nor, as 0 does, in a pipe to a helper of the
	// machine that runs as root: the kernel's do_coredump treats it so.
	noCore    = 1
	stackMost = 8 << 20 // the usual one; its maximum is unlimited, and it is no data
)

// confine gives the steps of the program's own process, up to exec. The order matters: each takes
// away what a later one does not need.
func confine(c Config, f facts, t Tier, cwd string) []step {
	steps := []step{{Do: doAnnounce}}
	for i := range f.Join {
		steps = append(steps, step{Do: doJoin, N: int64(i)})
	}
	steps = append(steps, step{Do: doSession}, step{Do: doInherit})
	limits := []step{
		{What: "CORE", N: noCore}, {What: "FSIZE"}, {What: "MEMLOCK"}, {What: "MSGQUEUE"}, {What: "RTPRIO"},
		{What: "STACK", N: stackMost}, {What: "NOFILE", N: int64(c.Files)}, {What: "SIGPENDING", N: 256}, {What: "DATA", N: c.Memory + goSlack},
	}
	if t != T2 { // where the kernel counts all processes of the user, those of the owner too
		limits = append(limits, step{What: "NPROC", N: int64(c.Threads) + 2})
	}
	for _, l := range limits {
		if l.Do = doRlimit; l.What == "FSIZE" && c.Build != nil {
			l.N = c.Build.Disk
		}
		steps = append(steps, l)
	}
	if c.Nice > 0 {
		steps = append(steps, step{Do: doNice, N: int64(c.Nice), Soft: true})
	}
	if t == T3 {
		steps = append(steps, step{Do: doChroot, What: jail(f)})
	}
	steps = append(steps, step{Do: doChdir, What: cwd}, step{Do: doUmask, N: 0o077}, step{Do: doNoNewPrivs})
	if t == T1 || f.Root {
		soft := t == T2 // in a container root may lack the capability; exec gives nothing there anyway
		steps = append(steps, step{Do: doDropBound, N: int64(f.LastCap), Soft: soft}, step{Do: doSecureBits, Soft: soft})
	}
	if t != T1 && f.Root {
		steps = append(steps, step{Do: doSetGroups}, step{Do: doSetGID, N: int64(f.GID)}, step{Do: doSetUID, N: int64(f.UID)})
	}
	if t != T1 {
		steps = append(steps, step{Do: doTether})
	}
	steps = append(steps, step{Do: doDropCaps})
	if t != T3 {
		steps = append(steps, step{Do: doLandlock})
	}
	return append(steps, step{Do: doSignals}, step{Do: doSeccomp})
}

// safePath is the search path of programs that are not the owner's.
const safePath = "/usr/local/bin:/usr/bin:/bin"

// workTemp is where a build's temporary files are, below Dir.
const workTemp = ".tmp"

// environment gives the program's environment, sorted. Nothing of the owner's is in it but the
// locale: an environment may hold keys.
func environment(c Config, f facts, dir string) []string {
	// What a Go program would find out by reading files that it cannot see.
	env := map[string]string{
		"PATH": safePath, "HOME": "/", cellproto.EnvDir: dir,
		"GOMEMLIMIT": fmt.Sprint(c.Memory / 10 * 9), "GOMAXPROCS": fmt.Sprint(max(1, int(c.CPU+0.999))),
	}
	if c.Build != nil {
		env["HOME"], env["TMPDIR"] = dir, path.Join(dir, workTemp)
	}
	for _, kv := range slices.Concat(f.Locale, c.Env) {
		if key, value, ok := strings.Cut(kv, "="); ok {
			env[key] = value
		}
	}
	list := make([]string, 0, len(env))
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}

// String gives the plan as a transcript, one line a decision.
func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tier %v\n", p.Tier)
	if p.Namespaces != nil {
		fmt.Fprintf(&b, "namespaces %s\nuser 0 is %d, group 0 is %d, groups dropped: %v\n",
			strings.Join(p.Namespaces, " "), p.OutUID, p.OutGID, p.Groups)
	}
	if p.Family {
		fmt.Fprintf(&b, "works in a copy of %s; may start processes\n", p.Dir)
	}
	for _, s := range p.Guard {
		fmt.Fprintf(&b, "guard: %v\n", s)
	}
	for _, s := range p.Program {
		fmt.Fprintf(&b, "program: %v\n", s)
	}
	if p.Landlock != nil {
		b.WriteString(p.Landlock.String())
	}
	for _, kv := range p.Env {
		fmt.Fprintf(&b, "env: %s\n", kv)
	}
	return b.String()
}

// splitOptions reads "a=1,b=2".
func splitOptions(s string) (list [][2]string) {
	for o := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(o, "=")
		list = append(list, [2]string{key, value})
	}
	return list
}
