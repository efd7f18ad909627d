package program

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// A nucleus that is killed cannot stop its program. Programs that speak frames end since their
// socket closes, most others since their input does. For those that do not, each start leaves the
// process's number and start time in run/program.pid, and the next nucleus ends what it finds there.

const (
	pidFile       = "program.pid"
	leftoverGrace = 2 * time.Second // for a process to be gone after SIGKILL
)

// recordPID notes that process pid runs. Failing to do so costs the clean-up only, so it is logged.
func recordPID(dir string, pid int, log *zap.Logger) {
	path := filepath.Join(dir, "run", pidFile)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		// A torn file does not parse, and then nothing is killed: no need for an atomic write.
		err = os.WriteFile(path, fmt.Appendf(nil, "%d %d\n", pid, startTime(pid)), 0o600)
	}
	if err != nil {
		log.Warn("cannot note the program's process", zap.Error(err))
	}
}

// forgetPID says that no process runs.
func forgetPID(dir string) {
	_ = os.Remove(filepath.Join(dir, "run", pidFile)) // a stale one is checked before it is believed
}

// killLeftover ends the program that an earlier nucleus has left, if it can be told for certain.
func killLeftover(dir string, log *zap.Logger) {
	data, err := os.ReadFile(filepath.Join(dir, "run", pidFile))
	if err != nil {
		return // there is none
	}
	pid, start, ok := parsePID(data)
	switch {
	case !ok || pid <= 1 || pid == os.Getpid():
	case !canIdentify:
		log.Warn("this system does not say whether the program of an earlier nucleus still runs", zap.Int("pid", pid))
	case isProgram(dir, pid, start):
		log.Warn("killing the program that an earlier nucleus left behind", zap.Int("pid", pid))
		if !killOther(pid, start) {
			log.Error("the program of an earlier nucleus does not die", zap.Int("pid", pid))
		}
	}
	forgetPID(dir)
}

// parsePID reads what recordPID writes; anything else is not ok.
func parsePID(data []byte) (pid int, start uint64, ok bool) {
	var rest string
	n, _ := fmt.Sscanf(string(data[:min(len(data), 64)]), "%d %d%s", &pid, &start, &rest)
	return pid, start, n == 2 && start != 0 && data[len(data)-1] == '\n'
}
