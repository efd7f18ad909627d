package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// groups makes plain files, which take what is written to them as the kernel's do, in place of control groups without
// processes.
func groups(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := os.MkdirAll(dir, 0o755)
		for file, text := range map[string]string{"cgroup.procs": "", "cgroup.subtree_control": ""} {
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A process that has moved down into a leaf to make a pool beside it finds that pool again, and makes no other one:
// that would be twice what is given.
func TestPoolV2IsFoundFromTheLeaf(t *testing.T) {
	scope := filepath.Join(t.TempDir(), "a.scope")
	leaf := filepath.Join(scope, ownerLeaf)
	groups(t, scope, leaf, filepath.Join(scope, poolPrefix+"x"))
	for from, own := range map[string]string{"the scope": scope, "the leaf": leaf} {
		p, err := openPoolV2(own, poolPrefix+"x")
		if err != nil {
			t.Errorf("from %s: %v", from, err)
			continue
		}
		if want := filepath.Join(scope, poolPrefix+"x"); p.main() != want {
			t.Errorf("from %s the pool is %s, want %s", from, p.main(), want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(leaf, poolPrefix+"*")); len(left) != 0 {
		t.Errorf("in the leaf are %v", left)
	}
}

// The kernel has groups below one that both holds processes and divides what it has take none: the one of a shell or a
// service, in which others are too, is left as it is, and a process that is alone moves down first.
func TestGroupWithProcessesIsNotDivided(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for name, procs := range map[string]string{"others": me + "\n1\n", "another one": "1\n"} {
		dir := t.TempDir()
		for file, text := range map[string]string{"cgroup.type": "domain\n", "cgroup.procs": procs, "cgroup.subtree_control": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if delegate(dir) {
			t.Errorf("with %s in it, it is divided", name)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err != nil || len(text) != 0 {
			t.Errorf("with %s in it, the groups below it have %s, %v", name, text, err)
		}
	}
}

// systemd leaves controllers off that no unit asks for, io among them: they are turned on from the root on.
func TestControllersAreOnAbove(t *testing.T) {
	root := t.TempDir()
	slice := filepath.Join(root, "system.slice")
	pool := filepath.Join(slice, poolPrefix+"x")
	groups(t, root, slice, pool)
	if missing := enable(pool, "io"); missing != nil {
		t.Errorf("it lacks %v", missing)
	}
	for _, dir := range []string{root, slice, pool} {
		if text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err != nil || string(text) != "+io" {
			t.Errorf("%s has %q, %v", dir, text, err)
		}
	}
}
