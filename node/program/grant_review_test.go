package program

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDismissalSparesWhoComesMeanwhile: while a program that is about to be frozen has its callers leave,
// one of whom does not answer, others come, and call. None of theirs is cut.
func TestDismissalSparesWhoComesMeanwhile(t *testing.T) {
	p := newProgram(t, frozenConfig(t, "sdk"), Deps{})
	mustConn(t, p)
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if !p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, nil) {
		t.Skip("connections cannot be handed over on this system")
	}
	time.Sleep(frozenConfig(t, "sdk").FreezeAfter + 100*time.Millisecond) // the silent one is being sent away now
	c := holder(t, p, "", time.Time{})
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && !c.Leaving(); {
		mustAsk(t, c, "echo", "x", "x")
	}
}

// TestFailedStartLeavesNothing behind: neither descriptors nor memory.
func TestFailedStartLeavesNothing(t *testing.T) {
	if newNoGrants() {
		t.Skip("connections cannot be handed over on this system")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bin", "prog")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/no/such/python3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, testConfig(dir, "serve"), Deps{})
	for range 3 {
		if _, err := p.Conn(testContext(t)); err == nil {
			t.Fatal("it has started")
		}
		p.mu.Lock()
		p.health.succeeded()
		p.mu.Unlock()
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(maps), "celld-page"); n != 0 {
		t.Errorf("%d pages are still mapped", n)
	}
}

// TestHoldersAreBounded: a program that never says that a connection has ended does not use up the
// nucleus's descriptors.
func TestHoldersAreBounded(t *testing.T) {
	if newNoGrants() {
		t.Skip("connections cannot be handed over on this system")
	}
	p := newProgram(t, testConfig(cellDir(t), "mute"), Deps{})
	mustConn(t, p)
	given := 0
	for end := time.Now().Add(2 * time.Second); given < 1500 && time.Now().Before(end); {
		near, far, err := localPair()
		if err != nil {
			t.Fatal(err)
		}
		if p.Grant(testContext(t), far.(*net.UnixConn), "", time.Time{}, nil) {
			given++
		} else {
			time.Sleep(time.Millisecond) // it has not taken the others yet
		}
		near.Close()
		far.Close()
	}
	t.Logf("%d given, %d held", given, p.Granted().Conns)
	if n := p.Granted().Conns; n > 1024 {
		t.Errorf("%d connections that have ended are kept, of %d", n, given)
	}
}
