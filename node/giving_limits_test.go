package node

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/celldnet/celld/node/give"
)

// The group is made when it is needed, and made again when somebody has removed it.
func TestLimiter(t *testing.T) {
	l := newLimiter(t.TempDir(), zap.NewNop())
	defer l.Close()
	if l.By() != "" || l.Groups() != nil {
		t.Errorf("before anything is given: %q, %v", l.By(), l.Groups())
	}
	caps := give.Caps{CPU: 10, Memory: 128 << 20, Disk: 5e6}
	if err := l.Set(caps); err != nil {
		t.Fatal(err)
	}
	if l.pool == nil {
		if by := l.By(); !strings.HasPrefix(by, "a share for each cell") || l.Groups() != nil {
			t.Errorf("without control groups: %q, %v", by, l.Groups())
		}
		t.Skip(l.why)
	}
	if !strings.HasPrefix(l.By(), "cgroup v") {
		t.Errorf("held by %q", l.By())
	}
	for _, dir := range l.Groups() {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Set(caps); err == nil {
		t.Error("limits are held by a group that is gone")
	}
	if err := l.Set(caps); err != nil {
		t.Errorf("it is not made again: %v", err)
	}
	for controller, dir := range l.Groups() {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%q: %v", controller, err)
		}
	}
}
