package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var fileAttacks = []attack{
	{"read a file outside", func(t target) error { return holds(t["secret"], "secret") }},
	{"read a sibling cell", func(t target) error { return holds(t["sibling"], "secret") }},
	{"read the own cell's keys", func(t target) error { return holds(t["key"], "secret") }},
	{"read /etc/passwd", func(target) error { return holds("/etc/passwd", "root") }},
	{"read a file by going up", func(t target) error {
		return holds(strings.Repeat("../", 30)+t["secret"], "secret")
	}},
	{"write a file outside", func(t target) error { return writes(t["writable"], os.O_WRONLY) }},
	{"append to a file outside", func(t target) error { return writes(t["writable"], os.O_WRONLY|os.O_APPEND) }},
	{"truncate by opening to read", func(t target) error {
		f, err := os.OpenFile(t["writable"], os.O_RDONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}},
	{"truncate a file outside", func(t target) error { return os.Truncate(t["writable"], 1) }},
	{"make a file outside", func(t target) error { return writes(filepath.Join(t["dir"], "new"), os.O_WRONLY|os.O_CREATE) }},
	{"make a nameless file outside", func(t target) error {
		fd, err := unix.Open(t["dir"], unix.O_TMPFILE|unix.O_WRONLY, 0o600)
		if err != nil {
			return missing(err)
		}
		return unix.Close(fd)
	}},
	{"make a directory outside", func(t target) error { return os.Mkdir(filepath.Join(t["dir"], "newdir"), 0o755) }},
	{"make a device outside", func(t target) error {
		return needRoot(unix.Mknod(filepath.Join(t["dir"], "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	}},
	{"make a pipe outside", func(t target) error { return unix.Mkfifo(filepath.Join(t["dir"], "fifo"), 0o666) }},
	{"make a link outside", func(t target) error { return os.Link(t["secret"], filepath.Join(t["dir"], "link")) }},
	{"make a symbolic link outside", func(t target) error { return os.Symlink("/", filepath.Join(t["dir"], "symlink")) }},
	{"delete a file outside", func(t target) error { return os.Remove(t["bait"]) }},
	{"rename a file outside", func(t target) error { return os.Rename(t["bait"], t["bait"]+"2") }},
	{"chmod a file outside", func(t target) error { return os.Chmod(t["owned"], 0o666) }},
	{"chown a file outside", func(t target) error { return os.Chown(t["owned"], os.Geteuid(), os.Getegid()) }},
	{"touch a file outside", func(t target) error { return os.Chtimes(t["owned"], time.Time{}, time.Unix(1, 0)) }},
	{"set an attribute outside", func(t target) error { return missing(unix.Setxattr(t["owned"], "user.x", []byte("x"), 0)) }},
	{"list a directory outside", func(t target) error {
		names, err := os.ReadDir(t["dir"])
		if err == nil && len(names) == 0 {
			return errors.New("it is empty")
		}
		return err
	}},
	{"look up a file outside", func(t target) error { return statHas(t["secret"]) }},
	{"write the own program", func(t target) error { return writes(filepath.Join(t["own"], "bin", "other"), os.O_WRONLY) }},
	{"make a file in the own directory", func(t target) error {
		return writes(filepath.Join(t["own"], "bin", "new"), os.O_WRONLY|os.O_CREATE)
	}},
	{"lock a file that can be read", func(t target) error {
		f, err := os.Open(filepath.Join(t["own"], "bin", "other"))
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}},
	{"lock a range of a file that can be read", func(t target) error {
		f, err := os.Open(filepath.Join(t["own"], "bin", "other"))
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
	}},
	{"name a file by its handle", func(t target) error {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t["secret"], 0)
		return missing(err)
	}},
	{"open a file by a handle", openByHandle},
	{"watch with inotify", func(t target) error {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return missing(err)
		}
		_, err = unix.InotifyAddWatch(fd, t["dir"], unix.IN_ALL_EVENTS)
		return err
	}},
	{"watch with fanotify", func(t target) error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)
		if err != nil {
			return needRoot(missing(err))
		}
		return needRoot(unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN, unix.AT_FDCWD, t["dir"]))
	}},
	{"use a leaked descriptor", leaked},
	{"make a program with the set-user-id bit", func(t target) error {
		name := writable(t) + "/hostile-setuid"
		defer os.Remove(name)
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT, 0o4755)
		if err == nil {
			defer unix.Close(fd)
			return hasSetID(name)
		}
		if err := writes(name, os.O_WRONLY|os.O_CREATE); err != nil {
			return err
		}
		dir, err := unix.Open(filepath.Dir(name), unix.O_PATH, 0)
		if err != nil {
			return err
		}
		_ = unix.Chmod(name, 0o4755)
		_ = unix.Fchmodat(dir, filepath.Base(name), 0o4755, 0)
		_ = unix.Fchmodat(dir, filepath.Base(name), 0o4755, unix.AT_SYMLINK_NOFOLLOW) // fchmodat2
		_ = unix.Mkdir(name+"-dir", 0o2755)
		defer unix.Rmdir(name + "-dir")
		if hasSetID(name+"-dir") == nil {
			return nil
		}
		return hasSetID(name)
	}},
	{"run a program with the set-user-id bit", setUserID},
}

func hasSetID(name string) error {
	info, err := os.Stat(name)
	if err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) == 0 {
		err = errors.New("it has none")
	}
	return err
}

// holds reads a file and looks for what it holds.
func holds(path, what string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), what) {
		return fmt.Errorf("%s does not hold it", path)
	}
	return nil
}

func statHas(path string) error {
	_, err := os.Stat(path)
	return err
}

func writes(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("x")
	return err
}

// openByHandle opens the root of the machine's disk by guessing its handle: inode 2 of ext4, as the
// first escape from a container did.
func openByHandle(t target) error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t["secret"], 0)
	if err != nil {
		handle = unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0})
	}
	mount, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		mount = unix.AT_FDCWD
	}
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY)
	if err != nil {
		return needRoot(missing(err))
	}
	return unix.Close(fd)
}

// leaked looks for a descriptor that the owner has not meant to hand on.
func leaked(target) error {
	for fd := 4; fd < 256; fd++ {
		buf := make([]byte, 64)
		n, err := unix.Pread(fd, buf, 0)
		if err == nil && strings.Contains(string(buf[:n]), "secret") {
			return nil
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
	}
	return errors.New("there is none")
}

// setUserID becomes a program that belongs to root and would run as root; that says how it went.
func setUserID(t target) error {
	if os.Geteuid() == 0 && t["inside"] == "" {
		return cannot("the user is root already")
	}
	path := append([]byte(t["setuid"]), 0)
	arg := []byte("-raised\x00")
	argv := []*byte{&path[0], &arg[0], nil}
	return call(unix.SYS_EXECVE, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&argv[0])), 0)
}
