package program

// Usage is what the run of the program that serves now has used since it began.
type Usage struct {
	Run uint64 // which one: totals of another do not go on from these
	CPU uint64 // ns of processor time, of all its threads; and of its children once they have ended
	RSS uint64 // KiB of resident memory, now
	// Received and Sent are bytes that went to it and came from it, of callers, of what it calls and of what is kept for it: for
	// a program that speaks frames all that went over its connection here, counted at this end of it, by whichever system
	// calls it reads and writes; for one that speaks lines, in a sandbox, what it has read and written, of its own files
	// too. Connections that were handed to it are not among them.
	Received, Sent uint64
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
	if in.adapter == nil && in.conn != nil {
		u.Sent, u.Received = in.conn.Bytes()
	}
	if box := in.proc.box; box != nil {
		last := box.Last() // the sandbox measures all that is in it
		u.CPU, u.RSS = uint64(max(last.CPU, 0)), uint64(max(last.RSSKiB, 0))
		if in.adapter != nil { // over pipes, of which the kernel counts every byte
			u.Received, u.Sent = uint64(max(last.Received, 0)), uint64(max(last.Sent, 0))
		}
		return u
	}
	if isClosed(in.proc.exited) {
		return Usage{}
	}
	u.CPU, u.RSS = usedBy(in.proc.pid)
	return u
}
