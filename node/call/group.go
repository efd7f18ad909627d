package call

import "sync"

// group is the goroutines of one owner. Unlike a bare sync.WaitGroup it can be waited for while
// others still try to begin some: those are refused.
type group struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// begin counts one in, and reports false when the group has been closed. Else end is due.
func (g *group) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	return true
}

func (g *group) end() { g.wg.Done() }

// Go runs f on a goroutine of its own, and reports false when the group has been closed.
func (g *group) Go(f func()) bool {
	if !g.begin() {
		return false
	}
	go func() {
		defer g.end()
		f()
	}()
	return true
}

// close refuses further goroutines. It does not wait.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

// wait returns when all goroutines have ended. The group is closed first.
func (g *group) wait() {
	g.close()
	g.wg.Wait()
}
