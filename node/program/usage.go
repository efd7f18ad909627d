package program

// Usage is what the run of the program that serves now has used since it began.
type Usage struct {
	Run uint64 // which one: totals of another do not go on from these
	CPU uint64 // ns of processor time, of all its threads; and of its children once they have ended
	RSS uint64 // KiB of resident memory, now
}

// Usage measures the running program. It is cheap enough to be asked every second. Where the system does
// not tell, and without a program that runs, fields are zero.
func (p *Program) Usage() Usage {
	p.mu.Lock()
	in, run := p.cur, p.starts
	p.mu.Unlock()
	if in == nil || !isClosed(in.started) || in.proc == nil {
		return Usage{}
	}
	u := Usage{Run: run}
	if box := in.proc.box; box != nil {
		last := box.Last() // the sandbox measures all that is in it
		u.CPU, u.RSS = uint64(max(last.CPU, 0)), uint64(max(last.RSSKiB, 0))
		return u
	}
	if isClosed(in.proc.exited) {
		return Usage{}
	}
	u.CPU, u.RSS = usedBy(in.proc.pid)
	return u
}
