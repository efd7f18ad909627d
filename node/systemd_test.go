package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

// The watchdog is told that a nucleus is well which answers, and of no other.
func TestTellWell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	told := func(within time.Duration) string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		k, err := conn.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(buf[:k])
	}
	n := &nucleus{cfg: &celltoml.Config{Dir: t.TempDir()}, log: zap.NewNop()}
	n.tellWell(t.Context(), time.Minute)
	if got := told(time.Millisecond); got != "" {
		t.Errorf("of one that does not answer: %q", got)
	}
	l, err := ctl.Listen(n.cfg.Dir, ctl.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
			w.Header().Set("Content-Type", ctl.ContentType)
			_ = ctl.NewWriter(w, func() {}).Result(ctl.Metrics{})
		case <-r.Context().Done():
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	defer func() { _ = s.Shutdown(context.Background()); <-done }()
	n.tellWell(t.Context(), 10*time.Millisecond)
	if got := told(time.Millisecond); got != "" {
		t.Errorf("of one that hangs: %q", got)
	}
	close(hang)
	n.tellWell(t.Context(), time.Minute)
	if got := told(time.Minute); got != "WATCHDOG=1" {
		t.Errorf("of one that answers: %q", got)
	}
}
