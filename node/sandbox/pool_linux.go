package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// Pool holds the limits of all that is in it, by control groups.
type Pool struct {
	version int
	dirs    map[string]string // of the groups, by controller; "" for version 2
	disks   bool              // what is read and written is bounded too
	noDisks string            // why it is not
	owned   *os.File          // locked as long as this process has the pool; see sweepPools
}

const poolPrefix = "cellgive-"

// GiveWay has what is in the pool run when nobody else wants a processor, within its limit. An idle group is
// taken off its processor as soon as another process wakes up; where the kernel (before 5.15) has none, the
// least weight that there is has to do, which only bounds what it takes: of 1024 (v1) and 100 (v2). Off, it
// runs as all else does: in an idle group a process that has to react waits for a quarter of a second at each
// step while others are busy.
func (p *Pool) GiveWay(on bool) {
	dir, idle, shares, weight := p.main(), "0", "1024", "100"
	if on {
		idle, shares, weight = "1", "2", "1"
	}
	if writeExisting(filepath.Join(dir, "cpu.idle"), idle) == nil {
		return
	}
	_ = writeExisting(filepath.Join(dir, "cpu.shares"), shares)
	_ = writeExisting(filepath.Join(dir, "cpu.weight"), weight)
}

// poolV1 are the controllers of a pool; without the first two it is none.
func poolV1() []string { return []string{"cpu", "memory", "cpuacct", "blkio"} }

// OpenPool makes the pool of that name, or finds it as another process has left it. name is letters and
// digits. The error says why this process can make no control groups.
func OpenPool(name string) (*Pool, error) {
	op := "make a control group for what is hosted"
	places, err := readPlaces()
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	p, why := openPoolV1(places, poolPrefix+name)
	if p == nil {
		var why2 error
		if p, why2 = openPoolV2(places[""].Dir, poolPrefix+name); why2 != nil {
			why = errors.Join(why, why2)
		}
	}
	if p == nil {
		return nil, cellproto.Errorf(op, cellproto.Unavailable, "%w", why)
	}
	p.owned = lockPool(p.main()) // nil: another process has it, and will have it removed
	p.sweep()
	return p, nil
}

// main is the group that stands for the pool.
func (p *Pool) main() string {
	if p.version == 1 {
		return p.dirs["cpu"]
	}
	return p.dirs[""]
}

// lockPool takes a pool for this process, if nobody has it.
func lockPool(dir string) *os.File {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	raw, err := f.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) { err = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
		err = firstError(ctlErr, err)
	}
	if err != nil {
		f.Close()
		return nil
	}
	return f
}

// poolAge is how old a pool is that nobody has, before it is removed.
const poolAge = 10 * time.Minute

// sweep removes the pools beside this one whose owners have ended while something was in them.
func (p *Pool) sweep() {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(p.main()), poolPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		info, err := os.Stat(dir)
		if dir == p.main() || err != nil || time.Since(info.ModTime()) < poolAge {
			continue
		}
		if owned := lockPool(dir); owned != nil {
			other := Pool{dirs: map[string]string{}}
			for controller, mine := range p.dirs {
				other.dirs[controller] = filepath.Join(filepath.Dir(mine), filepath.Base(dir))
			}
			other.Close()
			owned.Close()
		}
	}
}

func openPoolV1(places map[string]groupPlace, name string) (*Pool, error) {
	p := &Pool{version: 1, dirs: map[string]string{}}
	for i, controller := range poolV1() {
		place, ok := places[controller]
		err := fmt.Errorf("there are no control groups (v1) for %s", controller)
		if ok {
			dir := filepath.Join(place.Dir, name)
			if err = mkdir(dir); err == nil {
				p.dirs[controller] = dir
			}
		}
		if err != nil && i < 2 {
			p.Close()
			return nil, err
		}
	}
	if dir := p.dirs["memory"]; !readsOne(filepath.Join(dir, "memory.use_hierarchy")) {
		_ = writeExisting(filepath.Join(dir, "memory.use_hierarchy"), "1") // else Set fails to bound what is below
	}
	p.GiveWay(true)
	_, p.disks = p.dirs["blkio"]
	if !p.disks {
		p.noDisks = "there are no control groups (v1) for blkio"
	}
	return p, nil
}

func readsOne(path string) bool {
	text, err := os.ReadFile(path)
	return err != nil || strings.TrimSpace(string(text)) == "1" // kernels without the choice have it
}

// openPoolV2 makes it below own, where this process is, if it may move out of there into a leaf; else
// beside it.
func openPoolV2(own, name string) (*Pool, error) {
	if own == "" {
		return nil, errors.New("there are no control groups (v2)")
	}
	if filepath.Base(own) == ownerLeaf { // this process, or the one that it replaces, has moved down to make one
		own = filepath.Dir(own)
	}
	var why error
	for _, parent := range []string{own, filepath.Dir(own)} {
		dir := filepath.Join(parent, name)
		if parent == own && !delegate(parent) {
			why = fmt.Errorf("%s cannot be divided", parent)
			continue
		}
		if err := mkdir(dir); err != nil {
			why = errors.Join(why, err)
			continue
		}
		missing := enable(dir, "cpu", "memory", "pids", "io")
		if slices.Contains(missing, "cpu") || slices.Contains(missing, "memory") {
			os.Remove(dir)
			why = errors.Join(why, fmt.Errorf("%s lacks %s", dir, strings.Join(missing, ", ")))
			continue
		}
		p := &Pool{version: 2, dirs: map[string]string{"": dir}, disks: !slices.Contains(missing, "io")}
		p.GiveWay(true)
		if !p.disks {
			p.noDisks = dir + " lacks io"
		}
		return p, nil
	}
	return nil, why
}

func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// enable has the groups below dir use controllers, and gives those that they cannot. All groups above have to have
// them too, where they may be off: systemd turns on what a unit asks for, which is never io, and leaves on what is
// in use.
func enable(dir string, controllers ...string) (missing []string) {
	above := above(dir)
	for _, name := range controllers {
		for _, d := range above {
			_ = turnOn(d, name) // what lacks it further down is seen below
		}
		if turnOn(dir, name) != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// turnOn has the groups directly below dir use a controller.
func turnOn(dir, controller string) error {
	return writeExisting(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
}

// above gives the groups that dir is in, the outermost first.
func above(dir string) (list []string) {
	for d := filepath.Dir(dir); d != dir; dir, d = d, filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "cgroup.subtree_control")); err != nil {
			break
		}
		list = append(list, d)
	}
	slices.Reverse(list)
	return list
}

// Groups are the directories of the pool, for EnterPool: by controller, "" for version 2.
func (p *Pool) Groups() map[string]string { return p.dirs }

// By says in words what holds the limits.
func (p *Pool) By() string {
	by := fmt.Sprintf("cgroup v%d", p.version)
	if !p.disks {
		by += ", but nothing for disks: " + p.noDisks
	}
	return by
}

// Set changes the limits.
func (p *Pool) Set(l PoolLimits) error {
	devices := diskNumbers("/sys/block")
	set := func(controller, dir string, files []groupFile) error {
		if err := writeLimits(dir, files); err != nil {
			return cellproto.Errorf("limit "+controller+" of what is hosted", cellproto.KindOf(err), "%w", err)
		}
		return nil
	}
	if p.version == 1 {
		for _, controller := range poolV1() {
			if dir, ok := p.dirs[controller]; ok {
				if err := set(controller, dir, poolFilesV1(controller, l, devices)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, controller := range []string{"cpu", "memory", "io"} {
		if controller == "io" && !p.disks {
			continue
		}
		if err := set(controller, p.dirs[""], poolFilesV2(controller, l, devices)); err != nil {
			return err
		}
	}
	return nil
}

// diskNumbers gives the numbers of real disks. What is made of them is bounded with them.
func diskNumbers(sysBlock string) (out []string) {
	list, err := filepath.Glob(filepath.Join(sysBlock, "*", "device"))
	if err != nil {
		return nil
	}
	for _, device := range list {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(device), "dev"))
		if err == nil {
			out = append(out, strings.TrimSpace(string(text)))
		}
	}
	return out
}

// Used gives what was used so far.
func (p *Pool) Used() (u PoolUsage) {
	read := func(controller, name string) string {
		dir, ok := p.dirs[controller]
		if !ok {
			return ""
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return string(text)
	}
	if p.version == 1 {
		ns, _ := strconv.ParseInt(strings.TrimSpace(read("cpuacct", "cpuacct.usage")), 10, 64) // 0: nobody counts
		u.CPU = time.Duration(ns)
		u.RSS = keyed(read("memory", "memory.stat"), "total_rss")
		u.Disk = diskOfV1(read("blkio", "blkio.throttle.io_service_bytes_recursive"))
		return u
	}
	u.CPU = time.Duration(keyed(read("", "cpu.stat"), "usage_usec")) * time.Microsecond
	u.RSS = keyed(read("", "memory.stat"), "anon")
	u.Disk = diskOfV2(read("", "io.stat"))
	return u
}

// Close removes the pool, unless something is in it: that stays bounded.
func (p *Pool) Close() {
	if p.owned != nil {
		p.owned.Close()
		p.owned = nil
	}
	for _, dir := range p.dirs {
		below, _ := filepath.Glob(filepath.Join(dir, "*", "*", "cgroup.procs")) // as deep as it gets
		level, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, f := range append(below, level...) {
			_ = os.Remove(filepath.Dir(f)) // the kernel refuses if anything runs in it
		}
		_ = os.Remove(dir)
	}
}

// EnterPool puts this process, and all that it starts from now on, into a pool, in a group named after what
// it is the daemon of. cgroup is for Config.Cgroup of the sandboxes that it starts.
func EnterPool(groups map[string]string, name string) (cgroup string, err error) {
	op := "enter the control group for what is hosted"
	pid := strconv.Itoa(os.Getpid())
	for _, dir := range groups {
		if !isGroup(dir) { // made anew in a directory it would hold nothing
			return "", cellproto.Errorf(op, cellproto.Unavailable, "%s is no control group any more", dir).
				WithHint("cellctl give, so that it is made again")
		}
	}
	if dir, ok := groups[""]; ok {
		place := filepath.Join(dir, name)
		leaf := filepath.Join(place, "nucleus")
		err := mkdir(place)
		if err == nil {
			enable(place, "cpu", "memory", "pids") // what cannot be is held from outside
			err = mkdir(leaf)
		}
		if err == nil {
			err = writeExisting(filepath.Join(leaf, "cgroup.procs"), pid)
		}
		if err != nil {
			return "", cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
		}
		return place, nil
	}
	for controller, dir := range groups {
		place := filepath.Join(dir, name)
		if controller == "blkio" { // its limits do not count below the group that has them
			place = dir
		}
		if err := mkdir(place); err != nil {
			return "", cellproto.Errorf(op, cellproto.Unavailable, "%s: %w", controller, err)
		}
		if err := writeExisting(filepath.Join(place, "cgroup.procs"), pid); err != nil {
			return "", cellproto.Errorf(op, cellproto.Unavailable, "%s: %w", controller, err)
		}
	}
	return CgroupAuto, nil
}

// LeavePool removes the groups that EnterPool has made under a name, once nothing runs in them.
func LeavePool(groups map[string]string, name string) {
	if !filepath.IsLocal(name) || name == "." || filepath.Base(name) != name {
		return
	}
	for _, dir := range groups {
		if place := filepath.Join(dir, name); isGroup(place) {
			below, _ := filepath.Glob(filepath.Join(place, "*", "cgroup.procs"))
			for _, f := range below {
				_ = os.Remove(filepath.Dir(f)) // the kernel refuses if anything runs in it
			}
			_ = os.Remove(place)
		}
	}
}

// isGroup says whether dir is one of the kernel's control groups: nothing else is written to.
func isGroup(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && (s.Type == unix.CGROUP_SUPER_MAGIC || s.Type == unix.CGROUP2_SUPER_MAGIC)
}
