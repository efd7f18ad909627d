package sandbox

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// userTick is the unit of /proc/PID/stat, in ns: USER_HZ is 100 on every architecture.
const userTick = 1e9 / 100

// family meters a program and all that it has started: the descendants of its guard. What a process
// does within a tick before it ends is not seen but for its processor time.
type family struct {
	guard int
	page  int64
	last  map[int]sample // of those that were alive, for what they had read and written
	gone  sample         // of those that have ended
}

func openFamily(guard int) *family {
	return &family{guard: guard, page: int64(os.Getpagesize()) / kib, last: map[int]sample{}}
}

func (f *family) close() {}

func (f *family) sample() (s sample, ok bool) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return s, false
	}
	all := map[int]procStat{}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(name + "/stat")
		if err != nil {
			continue // it has ended
		}
		if st, ok := parseStat(text); ok {
			all[pid] = st
		}
	}
	guard, ok := all[f.guard]
	if !ok {
		return s, false
	}
	alive := map[int]sample{}
	ticks := guard.waited
	for _, pid := range descendants(all, f.guard) {
		st := all[pid]
		ticks += st.own + st.waited
		s.Threads += st.threads
		one := f.last[pid]
		takeIO(readAll(pid, "io"), &one)
		if st.headless {
			rss, tables, _ := memoryOfThreads(pid, f.page)
			s.RSSKiB, s.TablesKiB = s.RSSKiB+rss, s.TablesKiB+tables
		} else {
			s.RSSKiB += st.pages * f.page
			s.TablesKiB += tablesOf(readAll(pid, "status"))
		}
		alive[pid] = one
		addIO(&s, one)
	}
	for pid, one := range f.last {
		if _, lives := alive[pid]; !lives {
			addIO(&f.gone, one)
		}
	}
	f.last = alive
	addIO(&s, f.gone)
	s.CPU = ticks * userTick
	return s, true
}

func addIO(to *sample, one sample) {
	to.Read, to.Written = to.Read+one.Read, to.Written+one.Written
	to.Received, to.Sent = to.Received+one.Received, to.Sent+one.Sent
}

// memoryOfThreads reads what memory a process has, and its page tables, in KiB, by a thread that is not its first one.
func memoryOfThreads(pid int, pageKiB int64) (rss, tables int64, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, _ := os.ReadDir(dir)
	for _, t := range threads {
		if t.Name() == strconv.Itoa(pid) {
			continue
		}
		statm, err := os.ReadFile(dir + t.Name() + "/statm")
		status, err2 := os.ReadFile(dir + t.Name() + "/status")
		if err == nil && err2 == nil && field(statm, 0) > 0 { // else it ends just now
			return field(statm, 1) * pageKiB, tablesOf(status), true
		}
	}
	return 0, 0, false
}

func readAll(pid int, name string) []byte {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
	if err != nil {
		return nil
	}
	return text
}

// tell has the guard stop all processes of a family, or let them go on.
func (l *launched) tell(word byte) { _, _ = l.life.Write([]byte{word}) } // it can only be gone

// probing is a way to look at what runs.
type probing interface {
	sample() (sample, bool)
	close()
}

func (b *Box) openProbe() probing {
	if b.cfg.Build != nil {
		return openFamily(b.run.guard)
	}
	return openProbe(b.run.pid, b.first.MemoryBy == byWatchdog)
}

// halt stops the program, or all of a family.
func (b *Box) sendHalt(stop bool) {
	switch {
	case b.cfg.Build != nil && stop:
		b.run.tell(sayHalt)
	case b.cfg.Build != nil:
		b.run.tell(sayGoOn)
	case stop:
		b.run.signal(unix.SIGSTOP)
	default:
		b.run.signal(unix.SIGCONT)
	}
}
