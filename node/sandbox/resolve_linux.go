package sandbox

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// look finds out what the policy needs to know. c has its defaults and is valid.
func look(c Config, keep []int, join int) (facts, error) {
	op := "look at " + c.Dir
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return facts{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return facts{}, cellproto.Errorf(op, cellproto.BadInput, "it is not a directory")
	}
	f := facts{
		Root: os.Geteuid() == 0, UID: os.Geteuid(), GID: os.Getegid(),
		LastCap: lastCap(), ABI: landlockABI(), Dir: dir, Keep: keep, Join: join,
		CellDir: exists(filepath.Join(dir, "cell.toml")),
		System:  rootsOf(systemPaths()), Devices: devices(), Locale: locale(),
	}
	if f.Root {
		f.UID = foreignID(dir, highestID())
		f.GID = f.UID
	}
	f.Own = []root{{Path: dir}}
	if f.CellDir {
		var own []string
		for _, p := range cellPaths() {
			own = append(own, filepath.Join(dir, p))
		}
		f.Own = rootsOf(own)
	}
	for _, p := range c.Read {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return facts{}, cellproto.Errorf(op, cellproto.KindOf(err), "cannot show %s: %w", p, err)
		}
		f.Extra = append(f.Extra, rootsOf([]string{p})...)
		if real != filepath.Clean(p) {
			f.Extra = append(f.Extra, rootsOf([]string{real})...)
		}
	}
	if f.Program, err = findProgram(c, dir); err != nil {
		return facts{}, err
	}
	f.Owners = owners(dir, jail(f), f.Program)
	f.Scripted, f.Dynamic, err = inspect(f.Program)
	return f, err
}

// owners gives whom files belong to. Who owns a file may change its mode, whatever that is now.
func owners(paths ...string) (list []int) {
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil {
			list = append(list, int(st.Uid))
		}
	}
	return list
}

func exists(p string) bool { _, err := os.Lstat(p); return err == nil }

// rootsOf gives what there is of paths. A symbolic link is one inside too, so that it means the same.
func rootsOf(paths []string) (list []root) {
	for _, p := range paths {
		p = filepath.Clean(p)
		info, err := os.Lstat(p)
		if err != nil {
			continue
		}
		switch mode := info.Mode(); {
		case mode.IsDir():
			list = append(list, root{Path: p})
		case mode.IsRegular():
			list = append(list, root{Path: p, Kind: fileRoot})
		case mode&fs.ModeSymlink != 0:
			if target, err := os.Readlink(p); err == nil {
				list = append(list, root{Path: p, Kind: linkRoot, Target: target})
			}
		}
	}
	return list
}

func devices() (list []root) {
	for _, p := range devicePaths() {
		if info, err := os.Stat(p); err == nil && info.Mode()&fs.ModeCharDevice != 0 {
			list = append(list, root{Path: p, Kind: deviceRoot})
		}
	}
	return list
}

func locale() (list []string) {
	for _, key := range []string{"LANG", "LC_ALL", "LC_CTYPE", "TZ"} {
		if v, ok := os.LookupEnv(key); ok {
			list = append(list, key+"="+v)
		}
	}
	return list
}

// findProgram gives the program's path. It need not be free of symbolic links: the program may look
// at the name that it was started by.
func findProgram(c Config, dir string) (string, error) {
	var tries []string
	switch {
	case filepath.IsAbs(c.Program):
		tries = []string{filepath.Clean(c.Program)}
		if rest, ok := strings.CutPrefix(tries[0], filepath.Clean(c.Dir)+"/"); ok {
			tries[0] = filepath.Join(dir, rest)
		}
	case strings.Contains(c.Program, "/"):
		tries = []string{filepath.Join(dir, c.Program)}
	default:
		for _, d := range []string{dir, filepath.Join(dir, "bin"), "/usr/local/bin", "/usr/bin", "/bin"} {
			tries = append(tries, filepath.Join(d, c.Program))
		}
	}
	for _, p := range tries {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			if info.Mode()&0o111 == 0 {
				return "", cellproto.Errorf("look at "+p, cellproto.Denied, "it is not executable").WithHint("Try chmod +x %s.", p)
			}
			return p, nil
		}
	}
	return "", cellproto.Errorf("look for the program", cellproto.NotFound, "there is no file %s", strings.Join(tries, " or "))
}

// inspect says whether the program needs files of the system. What it cannot read it takes to.
func inspect(path string) (script, dynamic bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return false, true, nil
	}
	if err != nil {
		return false, false, cellproto.Errorf("look at "+path, cellproto.KindOf(err), "%w", err)
	}
	defer file.Close()
	head := make([]byte, 4)
	if n, _ := io.ReadFull(file, head); bytes.HasPrefix(head[:n], []byte("#!")) {
		return true, true, nil
	}
	needs, ok := needsLinker(file)
	return false, needs || !ok, nil // where it is not ok exec says what is wrong
}

// lastCap is the highest capability that this kernel knows.
func lastCap() int {
	for n := 63; n > 0; n-- {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil {
			return n
		}
	}
	return 0
}

// highestID is the largest user number of this process's user namespace.
func highestID() uint32 {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nobody
	}
	return parseHighestIDs(string(text))
}

// landlockABI is the version of Landlock, 0 if there is none or it is switched off.
func landlockABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}
