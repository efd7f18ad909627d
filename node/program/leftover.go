package program

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A nucleus that is killed cannot stop its program. Programs that speak frames end since their
// socket closes, most others since their input does. For those that do not, run/program.pid has the
// number and start time of each process of the program, and the next nucleus ends what it finds there.

const (
	pidFile       = "program.pid"
	leftoverGrace = 2 * time.Second // for a process to be gone after SIGKILL
	maxPIDLines   = 16              // of the file that are read: a swap has two processes, rarely more
)

// pids keeps run/program.pid.
type pids struct {
	dir  string // the cell's
	log  *zap.Logger
	once sync.Once

	mu  sync.Mutex
	all map[int]struct{}
}

func newPIDs(dir string, log *zap.Logger) *pids {
	return &pids{dir: dir, log: log, all: map[int]struct{}{}}
}

// record notes that process pid runs. Failing to do so costs the clean-up only, so it is logged.
func (p *pids) record(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[pid] = struct{}{}
	p.write()
}

// adopt records a process that another nucleus has handed over. It is no left-over.
func (p *pids) adopt(pid int) {
	p.once.Do(func() {})
	p.record(pid)
}

// forget says that process pid does not run any more.
func (p *pids) forget(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, pid)
	p.write()
}

func (p *pids) path() string { return filepath.Join(p.dir, "run", pidFile) }

// write replaces the file. p.mu is held.
func (p *pids) write() {
	if len(p.all) == 0 {
		_ = os.Remove(p.path()) // a stale one is checked before it is believed
		return
	}
	var text []byte
	for _, pid := range slices.Sorted(maps.Keys(p.all)) {
		text = fmt.Appendf(text, "%d %d\n", pid, startTime(pid))
	}
	err := os.MkdirAll(filepath.Dir(p.path()), 0o700)
	if err == nil {
		// A torn line does not parse, and then nothing is killed: no need for an atomic write.
		err = os.WriteFile(p.path(), text, 0o600)
	}
	if err != nil {
		p.log.Warn("cannot note the program's process", zap.Error(err))
	}
}

// killLeftovers ends, the first time that it is called, what an earlier nucleus has left of the
// program, if it can be told for certain.
func (p *pids) killLeftovers() {
	p.once.Do(func() {
		data, err := os.ReadFile(p.path())
		if err != nil {
			return // there is none
		}
		lines := 0
		for line := range bytes.Lines(data) {
			if lines++; lines > maxPIDLines {
				break
			}
			p.killLeftover(line)
		}
		_ = os.Remove(p.path())
	})
}

func (p *pids) killLeftover(line []byte) {
	pid, start, ok := parsePID(line)
	switch {
	case !ok || pid <= 1 || pid == os.Getpid():
	case !canIdentify:
		p.log.Warn("this system does not say whether the program of an earlier nucleus still runs", zap.Int("pid", pid))
	case isProgram(p.dir, pid, start):
		p.log.Warn("killing the program that an earlier nucleus left behind", zap.Int("pid", pid))
		if !killOther(pid, start) {
			p.log.Error("the program of an earlier nucleus does not die", zap.Int("pid", pid))
		}
	}
}

// parsePID reads a line of what write writes; anything else is not ok.
func parsePID(line []byte) (pid int, start uint64, ok bool) {
	var rest string
	n, _ := fmt.Sscanf(string(line[:min(len(line), 64)]), "%d %d%s", &pid, &start, &rest)
	return pid, start, n == 2 && start != 0 && line[len(line)-1] == '\n'
}
