package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

// localFacts is what the doctor sees of a cell without asking its nucleus. diagnose makes findings of
// it and of nothing else.
type localFacts struct {
	dir      string
	celld    string // path
	celldErr error
	cfgErr   error
	headless bool
	binary   string // as in cell.toml
	program  fileFacts
	keys     []keyFacts
	writeErr error  // why no file can be made in dir; nil: one can
	free     uint64 // bytes for a user
	running  bool   // a nucleus has the lock
	taken    []string
}

type fileFacts struct {
	err  error // of looking at it
	mode fs.FileMode
}

// keyFacts is one private key.
type keyFacts struct {
	name string
	fileFacts
	readErr error // of opening it
	size    int64
}

const (
	minFree    = 16 << 20 // bytes: less than what a nucleus needs to keep what it publishes and to write its log
	maxPath    = 107      // bytes of a Unix socket's path on Linux; see internal/ctl for how longer ones work
	maxKeySize = 64 << 10 // bytes: no key is larger
)

// diagnose says what is well and what is not, and for each that is not what mends it.
func (f *localFacts) diagnose() []ctl.Check {
	checks := []ctl.Check{finding("celld", f.celld, f.celldErr, "put celld into the directory of cellctl")}
	checks = append(checks, finding("cell.toml", filepath.Join(f.dir, celltoml.FileName), f.cfgErr, "cellctl init NAME makes a cell"))
	if f.cfgErr != nil {
		return checks
	}
	if !f.headless {
		checks = append(checks, f.checkBinary())
	}
	checks = append(checks, f.checkKeys()...)
	checks = append(checks, f.checkDirectory())
	if len(f.taken) > 0 {
		checks = append(checks, wrong("ports", "ss -tulpn to see who has the port, then change [network] listen in cell.toml",
			"another program listens on %s", strings.Join(f.taken, ", ")))
	}
	return checks
}

func wrong(name, fix, format string, args ...any) ctl.Check {
	return ctl.Check{Name: name, Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func (f *localFacts) checkBinary() ctl.Check {
	const name = "binary"
	path := filepath.Join(f.dir, f.binary)
	switch {
	case errors.Is(f.program.err, fs.ErrNotExist):
		return wrong(name, "cellctl build "+quoteWord(f.dir), "%s has not been built", f.binary)
	case f.program.err != nil:
		return wrong(name, "ls -l "+quoteWord(path), "%v", f.program.err)
	case !f.program.mode.IsRegular():
		return wrong(name, "cellctl build "+quoteWord(f.dir), "%s is no file", f.binary)
	case f.program.mode.Perm()&0o111 == 0:
		return wrong(name, "chmod +x "+quoteWord(path), "%s is not an executable file", f.binary)
	}
	return ctl.Check{Name: name, OK: true, Detail: f.binary}
}

// checkKeys finds private keys that others on this machine could read, and those that cannot be used.
func (f *localFacts) checkKeys() (checks []ctl.Check) {
	const name = "keys"
	dir := filepath.Join(f.dir, "keys")
	for _, k := range f.keys {
		path := quoteWord(filepath.Join(dir, k.name))
		switch {
		case k.err != nil:
			checks = append(checks, wrong(name, "ls -l "+path, "%v", k.err))
		case !k.mode.IsRegular():
			checks = append(checks, wrong(name, "rm -r "+path+", and put the key back", "keys/%s is no file", k.name))
		case errors.Is(k.readErr, fs.ErrPermission):
			checks = append(checks, wrong(name, "chown \"$(id -un)\" "+path+" && chmod 600 "+path, "keys/%s cannot be read: it belongs to somebody else", k.name))
		case k.readErr != nil:
			checks = append(checks, wrong(name, "ls -l "+path, "keys/%s cannot be read: %v", k.name, k.readErr))
		case k.mode.Perm()&0o077 != 0:
			checks = append(checks, wrong(name, "chmod -R go= "+quoteWord(dir), "others can read keys/%s", k.name))
		case k.size == 0 || k.size > maxKeySize:
			checks = append(checks, wrong(name, "put it back from a copy; or, for a new identity: rm "+path, "keys/%s has %d bytes, and is no key", k.name, k.size))
		}
	}
	return checks
}

func (f *localFacts) checkDirectory() ctl.Check {
	const name = "directory"
	dir := quoteWord(f.dir)
	switch {
	case errors.Is(f.writeErr, syscall.EROFS):
		return wrong(name, "mount -o remount,rw \"$(stat -c %m "+dir+")\"", "its file system is read-only")
	case errors.Is(f.writeErr, syscall.ENOSPC), errors.Is(f.writeErr, syscall.EDQUOT), f.writeErr == nil && f.free < minFree:
		return wrong(name, "df -h "+dir+", and free some space; what is in "+quoteWord(filepath.Join(f.dir, "cache"))+" can be deleted while the cell is stopped",
			"the disk is full: %d MiB are left", f.free>>20)
	case f.writeErr != nil:
		return wrong(name, "chown -R \"$(id -un)\" "+dir+" && chmod u+rwx "+dir, "cannot write to it: %v", f.writeErr)
	}
	c := ctl.Check{Name: name, OK: true, Detail: fmt.Sprintf("writable, %d MiB are left", f.free>>20)}
	if n := len(ctl.SocketPath(f.dir, ctl.CellSocket)); n > maxPath {
		c.Detail += fmt.Sprintf("; its path is too long for a socket's by %d bytes: cellctl and celld manage, other programs have to begin in the directory", n-maxPath)
	}
	return c
}

// fixedPorts gives what net.Listen and net.ListenPacket need to try the addresses of a listen list, each
// with its own text: those of TCP and UDP whose port is fixed.
func fixedPorts(listen []string) (out []portToTry) {
	for _, text := range listen {
		part := strings.Split(strings.TrimPrefix(text, "/"), "/")
		if len(part) < 4 || part[3] == "0" || part[0] != "ip4" && part[0] != "ip6" || part[2] != "tcp" && part[2] != "udp" {
			continue
		}
		out = append(out, portToTry{text, part[2] + strings.TrimPrefix(part[0], "ip"), part[1], part[3]})
	}
	return out
}

type portToTry struct{ text, network, host, port string }
