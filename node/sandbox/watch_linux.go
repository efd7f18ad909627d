package sandbox

import (
	"io"
	"os"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

const (
	// pollTight is how often a program is looked at whose limits are held from here. At 50 ms the duty
	// cycle is exact and costs nothing that can be measured.
	pollTight = 50 * time.Millisecond
	pollLoose = 100 * time.Millisecond
	// pollFrozen is how often one is looked at that stands: it uses no more, and to look costs the machine's owner, for whom it
	// was stopped, half a percent of a processor at the other paces.
	pollFrozen = time.Second
	kib        = 1024
)

// watch looks at the program until it has ended: it meters, holds the limits that no control group
// holds, and reports.
func (b *Box) watch() {
	defer close(b.done)
	ended := make(chan bool, 1)
	go func() { ended <- b.run.awaitEnded() }() // ends when the guard does
	probe := b.openProbe()
	defer probe.close()
	b.niceSession()
	every := pollLoose
	if b.cfg.Build == nil && (b.first.CPUBy == byDuty || b.first.MemoryBy == byWatchdog || b.first.ThreadsBy == byWatchdog || b.cfg.ReadRate > 0) {
		every = pollTight
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	slow := false
	b.report(EventStart, Usage{})
	m, duty, next := &meter{}, b.newDuty(), b.cfg.Every
	b.look(m, duty, probe) // what is there from the beginning
	for {
		select {
		case <-ticker.C:
			if now := b.look(m, duty, probe); now >= next {
				b.report(EventUsage, b.usage(m))
				next = now + b.cfg.Every
			}
		case <-b.pace:
			switch frozen := b.isFrozen(); {
			case frozen == slow:
			case frozen:
				ticker.Reset(pollFrozen)
				slow = true
			default:
				ticker.Reset(every)
				slow = false
			}
		case orderly := <-ended:
			b.finish(m, probe, orderly)
			return
		}
	}
}

func (b *Box) isFrozen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frozen
}

// unseenMost is how many looks in a row may see nothing of a program whose limits nothing else holds: the kernel may
// have no descriptor to give for a moment.
const unseenMost = 3

// duty are the throttles of what no control group holds; nil: nothing is held.
type duty struct{ cpu, reads *throttle }

func (b *Box) newDuty() (d duty) {
	if b.first.CPUBy == byDuty {
		d.cpu = &throttle{Cores: b.cfg.CPU}
	}
	if b.cfg.ReadRate > 0 { // a byte is a nanosecond of a processor that gives so many a second
		d.reads = &throttle{Cores: float64(b.cfg.ReadRate) / float64(time.Second)}
	}
	return d
}

// look takes a sample and acts on it.
func (b *Box) look(m *meter, duty duty, probe probing) (now time.Duration) {
	now = time.Since(b.begun)
	s, ok := probe.sample()
	if ok {
		m.add(now, s)
		run := true
		if duty.cpu != nil {
			run = duty.cpu.step(now, b.charged(now, s))
		}
		if duty.reads != nil {
			run = duty.reads.step(now, time.Duration(s.Read)) && run
		}
		if duty.cpu != nil || duty.reads != nil {
			b.hold(!run)
		}
	}
	if why := b.judge(now, s, ok); why != "" {
		b.end(why)
	}
	return now
}

// judge gives the reason for which the program has to end, "" if there is none. ok says that something was seen
// of it; what nobody sees has no limits but those that the kernel holds.
func (b *Box) judge(now time.Duration, s sample, ok bool) (why string) {
	b.mu.Lock()
	late := !b.killAt.IsZero() && time.Now().After(b.killAt)
	b.mu.Unlock()
	if b.unseen++; ok {
		b.unseen = 0
	}
	watched := b.first.MemoryBy == byWatchdog
	switch {
	case ok && watched && (s.RSSKiB+s.TablesKiB)*kib > b.cfg.Memory:
		return WhyMemory
	case ok && b.first.ThreadsBy == byWatchdog && s.Threads > int64(b.cfg.Threads):
		return WhyThreads
	case late:
		return WhyStopped
	case b.cfg.Build != nil && now > b.cfg.Build.Timeout:
		return WhyTimeout
	case b.unseen >= unseenMost && (watched || b.first.ThreadsBy == byWatchdog || b.first.CPUBy == byDuty):
		return WhyUnseen
	}
	return ""
}

// charged is the processor time that the duty cycle counts. What ends before it is looked at hides what
// it used, so that of a family it counts all processors for as long as it was not stopped.
func (b *Box) charged(now time.Duration, s sample) time.Duration {
	if b.cfg.Build == nil {
		return time.Duration(s.CPU)
	}
	if !b.held {
		b.ran += (now - b.looked) * time.Duration(runtime.NumCPU())
	}
	b.looked = now
	return b.ran
}

// finish takes the last sample while the program waits to be reaped, and cleans up.
func (b *Box) finish(m *meter, probe probing, orderly bool) {
	if s, ok := probe.sample(); ok {
		s.RSSKiB = m.usage.RSSKiB // what it had is gone by now; until a moment ago it had it
		m.add(time.Since(b.begun), s)
	}
	var end endRecord
	if orderly {
		end, orderly = b.run.reap()
	}
	b.mu.Lock()
	if !orderly { // somebody has killed the guard: without a pid namespace the program may live
		b.run.kill()
		end.Status, b.why = uint32(unix.SIGKILL), WhyGuard
	}
	b.ended = true
	why := b.why
	b.mu.Unlock()
	b.run.release()
	if why == "" && b.group.killedForMemory() {
		why = WhyMemory
	}
	for _, r := range b.relays {
		r.wait()
	}
	b.group.close()
	outErr := b.takeOutputs(why, end)
	b.run.dropWork()
	m.usage.CPU = max(m.usage.CPU, end.Usage.Utime.Nano()+end.Usage.Stime.Nano())
	if peak := int64(end.Usage.Maxrss); peak > b.run.peak {
		m.usage.PeakKiB = max(m.usage.PeakKiB, peak)
	}
	m.usage.RSSKiB, m.usage.Threads = 0, 0
	exit, signal := exitOf(end)
	b.result = b.first
	b.result.Event, b.result.Usage = EventEnd, b.usage(m)
	b.result.Exit, b.result.Signal, b.result.Why = exit, signal, why
	if outErr != nil {
		b.result.Why, b.result.Error = WhyOutput, cut(outErr.Error())
		b.result.Kind, b.result.Hint = cellproto.KindOf(outErr).String(), cut(cellproto.HintOf(outErr))
	}
	if b.deps.Report != nil {
		b.deps.Report(b.result)
	}
}

// takeOutputs copies what a build that ended well has made. Nothing of it runs any more.
func (b *Box) takeOutputs(why string, end endRecord) error {
	if b.run.work == nil || why != "" || end.Status != 0 || len(b.cfg.Build.Output) == 0 {
		return nil
	}
	return b.run.work.take(b.run.plan.Dir, b.cfg.Build.Output, b.cfg.Build.Disk)
}

func (b *Box) report(e Event, u Usage) {
	if b.deps.Report != nil {
		r := b.first
		r.Event, r.Usage = e, u
		b.deps.Report(r)
	}
}

func (b *Box) usage(m *meter) Usage {
	u := m.snapshot()
	for _, r := range b.relays {
		u.LogDropped += r.dropped.Load()
	}
	return u
}

// niceSession lowers the session's weight: where the kernel groups processes by session, nice counts
// only among those of one, and this program is alone in its.
func (b *Box) niceSession() {
	if b.cfg.Nice > 0 {
		_ = writeExisting("/proc/"+strconv.Itoa(b.run.pid)+"/autogroup", strconv.Itoa(b.cfg.Nice))
	}
}

// probe reads what the kernel says of one process.
type probe struct {
	pid              int
	clock            int32
	statm, stat, io  int
	status           int  // -1 where nobody asks for the page tables
	memory           bool // statm has to be seen, too
	buf              [4096]byte
	pageKiB, lastCPU int64
}

func openProbe(pid int, tables bool) *probe {
	p := &probe{pid: pid, clock: int32(^pid<<3 | 2), pageKiB: int64(os.Getpagesize()) / kib} // CPUCLOCK_SCHED of the whole process
	open := func(name string) int {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1
		}
		return fd
	}
	p.statm, p.stat, p.io, p.status, p.memory = open("statm"), open("stat"), open("io"), -1, tables
	if tables {
		p.status = open("status")
	}
	return p
}

func (p *probe) close() {
	for _, fd := range []int{p.statm, p.stat, p.io, p.status} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// sample gives what can be seen; ok is false where that is not enough, and once the program has been reaped.
func (p *probe) sample() (s sample, ok bool) {
	var t unix.Timespec
	if unix.ClockGettime(p.clock, &t) == nil {
		p.lastCPU = t.Nano()
	}
	s.CPU = p.lastCPU
	text := p.read(p.stat)
	if text == nil {
		return s, false
	}
	s.Threads = threadsOf(text)
	if headless(text) {
		takeIO(p.read(p.io), &s)
		s.RSSKiB, s.TablesKiB, ok = memoryOfThreads(p.pid, p.pageKiB)
		return s, ok || !p.memory
	}
	text = p.read(p.statm)
	if text == nil && p.memory {
		return s, false
	}
	s.RSSKiB = field(text, 1) * p.pageKiB
	takeIO(p.read(p.io), &s)
	if p.status >= 0 {
		s.TablesKiB = tablesOf(p.read(p.status))
	}
	return s, true
}

func (p *probe) read(fd int) []byte {
	n, err := unix.Pread(fd, p.buf[:], 0)
	if err != nil || n <= 0 {
		return nil
	}
	return p.buf[:n]
}

// readEnd reads the guard's last word.
func readEnd(r io.Reader) (end endRecord, ok bool) {
	buf := make([]byte, unsafe.Sizeof(end))
	if _, err := io.ReadFull(r, buf); err != nil {
		return end, false
	}
	copy((*[unsafe.Sizeof(end)]byte)(unsafe.Pointer(&end))[:], buf)
	return end, true
}

// relay passes on what the program prints.
type relay struct {
	in, out *os.File
	limit   *rateLimit // nil: everything passes
	dropped counter
	done    chan struct{}
}

// Burst of a log: as much as the ring of a cell's log holds.
const logBurst = 1 << 20

// newRelay makes a pipe to out, which is duplicated. their end is for the program.
func newRelay(out *os.File, log bool, rate int64) (r *relay, their *os.File, err error) {
	r = &relay{done: make(chan struct{})}
	if log {
		r.limit = &rateLimit{Rate: rate, Burst: logBurst}
	}
	if r.out, err = duplicate(out); err != nil {
		return nil, nil, err
	}
	if r.in, their, err = halfPipe(false); err != nil {
		r.out.Close()
		return nil, nil, err
	}
	return r, their, nil
}

func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if ctlErr := conn.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3)
	}); ctlErr != nil || err != nil {
		return nil, firstError(ctlErr, err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// start begins to pass on. It ends when all ends of the program have been closed.
func (r *relay) start(begun time.Time) {
	go func() {
		defer close(r.done)
		defer r.in.Close()
		defer r.out.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := r.in.Read(buf)
			pass := n
			if r.limit != nil {
				pass = r.limit.allow(time.Since(begun), n)
			}
			r.dropped.Add(int64(n - pass))
			if pass > 0 {
				if _, err := r.out.Write(buf[:pass]); err != nil {
					return // nobody reads: the program gets a SIGPIPE, as it would without this
				}
			}
			if err != nil {
				return
			}
		}
	}()
}

func (r *relay) wait() { <-r.done }

// close gives up a relay that was not started.
func (r *relay) close() {
	r.in.Close()
	r.out.Close()
}
