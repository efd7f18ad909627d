package sandbox

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Probe tries every tier and says which work here. It takes a few milliseconds and runs nothing.
func Probe() Support {
	s := Support{OS: runtime.GOOS, Kernel: kernel(), Landlock: landlockABI()}
	dir, err := os.MkdirTemp("", "cellbox-probe-")
	if err == nil {
		defer os.Remove(dir)
		err = os.Chmod(dir, 0o755) // the user that root would start a program as must be able to enter it
	}
	c := Config{Dir: dir, Program: "probe", System: SystemNone, CPU: float64(runtime.NumCPU()) / 2}.WithDefaults()
	for _, t := range tiers() {
		state := TierSupport{Tier: t, Works: true}
		if tryErr := firstError(err, try(c, t)); tryErr != nil {
			state.Works, state.Why = false, tryErr.Error()
		}
		s.Tiers = append(s.Tiers, state)
	}
	g := newGroup(c, runtime.NumCPU())
	defer g.close()
	s.CPUBy, s.MemoryBy, s.ThreadsBy = byDuty, byWatchdog, byWatchdog
	for controller, by := range map[string]*string{"cpu": &s.CPUBy, "memory": &s.MemoryBy, "pids": &s.ThreadsBy} {
		if holds := g.holds[controller]; holds != "" {
			*by = holds
		}
	}
	return s
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// try does everything that a tier does but start a program.
func try(c Config, t Tier) error {
	f := facts{
		Root: os.Geteuid() == 0, UID: os.Geteuid(), GID: os.Getegid(), LastCap: lastCap(), ABI: landlockABI(),
		Dir: c.Dir, Own: []root{{Path: c.Dir}}, Devices: devices(), Program: c.Dir + "/" + c.Program,
	}
	if f.Root {
		f.UID = foreignID(c.Dir, highestID())
		f.GID = f.UID
	}
	p, err := makePlan(c, f, t, true)
	if err != nil {
		return errors.Unwrap(err) // which tier it is about is known
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	l, err := launch(p, nil, [3]*os.File{null, null, null}, nil, &group{})
	if err != nil {
		return err
	}
	if !l.awaitEnded() {
		err = &stepError{Step: "end", Errno: unix.ECHILD}
	} else if end, ok := l.reap(); !ok || end.Status != 0 {
		err = &stepError{Step: "end in good order", Errno: unix.EPROTO}
	}
	l.release()
	return err
}
