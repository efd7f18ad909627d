package celltest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// notices is the socket of a service manager.
type notices struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newNotices(t *testing.T) *notices {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &notices{t, path, conn}
}

// next waits for what the service says next.
func (n *notices) next() string {
	n.t.Helper()
	if err := n.conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	k, err := n.conn.Read(buf)
	if err != nil {
		n.t.Fatalf("it says nothing: %v", err)
	}
	return strings.TrimSpace(string(buf[:k]))
}

// Under a service manager (Type=notify) a nucleus says when it is ready, that it is well as long as it
// answers, and when it stops.
func TestNotify(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Headless("router")
	manager := newNotices(t)
	cmd := exec.Command(filepath.Join(Bin(t), "celld"), c.Dir)
	cmd.Env = append(n.Env(), "NOTIFY_SOCKET="+manager.path, "WATCHDOG_USEC=200000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if got := manager.next(); got != "READY=1" {
		t.Errorf("first it says %q", got)
	}
	if got := c.Status().NucleusPID; got != cmd.Process.Pid {
		t.Errorf("process %d answers when it is ready, not %d", got, cmd.Process.Pid)
	}
	for range 3 {
		if got := manager.next(); got != "WATCHDOG=1" {
			t.Errorf("then it says %q", got)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	got := manager.next()
	for got == "WATCHDOG=1" {
		got = manager.next()
	}
	if got != "STOPPING=1" {
		t.Errorf("in the end it says %q", got)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v: %s", err, stderr.String())
		}
	case <-time.After(Patience):
		t.Errorf("it does not end: %s", stderr.String())
		_ = cmd.Process.Kill()
		<-ended
	}
	c.CheckGone(0)
}

// unit gives a unit file with celld and cellctl where they were built.
func unit(t *testing.T, name, installed string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(moduleRoot, "scripts/service", name))
	if err != nil {
		t.Fatal(err)
	}
	ctl := filepath.Join(filepath.Dir(installed), "cellctl")
	for _, line := range []string{"ExecStart=" + installed + " %f\n", "ExecReload=" + ctl + " upgrade %f\n"} {
		if !bytes.Contains(text, []byte(line)) {
			t.Fatalf("%s has no line %q", name, line)
		}
	}
	text = bytes.Replace(text, []byte(installed), []byte(filepath.Join(Bin(t), "celld")), 1)
	text = bytes.Replace(text, []byte(ctl), []byte(filepath.Join(Bin(t), "cellctl")), 1)
	path := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// systemd finds nothing wrong with the units, and finds what is.
func TestUnits(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd here")
	}
	verify := func(args ...string) string {
		cmd := exec.Command(tool, args...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "SYSTEMD_LOG_LEVEL=warning")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return fmt.Sprint(cmd.ProcessState.ExitCode(), " ", string(out))
	}
	system, user := unit(t, "celld@.service", "/usr/bin/celld"), unit(t, "user/celld@.service", "%h/.local/bin/celld")
	if got := verify("verify", system); got != "0 " {
		t.Errorf("celld@.service: %s", got)
	}
	if got := verify("--user", "verify", user); got != "0 " {
		t.Errorf("user/celld@.service: %s", got)
	}
	text, err := os.ReadFile(system)
	if err == nil {
		err = os.WriteFile(system, bytes.Replace(text, []byte("Restart=on-failure"), []byte("Restart=perhaps"), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := verify("verify", system); !strings.Contains(got, "perhaps") {
		t.Errorf("nonsense is not found: %s", got)
	}
}

// procdStub is what /etc/rc.common gives a script on OpenWrt, as far as ours uses it: the sections of a
// configuration, and procd, which here says what it is told.
const procdStub = `
config_load() { echo "config $1"; }
config_foreach() { for s in full plain off missing relative; do "$1" "$s"; done; }
config_get() {
	case "$2.$3" in
	full.dir) eval "$1='$CELLS/with space'" ;;
	full.user) eval "$1=cell" ;;
	full.home) eval "$1=/srv/home" ;;
	full.network) eval "$1=lab" ;;
	full.bootstrap) eval "$1=/ip4/192.0.2.1/tcp/4321" ;;
	full.listen) eval "$1=/ip4/0.0.0.0/tcp/4321" ;;
	full.log) eval "$1=debug" ;;
	plain.dir | off.dir) eval "$1=\$CELLS/plain" ;;
	missing.dir) eval "$1=/nowhere" ;;
	relative.dir) eval "$1=plain" ;;
	full.profile) eval "$1=ordinary" ;;
	*) eval "$1=${4:-}" ;;
	esac
}
config_get_bool() { if [ "$2" = off ]; then eval "$1=0"; else eval "$1=$4"; fi; }
logger() { shift 4; echo "log $*"; }
procd_open_instance() { echo "open $1"; }
procd_close_instance() { echo close; }
procd_set_param() { printf 'set'; printf ' [%s]' "$@"; echo; }
procd_append_param() { printf 'append'; printf ' [%s]' "$@"; echo; }
procd_add_reload_trigger() { echo "trigger $1"; }
. "$1"
start_service
service_triggers
echo "$START $STOP $USE_PROCD"
`

// The script for OpenWrt tells procd what it should, in whatever sh there is.
func TestProcd(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs(filepath.Join(moduleRoot, "scripts/service/celld.procd"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(script); err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("it cannot be executed: %v", err)
	}
	if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cells := t.TempDir()
	for _, name := range []string{"with space", "plain"} {
		if err := os.MkdirAll(filepath.Join(cells, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cells, name, "cell.toml"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-u", "-c", procdStub, "sh", script)
	cmd.Env = append(os.Environ(), "CELLS="+cells)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	instance := func(section, profile, dir string, middle ...string) string {
		lines := append([]string{"open " + section, "set [command] [/usr/bin/celld] [--profile] [" + profile + "] [" + dir + "]"}, middle...)
		return strings.Join(append(lines, "set [file] ["+dir+"/cell.toml]", "set [respawn] [3600] [5] [5]", "set [term_timeout] [15]",
			"set [limits] [nofile=65536 65536]", "set [no_new_privs] [1]", "set [stderr] [1]", "close"), "\n")
	}
	want := strings.Join([]string{
		"config celld",
		instance("full", "ordinary", cells+"/with space", "set [user] [cell]", "append [env] [CELL_HOME=/srv/home]", "append [env] [CELL_NETWORK=lab]",
			"append [env] [CELL_BOOTSTRAP=/ip4/192.0.2.1/tcp/4321]", "append [env] [CELL_LISTEN=/ip4/0.0.0.0/tcp/4321]", "append [env] [CELL_LOG=debug]"),
		instance("plain", "router", cells+"/plain"),
		"log section missing: there is no cell in /nowhere",
		"log section relative: dir is 'plain', not an absolute path",
		"trigger celld",
		"95 10 1", "",
	}, "\n")
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}
