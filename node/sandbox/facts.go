package sandbox

import (
	"hash/fnv"
	"path"
	"slices"
	"strings"
)

// facts is what the policy needs to know of this machine and of the program. It is found out once,
// before anything is decided.
type facts struct {
	Root     bool // the caller is root
	UID, GID int  // of the machine: whom the program runs as
	LastCap  int  // the highest capability that the kernel knows
	ABI      int  // of Landlock; 0: there is none
	Scripted bool // the program is a script
	Dynamic  bool // the program needs files of the system: it is a script or dynamically linked

	Dir     string // Config.Dir without symbolic links
	Program string // absolute
	Owners  []int  // of Dir, of T3's root and of the program
	CellDir bool   // Dir is a cell's: not all of it may be seen
	Own     []root // what there is of Dir that the program may see
	System  []root // what there is of the system
	Devices []root
	Extra   []root // Config.Read
	Locale  []string
	Keep    []int // numbers of the descriptors, besides 0 to 2, that it inherits
	Join    int   // how many control groups (v1) it enters by itself
}

// rootKind is what sort of file a root is.
type rootKind uint8

const (
	dirRoot    rootKind = iota // a directory with all below it
	fileRoot                   // a file
	deviceRoot                 // a device that may be written
	linkRoot                   // a symbolic link to root.Target
	workRoot                   // where a build works: the copy, with all below it
)

var kindWords = [...]string{dirRoot: "dir", fileRoot: "file", deviceRoot: "device", linkRoot: "link", workRoot: "work"}

// root is a part of the machine that the program sees, under the same name. It is read-only, but for
// workRoot.
type root struct {
	Path   string
	Kind   rootKind
	Target string
}

// systemPaths is what programs of a system need to start. Nothing below /home, /root, /var, /run or
// /proc is in it, and of /etc only what the dynamic linker and the C library read at once.
func systemPaths() []string {
	return []string{
		"/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store", "/gnu/store",
		"/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
		"/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path", "/etc/ld-musl-armhf.path",
	}
}

// devicePaths is what programs expect of every machine. Not /dev/zero: mapped it is shared memory, which
// no limit counts.
func devicePaths() []string {
	return []string{"/dev/null", "/dev/full", "/dev/random", "/dev/urandom"}
}

// cellPaths is what a program sees of its cell's directory.
func cellPaths() []string { return []string{"bin", "cell.toml", "schema.json"} }

// visible gives the roots that the program sees, sorted so that none stands before one that it lies
// in, and without those that another one covers.
func visible(f facts, c Config) []root {
	all := slices.Concat(f.Own, f.Extra, f.Devices)
	if c.Build != nil {
		all = slices.Concat([]root{{Path: f.Dir, Kind: workRoot}}, f.Extra, f.Devices)
	}
	if c.System == SystemAll || c.System == SystemAuto && f.Dynamic {
		all = append(all, f.System...)
	}
	all = append(all, root{Path: f.Program, Kind: fileRoot}) // covered, unless it lies elsewhere
	slices.SortStableFunc(all, func(a, b root) int { return strings.Compare(a.Path, b.Path) })
	var out []root
	for _, r := range all {
		covered := slices.ContainsFunc(out, func(o root) bool { return o.covers(r.Path) })
		if !covered || r.Kind == workRoot && !slices.ContainsFunc(out, func(o root) bool { return o.Path == r.Path }) {
			out = append(out, r)
		}
	}
	return out
}

// covers says that p is r or lies in it. What lies behind a link is where the link points to.
func (r root) covers(p string) bool {
	return p == r.Path || (r.Kind == dirRoot || r.Kind == linkRoot || r.Kind == workRoot) && strings.HasPrefix(p, r.Path+"/")
}

// parents gives the directories that must be there for p, outermost first, without the root.
func parents(p string) []string {
	var list []string
	for d := path.Dir(p); d != "/" && d != "."; d = path.Dir(d) {
		list = append(list, d)
	}
	slices.Reverse(list)
	return list
}

// Users for programs that root starts: one for each directory, so that they cannot signal each other,
// from a range that no system gives to people, services (systemd's ends at 65519) or containers
// (which begin at 100000 and 524288).
const (
	foreignBase = 0x70000000
	foreignMany = 1 << 20
	nobody      = 65534
)

// foreignID gives the user and group that root starts dir's program as. highest is the largest number
// that this process's user namespace knows; a small one leaves a smaller range, or nobody.
func foreignID(dir string, highest uint32) int {
	h := fnv.New32a()
	h.Write([]byte(dir)) // cannot fail
	switch {
	case highest >= foreignBase+foreignMany:
		return foreignBase + int(h.Sum32()%foreignMany)
	case highest > nobody+foreignMany/64:
		return nobody + 1 + int(h.Sum32()%(foreignMany/64))
	}
	return nobody
}
