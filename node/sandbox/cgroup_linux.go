package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Names of what holds a limit, in reports.
const (
	byGroup1   = "cgroup v1"
	byGroup2   = "cgroup v2"
	byDuty     = "duty cycle"
	byWatchdog = "watchdog"
	byNothing  = "no limit"
)

const (
	cpuPeriod   = 50_000 // µs: short enough that a program that is held back still answers
	minCPUQuota = 1_000  // µs, the kernel's
	groupPrefix = "cellbox-"
	ownerLeaf   = groupPrefix + "owner" // where delegate moves this process
	rmdirTries  = 50
	rmdirPause  = 2 * time.Millisecond
	sweepAge    = time.Minute
)

// group is the control groups of one program, in as many hierarchies as there are.
type group struct {
	dirs     []string // that were made
	join     []*os.File
	enter    *os.File // directory of version 2, or nil
	holds    map[string]string
	noClone3 bool   // the kernel cannot fork into enter
	oom      string // the file that counts what was killed for want of memory
	oomKey   string
}

// groupCount numbers the groups of this process.
type groupCount struct{ n atomic.Uint64 }

var groupsMade groupCount

// newGroup makes the control groups that can be made; those that cannot are no failure, and holds
// tells which there are. c has its defaults.
func newGroup(c Config, ncpu int) *group {
	g := &group{holds: map[string]string{}}
	if c.Cgroup == CgroupNone {
		return g
	}
	places, err := readPlaces()
	if err != nil {
		return g
	}
	name := fmt.Sprintf("%s%d-%d", groupPrefix, os.Getpid(), groupsMade.n.Add(1))
	if c.Cgroup == CgroupAuto {
		for _, controller := range controllers() {
			if p, ok := places[controller]; ok && !(controller == "cpu" && c.CPU >= float64(ncpu)) {
				g.makeV1(controller, p.Dir, name, c)
			}
		}
	}
	parent := places[""].Dir
	if c.Cgroup != CgroupAuto {
		parent = c.Cgroup
	}
	if len(g.dirs) == 0 && parent != "" {
		g.makeV2(parent, name, c, ncpu)
	}
	return g
}

func readPlaces() (map[string]groupPlace, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return groupPlaces(string(own), string(mounts)), nil
}

func (g *group) makeV1(controller, parent, name string, c Config) {
	dir := filepath.Join(parent, name)
	if os.Mkdir(dir, 0o755) != nil {
		return
	}
	tasks, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
	if err == nil {
		if err = writeLimits(dir, limitsV1(controller, c)); err != nil {
			tasks.Close()
		}
	}
	if err != nil {
		os.Remove(dir)
		return
	}
	g.dirs, g.join = append(g.dirs, dir), append(g.join, tasks)
	g.holds[controller] = byGroup1
	if controller == "memory" {
		g.oom, g.oomKey = filepath.Join(dir, "memory.oom_control"), "oom_kill"
	}
}

func (g *group) makeV2(parent, name string, c Config, ncpu int) {
	if !delegate(parent) {
		return
	}
	dir := filepath.Join(parent, name)
	if os.Mkdir(dir, 0o755) != nil {
		return
	}
	enter, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		os.Remove(dir)
		return
	}
	g.dirs, g.enter = []string{dir}, enter
	for _, controller := range controllers() {
		if !(controller == "cpu" && c.CPU >= float64(ncpu)) && writeLimits(dir, limitsV2(controller, c)) == nil {
			g.holds[controller] = byGroup2
		}
	}
	g.oom, g.oomKey = filepath.Join(dir, "memory.events"), "oom_kill"
	if len(g.holds) == 0 {
		g.close()
	}
}

// delegate has the groups below dir limit what is in them. A group of version 2 that does so holds no
// process itself, but for the root: this process moves down if it is the only one, as it is in a scope of
// systemd's. Some controllers could be turned on beside processes; the kernel would let none into the groups below then.
func delegate(dir string) bool {
	if divided(dir) {
		return true
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err == nil {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return false
		}
		switch strings.TrimSpace(string(procs)) {
		case "":
		case strconv.Itoa(os.Getpid()):
			if !moveDown(dir) {
				return false
			}
		default:
			return false
		}
	}
	all := true
	for _, name := range controllers() {
		all = turnOn(dir, name) == nil && all
	}
	return all
}

// divided says whether the groups below dir limit what is in them.
func divided(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	has := strings.Fields(string(text))
	return err == nil && !slices.ContainsFunc(controllers(), func(name string) bool { return !slices.Contains(has, name) })
}

// moveDown has this process leave a group for one below it.
func moveDown(dir string) bool {
	leaf := filepath.Join(dir, ownerLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return false
	}
	return os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0) == nil
}

// memoryInGroup is what a control group counts: what a build writes is in memory too.
func (c Config) memoryInGroup() int64 {
	if c.Build != nil {
		return c.Memory + c.Build.Disk
	}
	return c.Memory
}

func limitsV1(controller string, c Config) []groupFile {
	switch controller {
	case "cpu":
		return []groupFile{{"cpu.cfs_period_us", strconv.Itoa(cpuPeriod), true}, {"cpu.cfs_quota_us", cpuQuota(c), true}}
	case "memory":
		bytes := strconv.FormatInt(c.memoryInGroup(), 10)
		return []groupFile{{"memory.limit_in_bytes", bytes, true}, {"memory.memsw.limit_in_bytes", bytes, false}, {"memory.swappiness", "0", false}}
	}
	return []groupFile{{"pids.max", strconv.Itoa(c.Threads), true}}
}

func limitsV2(controller string, c Config) []groupFile {
	switch controller {
	case "cpu":
		return []groupFile{{"cpu.max", cpuQuota(c) + " " + strconv.Itoa(cpuPeriod), true}}
	case "memory":
		return []groupFile{{"memory.max", strconv.FormatInt(c.memoryInGroup(), 10), true}, {"memory.swap.max", "0", false}}
	}
	return []groupFile{{"pids.max", strconv.Itoa(c.Threads + 1), true}} // and the guard
}

func cpuQuota(c Config) string {
	return strconv.Itoa(max(minCPUQuota, int(c.CPU*cpuPeriod)))
}

func writeLimits(dir string, files []groupFile) error {
	for _, f := range files {
		if err := writeExisting(filepath.Join(dir, f.Name), f.Value); err != nil && f.Must {
			return err
		}
	}
	return nil
}

// writeExisting writes to a file of the kernel's, and makes none.
func writeExisting(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// take puts a process, which waits and has no children, into the group of version 2, where it was not
// forked into it.
func (g *group) take(pid int) error {
	if g.enter == nil || !g.noClone3 {
		return nil
	}
	conn, err := g.enter.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", errGroup, err)
	}
	ctlErr := conn.Control(func(fd uintptr) {
		err = writeExisting(fmt.Sprintf("/proc/self/fd/%d/cgroup.procs", fd), strconv.Itoa(pid))
	})
	if err = firstError(ctlErr, err); err != nil {
		return fmt.Errorf("%w: %w", errGroup, err)
	}
	return nil
}

// killedForMemory says whether the kernel has killed the program because it took too much.
func (g *group) killedForMemory() bool {
	if g.oom == "" {
		return false
	}
	text, err := os.ReadFile(g.oom)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == g.oomKey {
			return fields[1] != "0"
		}
	}
	return false
}

// forget closes what is needed only until the program runs.
func (g *group) forget() {
	for _, f := range g.join {
		f.Close()
	}
	if g.enter != nil {
		g.enter.Close()
	}
	g.join, g.enter = nil, nil
}

// close removes the groups. Nothing may run in them any more; the kernel takes a moment to see it.
func (g *group) close() {
	g.forget()
	for _, dir := range g.dirs {
		for range rmdirTries {
			if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(rmdirPause)
		}
	}
	for _, dir := range g.dirs {
		sweep(filepath.Dir(dir))
	}
	g.dirs = nil
}

// sweep removes the groups below parent whose maker was killed before it could.
func sweep(parent string) {
	left, err := filepath.Glob(filepath.Join(parent, groupPrefix+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		var pid, n int
		_, err := fmt.Sscanf(filepath.Base(dir), groupPrefix+"%d-%d", &pid, &n)
		info, statErr := os.Stat(dir)
		if err == nil && statErr == nil && time.Since(info.ModTime()) > sweepAge && unix.Kill(pid, 0) == unix.ESRCH {
			os.Remove(dir) // the kernel refuses if anything runs in it
		}
	}
}
