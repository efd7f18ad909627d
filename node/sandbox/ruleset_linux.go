package sandbox

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openRuleset makes the ruleset in the kernel and gives its descriptor. Rules are bound to files, not
// to names: they hold wherever the file is mounted.
func openRuleset(r *ruleset) (*os.File, error) {
	attr := unix.LandlockRulesetAttr{Access_fs: r.FS, Access_net: r.Net, Scoped: r.Scoped}
	size := unsafe.Sizeof(attr)
	switch { // an old kernel refuses what it does not know, even if it is 0
	case r.Net == 0:
		size = unsafe.Offsetof(attr.Access_net)
	case r.Scoped == 0:
		size = unsafe.Offsetof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	set := os.NewFile(fd, "landlock ruleset")
	for _, rule := range r.Rules {
		if err := addRule(int(fd), rule, r.FS); err != nil {
			set.Close()
			return nil, fmt.Errorf("cannot add a rule for %s: %w", rule.Path, err)
		}
	}
	return set, nil
}

func addRule(set int, rule pathRule, handled uint64) error {
	fd, err := unix.Open(rule.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return allowBeneath(set, fd, rule.Rights&handled)
}

// allowBeneath adds a rule for what fd is, and all below it.
func allowBeneath(set, fd int, rights uint64) error {
	// The kernel's structure is packed: 8 bytes and 4, which is how this one begins.
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}
