package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/celldnet/celld/cellproto/celltoml"
)

// foundCell is a cell's directory, and how it was found.
type foundCell struct {
	dir   string
	found string
}

// findCells gives the cells that this user may be meant to look at: the one that this is within, the
// home cell if there is one, and those with a nucleus among this user's processes. There is no list of
// all cells anywhere.
func (a *app) findCells() ([]foundCell, error) {
	var out []foundCell
	add := func(dir, found string) {
		if !slices.ContainsFunc(out, func(c foundCell) bool { return c.dir == dir }) {
			out = append(out, foundCell{dir, found})
		}
	}
	if dir, ok := celltoml.FindUp("."); ok {
		add(dir, "here")
	}
	home, err := a.homePath()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(home, celltoml.FileName)); err == nil {
		add(home, "home")
	}
	for _, dir := range nucleiOf("/proc", os.Getuid()) {
		add(dir, "process")
	}
	return out, nil
}

const (
	nucleusName = "celld"
	maxCmdline  = 64 << 10
)

// nucleiOf gives the directories of the nuclei that run as uid, by process ID, as a Linux procfs tells
// of them: processes named celld whose last argument is a cell's directory. Elsewhere there are none.
func nucleiOf(procfs string, uid int) []string {
	entries, err := os.ReadDir(procfs)
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	var dirs []string
	for _, pid := range pids {
		if dir := nucleusDir(filepath.Join(procfs, strconv.Itoa(pid)), uid); dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// nucleusDir gives the cell's directory of a process that is a nucleus, else "".
func nucleusDir(proc string, uid int) string {
	info, err := os.Stat(proc)
	if err != nil {
		return ""
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != uid {
		return ""
	}
	words := bytes.Split(bytes.TrimSuffix(readUpTo(filepath.Join(proc, "cmdline"), maxCmdline), []byte{0}), []byte{0})
	if len(words) < 2 || filepath.Base(string(words[0])) != nucleusName {
		return ""
	}
	dir := string(words[len(words)-1])
	if !filepath.IsAbs(dir) {
		cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
		if err != nil {
			return ""
		}
		dir = filepath.Join(cwd, dir)
	}
	if hasToml(dir) != nil {
		return ""
	}
	return filepath.Clean(dir)
}

func readUpTo(path string, limit int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil
	}
	return data
}

// nameOf is what a cell is called before its nucleus has said so.
func nameOf(dir string) string {
	if c, err := celltoml.Load(dir); err == nil {
		return c.Cell.Name
	}
	return filepath.Base(dir)
}
