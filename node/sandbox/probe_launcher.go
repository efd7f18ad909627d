package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	probeTimeout = 30 * time.Second
	maxProbe     = 64 << 10
)

// ProbeThrough asks the launcher cellbox what Probe says here: so do programs that are larger than it,
// as with Confine. That nothing works is no error.
func ProbeThrough(ctx context.Context, launcher string) (Support, error) {
	op := "ask " + launcher
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, launcher, "--probe", "--json")
	cmd.Env = []string{}
	var out bytes.Buffer
	cmd.Stdout = &limitedWriter{&out, maxProbe}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || out.Len() == 0) {
		return Support{}, cellproto.Errorf(op, cellproto.Unavailable, "%w", err)
	}
	return parseSupport(op, out.Bytes())
}

func parseSupport(op string, text []byte) (s Support, err error) {
	if err := json.Unmarshal(text, &s); err != nil {
		return Support{}, cellproto.Errorf(op, cellproto.BadInput, "what it says is no report: %w", err)
	}
	if len(s.Tiers) != len(tiers()) {
		return Support{}, cellproto.Errorf(op, cellproto.BadInput, "it tells of %d tiers, not %d", len(s.Tiers), len(tiers()))
	}
	return s, nil
}

// limitedWriter refuses what is past n bytes.
type limitedWriter struct {
	w io.Writer
	n int
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > l.n {
		return 0, cellproto.Errorf("read a report", cellproto.TooLarge, "it is longer than %d bytes", maxProbe)
	}
	l.n -= len(b)
	return l.w.Write(b)
}
