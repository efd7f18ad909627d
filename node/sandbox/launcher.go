package sandbox

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/celldnet/celld/cellproto"
)

// EnvLauncher names the variable that says where cellbox is.
const EnvLauncher = "CELL_BOX"

const launcherName = "cellbox"

// FindLauncher gives the path of cellbox: what CELL_BOX says, else beside this program, else in PATH.
// The error's kind is NotFound.
func FindLauncher(getenv func(string) string) (string, error) {
	if p := getenv(EnvLauncher); p != "" {
		if info, err := os.Stat(p); err != nil || !info.Mode().IsRegular() {
			return "", cellproto.Errorf("look for "+launcherName, cellproto.NotFound, "%s is %q, which is no file", EnvLauncher, p)
		}
		return filepath.Abs(p)
	}
	if self, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(self), launcherName)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	if p, err := exec.LookPath(launcherName); err == nil {
		return filepath.Abs(p)
	}
	return "", cellproto.Errorf("look for "+launcherName, cellproto.NotFound, "it is neither beside this program nor in PATH").
		WithHint("Install cellbox beside celld, or set %s to its path.", EnvLauncher)
}

// CommandLine gives the arguments of cellbox that stand for c, without its name. keep are the numbers
// of the descriptors that the program inherits, more are further flags.
func (c Config) CommandLine(keep []int, more ...string) []string {
	args := []string{"--dir", c.Dir, "--tier", c.Tier.String()}
	add := func(name, value string, given bool) {
		if given {
			args = append(args, name, value)
		}
	}
	add("--memory", strconv.FormatInt(c.Memory, 10), c.Memory != 0)
	add("--cpu", strconv.FormatFloat(c.CPU, 'f', -1, 64), c.CPU != 0)
	add("--threads", strconv.Itoa(c.Threads), c.Threads != 0)
	add("--files", strconv.Itoa(c.Files), c.Files != 0)
	add("--nice", strconv.Itoa(c.Nice), c.Nice != 0)
	add("--system", string(c.System), c.System != SystemAuto)
	add("--read-rate", strconv.FormatInt(c.ReadRate, 10), c.ReadRate != 0)
	add("--log-rate", strconv.FormatInt(c.LogRate, 10), c.LogRate != 0)
	add("--cgroup", c.Cgroup, c.Cgroup != CgroupAuto)
	for _, controller := range slices.Sorted(maps.Keys(c.Pool)) {
		args = append(args, "--pool", controller+"="+c.Pool[controller])
	}
	add("--grace", c.Grace.String(), c.Grace != 0)
	add("--every", c.Every.String(), c.Every != 0)
	if b := c.Build; b != nil {
		args = append(args, "--build")
		add("--disk", strconv.FormatInt(b.Disk, 10), b.Disk != 0)
		add("--inodes", strconv.Itoa(b.Files), b.Files != 0)
		add("--timeout", b.Timeout.String(), b.Timeout != 0)
		for _, p := range b.Output {
			args = append(args, "--output", p)
		}
	}
	if c.LogStdout {
		args = append(args, "--log-stdout")
	}
	for _, p := range c.Read {
		args = append(args, "--read", p)
	}
	for _, kv := range c.Env {
		args = append(args, "--env", kv)
	}
	for _, fd := range slices.Sorted(slices.Values(keep)) {
		args = append(args, "--keep-fd", fmt.Sprint(fd))
	}
	return slices.Concat(args, more, []string{"--", c.Program}, c.Args)
}
