package program

import (
	"context"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// Grant hands a caller's connection, of which nothing was read, to the program, which serves it from
// then on, at the longest until then if that is not zero; the program is started or thawed for that.
// subject is who calls, "" for the owner. fits is asked whether a program with this schema, as its hello gives the hash, serves
// the caller, and must not call p; nil: it does. It reports false, and leaves the connection alone, when the program takes none, cannot be
// started, does not serve the caller, or is on trial after a swap: the caller is to be relayed then.
func (p *Program) Grant(ctx context.Context, conn *net.UnixConn, subject string, until time.Time, fits func(schema []byte) bool) bool {
	if p.cfg.Speaks == celltoml.JSONL {
		return false
	}
	give := func(in *instance) bool {
		return (fits == nil || fits(in.hello.Schema)) && in.grants.give(conn, subject, until) == nil
	}
	given, again := p.give(give)
	if again {
		ctx, cancel := context.WithTimeout(ctx, cellproto.DefaultTimeout)
		defer cancel()
		if _, err := p.Conn(ctx); err != nil {
			return false
		}
		given, _ = p.give(give)
	}
	if given {
		_ = conn.Close() // the program has its own
	}
	return given
}

// give has the instance that requests go to given a connection, if it takes any now. A frozen one goes on then, and finds
// the connection: it is woken once. again is true when there is no instance that does anything.
func (p *Program) give(give func(*instance) bool) (given, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock() // so that it is not frozen or replaced meanwhile
	in, frozen := p.cur, p.phase == Frozen
	if in == nil || !frozen && p.phase != Running || !usable(in.conn) || p.closed || p.resting.Load() {
		return false, true
	}
	if in.grants == nil || in.trial || p.candidate != nil || isClosed(in.stop) || !give(in) {
		return false, false
	}
	if frozen {
		p.thaw(in)
	}
	return true, false
}

// OnTrial reports that a program is on trial after a swap, or about to be: Grant takes no connection.
func (p *Program) OnTrial() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.candidate != nil || p.cur != nil && p.cur.trial
}

// Granted is what callers did whose connections the program holds itself, over all its runs.
type Granted struct {
	Conns    int // now
	InFlight int
	Served   uint64          // calls that have ended
	Refused  uint64          // for which there was no room
	Times    []time.Duration // of some of those that have ended since the last look, at most 64
}

// Granted gives what has become of the callers that hold a connection to the program. Each of its
// times is given once.
func (p *Program) Granted() Granted {
	p.mu.Lock()
	defer p.mu.Unlock()
	var g Granted
	for in := range p.all {
		if !isClosed(in.started) || in.grants == nil {
			continue
		}
		g.Conns += in.grants.open()
		n, _ := in.grants.use()
		g.InFlight += n
		g.Times = append(g.Times, p.countGrants(in)...)
	}
	g.Served, g.Refused = p.grantedServed, p.grantedRefused
	return g
}

// GrantedUse is Granted without its times, which are left for the next Granted.
func (p *Program) GrantedUse() Granted {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := Granted{Served: p.grantedServed, Refused: p.grantedRefused}
	for in := range p.all {
		if !isClosed(in.started) || in.grants == nil {
			continue
		}
		g.Conns += in.grants.open()
		n, _ := in.grants.use()
		g.InFlight += n
	}
	return g
}

// countGrants adds what a run has counted since the last look. p.mu is held.
func (p *Program) countGrants(in *instance) []time.Duration {
	ended, refused, times := in.grants.counts()
	p.grantedServed += uint64(ended - in.grantsEnded)
	p.grantedRefused += uint64(refused - in.grantsRefused)
	in.grantsEnded, in.grantsRefused = ended, refused
	return times
}

// openGrants makes the means of handing connections over to a run that is about to start, if the system
// has them. theirs is to be inherited. A program in a sandbox may receive no descriptors.
func (in *instance) openGrants() (theirs *os.File) {
	if in.cfg.Sandbox != nil {
		return nil
	}
	g, theirs, err := newGrants()
	if err != nil {
		in.log.Debug("callers will be relayed: connections cannot be handed over here", zap.Error(err))
		return nil
	}
	in.grants = g
	return theirs
}

// beginGrants has them begin, when there is a process: meanwhile it gets ready.
func (in *instance) beginGrants() {
	if in.grants == nil {
		return
	}
	early := in.early()
	if err := in.grants.begin(in.cfg.Concurrency, early); err != nil {
		in.log.Debug("callers will be relayed: connections cannot be handed over", zap.Error(err))
		in.dropGrants()
	} else if early {
		in.lent = in.grants
		close(in.lending)
	}
}

// keepGrants lets them go again if the program takes no connections.
func (in *instance) keepGrants() {
	if !slices.Contains(in.hello.Capabilities, cellproto.CapHandoff) {
		in.takeBack()
		in.dropGrants()
		return
	}
	in.settleLent()
}

func (in *instance) dropGrants() {
	if in.grants != nil {
		in.grants.close()
		in.grants = nil
	}
}

// dismiss has those callers whose connections the program holds come back through the nucleus, and
// waits until they have, at most limit. Who does not and has no call in flight is cut off.
func (in *instance) dismiss(limit time.Duration) {
	if in.grants == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-in.gone:
		case <-in.hurry:
		case <-ctx.Done():
		}
		cancel()
	}()
	last := in.grants.leave(ctx)
	cancel()
	<-watched
	if n, _ := in.grants.use(); n == 0 {
		in.grants.revoke(last)
	}
}
