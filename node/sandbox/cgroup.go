package sandbox

import (
	"path"
	"strings"
)

// controllers are the control groups that a sandbox uses.
func controllers() []string { return []string{"cpu", "memory", "pids"} }

// groupPlace is where a process stands in one hierarchy of control groups.
type groupPlace struct {
	Version int // 1 or 2
	Dir     string
}

// groupPlaces finds, for each controller, the directory that stands for this process. cgroup is the
// text of /proc/self/cgroup, mountinfo that of /proc/self/mountinfo. The entry "" is that of version 2.
func groupPlaces(cgroup, mountinfo string) map[string]groupPlace {
	own := map[string]string{} // controller, "" for version 2 -> path in its hierarchy
	for line := range strings.Lines(cgroup) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			own[name] = parts[2]
		}
	}
	places := map[string]groupPlace{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		mount, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(fs) < 3 {
			continue
		}
		switch fs[0] {
		case "cgroup2":
			place(places, own, "", 2, mount)
		case "cgroup":
			for option := range strings.SplitSeq(fs[2], ",") {
				place(places, own, option, 1, mount)
			}
		}
	}
	return places
}

// place enters a mount, whose 4th field is the part of the hierarchy that it shows, and whose 5th is
// where.
func place(places map[string]groupPlace, own map[string]string, name string, version int, mount []string) {
	p, ok := own[name]
	if _, done := places[name]; !ok || done {
		return
	}
	shown := mount[3]
	if shown == "/" {
		shown = ""
	}
	rest, ok := strings.CutPrefix(p, shown)
	if !ok || rest != "" && rest[0] != '/' {
		return // it stands outside of what is shown here
	}
	places[name] = groupPlace{version, path.Join(mount[4], rest)}
}

// groupFile is a limit to be written.
type groupFile struct {
	Name, Value string
	Must        bool // else it is welcome where the kernel has it
}
