//go:build !linux

package sandbox

import (
	"context"
	"runtime"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// Box is a program that runs confined. Here there is none.
type Box struct{}

// Start fails: only Linux can confine a program.
func Start(c Config, _ Deps) (*Box, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return nil, cellproto.Errorf("start "+c.Program, cellproto.Unsupported, "%s", onlyLinux()).
		WithHint("Run it on a Linux machine, or in a Linux virtual machine on this one.")
}

func onlyLinux() string { return "only Linux can confine a program, and this is " + runtime.GOOS }

// Probe says that no tier works.
func Probe() Support {
	s := Support{OS: runtime.GOOS}
	for _, t := range tiers() {
		s.Tiers = append(s.Tiers, TierSupport{Tier: t, Why: onlyLinux()})
	}
	return s
}

// Report gives nothing.
func (b *Box) Report() Report { return Report{} }

// Wait gives nothing.
func (b *Box) Wait() Report { return Report{} }

// Done is closed.
func (b *Box) Done() <-chan struct{} { ch := make(chan struct{}); close(ch); return ch }

// Signal does nothing.
func (b *Box) Signal(syscall.Signal) {}

// Stop does nothing.
func (b *Box) Stop() {}

// Kill does nothing.
func (b *Box) Kill() {}

// Freeze does nothing.
func (b *Box) Freeze() {}

// Thaw does nothing.
func (b *Box) Thaw() {}

// Describe fails: only Linux can confine a program.
func Describe(c Config, _ []int) (string, error) { _, err := Start(c, Deps{}); return "", err }

// Confined is a program that cellbox runs. Here there is none.
type Confined struct{ Box }

// Confine fails: only Linux can confine a program.
func Confine(_ context.Context, _ string, c Config, d Deps) (*Confined, error) {
	_, err := Start(c, d)
	return nil, err
}

// PID gives nothing.
func (p *Confined) PID() int { return 0 }

// Last gives nothing.
func (p *Confined) Last() Report { return Report{} }
