package sandbox

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// built is a directory with the programs that the tests run; everybody may enter it.
var built string

func TestMain(m *testing.M) {
	flag.Parse()
	hungry() // does not return in a process that is to be hungry

	// Of scripts/laptop.sh, for a machine without Go.
	if built = os.Getenv("SANDBOX_BUILT"); built != "" {
		goleak.VerifyTestMain(m)
		return
	}
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil && runtime.GOOS == "linux" {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build compiles the programs: cellbox, the hostile one, and one in C's place that does what it is told.
func build(dir string) error {
	for name, pkg := range map[string]string{
		"cellbox": "../../cmd/cellbox", "hostile": "./testdata/hostile", "obedient": "./testdata/obedient",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd, err, out)
		}
	}
	return nil
}
