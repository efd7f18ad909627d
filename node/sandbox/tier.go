package sandbox

import "github.com/celldnet/celld/cellproto"

// Tier is a way to confine a program. A lower number is stronger.
type Tier uint8

// The tiers. All of them filter system calls; none works on a machine without seccomp.
const (
	// Auto takes the strongest tier that works.
	Auto Tier = 0
	// T1 is user, mount, pid, net, ipc, uts and cgroup namespaces, a root of its own, Landlock and
	// seccomp.
	T1 Tier = 1
	// T2 is Landlock and seccomp, without namespaces: what is left inside most containers. Names,
	// sizes and times of files that the user may look up remain visible.
	T2 Tier = 2
	// T3 is chroot, a user of its own and seccomp. It needs root, and a program that needs no file
	// from outside of its directory.
	T3 Tier = 3
)

// tiers are all, strongest first.
func tiers() []Tier { return []Tier{T1, T2, T3} }

// String gives "auto", "T1", "T2" or "T3".
func (t Tier) String() string {
	switch t {
	case T1:
		return "T1"
	case T2:
		return "T2"
	case T3:
		return "T3"
	}
	return "auto"
}

// describe says in words what confines a program.
func (t Tier) describe() string {
	switch t {
	case T1:
		return "namespaces, a root of its own, Landlock and seccomp"
	case T2:
		return "Landlock and seccomp"
	case T3:
		return "chroot, a user of its own and seccomp"
	}
	return "the strongest that works"
}

// MarshalText is String, for JSON.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is ParseTier, for JSON.
func (t *Tier) UnmarshalText(text []byte) (err error) {
	*t, err = ParseTier(string(text))
	return err
}

// ParseTier is the inverse of String.
func ParseTier(s string) (Tier, error) {
	for _, t := range append(tiers(), Auto) {
		if s == t.String() {
			return t, nil
		}
	}
	return Auto, cellproto.Errorf("read tier", cellproto.BadInput, "there is no tier %.20q", s).
		WithHint("The tiers are T1, T2, T3 and auto.")
}
