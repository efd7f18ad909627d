package celltest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// logs -f shows every line once, in order, while celld rotates the log under it.
func TestLogsFollowRotation(t *testing.T) {
	t.Parallel()
	const calls, perCall = 3, 150 // 127 bytes each with the time: less than the 64 KiB/s past which lines are cut
	n := New(t)
	c := n.Example("greet")
	c.write("bin/greet", fmt.Sprintf(`#!/bin/sh
i=0
while IFS= read -r line; do
	id=${line#*:} id=${id%%%%,*}
	to=$((i + %d))
	while [ $i -lt $to ]; do
		i=$((i + 1))
		printf 'said %%06d %%90s\n' $i x >&2
	done
	printf '{"id":%%s,"reply":"Hello"}\n' "$id"
done
`, perCall), 0o755)
	// A log that is nearly full, so that the third call's lines are in another file than the first's.
	before := strings.Repeat(strings.Repeat("-", 99)+"\n", 4990) + "it begins here\n"
	if err := os.MkdirAll(filepath.Join(c.Dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.write("log/cell.log", before, 0o600)
	c.Start()

	cmd := exec.CommandContext(t.Context(), filepath.Join(Bin(t), "cellctl"), "logs", "-f", "-n", "1", "--only", "cell")
	cmd.Dir, cmd.Env = c.Dir, n.Env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var began atomic.Bool
	var last atomic.Int64
	wrong := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line := lines.Text()
			_, said, ok := strings.Cut(line, "said ")
			switch {
			case strings.Contains(line, "it begins here"):
				began.Store(true)
			case ok && strings.HasPrefix(said, fmt.Sprintf("%06d ", last.Load()+1)):
				last.Add(1)
			case ok:
				select {
				case wrong <- fmt.Sprintf("%q comes after line %d", line, last.Load()):
				default:
				}
			}
		}
	}()
	defer func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-done
		cmd.Wait() //nolint:errcheck // it was killed
	}()
	Eventually(t, "the end of what was there is shown", began.Load)
	for range calls {
		c.Must("use", ".", "greet", "World")
	}
	Eventually(t, "all lines are shown", func() bool { return last.Load() == calls*perCall || len(wrong) > 0 })
	select {
	case text := <-wrong:
		t.Error(text)
	default:
	}
	if old, err := os.ReadFile(filepath.Join(c.Dir, "log", "cell.log.1")); err != nil || !strings.Contains(string(old), "said 000001 ") {
		t.Errorf("the log was not rotated between the lines: %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(c.Dir, "log", "cell.log")); err != nil || !strings.Contains(string(now), fmt.Sprintf("said %06d ", calls*perCall)) {
		t.Errorf("the last line is not in the log: %v", err)
	}
}
