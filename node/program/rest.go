package program

import (
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// restRetryAfter is what callers of a program at rest are told: they have better places to go to.
const restRetryAfter = 5 * time.Second

// Rest has nothing of the program run from now on, whatever it is at: what runs is stopped where it
// stands, and nothing is started. Begin and Conn fail with Overloaded. What is stopped for good meanwhile
// is killed. Rest again does nothing.
func (p *Program) Rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resting.Store(true)
	p.ready.Store(nil)
	for in := range p.all {
		if in != p.cur || !isClosed(in.started) || in.startErr != nil || in.retired || isClosed(in.stop) {
			in.askHurry() // it is on its way in or out
			continue
		}
		in.frozen.Store(true)
		in.proc.signal(syscall.SIGSTOP)
		p.phase = Frozen
		p.log.Info("program at rest", zap.Int("pid", in.proc.pid))
	}
}

// Rise undoes Rest. What stands goes on.
func (p *Program) Rise() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.resting.Swap(false) || p.cur == nil || p.phase != Frozen || isClosed(p.cur.stop) {
		return
	}
	p.thaw(p.cur)
}

// Decline has new calls be refused as by Rest, while those in flight go on, until Rise.
func (p *Program) Decline() { p.resting.Store(true) }

func (p *Program) restError() *cellproto.Error {
	e := cellproto.Errorf("call "+p.cfg.Name, cellproto.Overloaded, "the machine is needed by its owner")
	e.RetryAfter = restRetryAfter
	return e
}
