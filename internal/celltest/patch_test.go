package celltest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// Patches come and go under load, and not one call fails. The patched program is the same one with
// some bytes behind its end, which no loader looks at.
func TestPatchesUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, rounds = 8, 3
	n := New(t)
	c := n.Example("calculator")
	key := filepath.Join(t.TempDir(), "owner.key")
	c.write("keys/owner.pub", c.Must("patch", "keygen", key), 0o644)
	c.Edit("", "\n[patch]\ntrusted_keys = [\"owner.pub\"]\n")
	program := filepath.Join(c.Dir, "bin", "calculator")
	original, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	c.write("other", string(original)+strings.Repeat("patched ", 1000), 0o755)
	c.Must("patch", "make", program, filepath.Join(c.Dir, "other"), "--key", key, "-o", filepath.Join(c.Dir, "a.patch"))
	c.Start()

	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for ctx.Err() == nil {
				if got, _, err := c.Use(context.WithoutCancel(ctx), "", "add", "3", "4"); err != nil || string(got) != "7" {
					t.Errorf("call %d: %q, %v", calls.Load(), got, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	await := func(what string, patched bool) {
		t.Helper()
		Eventually(t, what, func() bool {
			patches := c.Status().Patch
			return patched == (len(patches) == 1 && patches[0].State == ctl.PatchApplied) && (patched || len(patches) == 0)
		})
		data, err := os.ReadFile(program)
		if err != nil || (string(data) != string(original)) != patched {
			t.Errorf("%s: the program has %d bytes: %v", what, len(data), err)
		}
		before := calls.Load()
		Eventually(t, "calls go on", func() bool { return calls.Load() > before+callers })
	}
	for i := range rounds {
		if err := os.Rename(filepath.Join(c.Dir, "a.patch"), filepath.Join(c.Dir, "patch", "a.patch")); err != nil {
			t.Fatal(err)
		}
		await(fmt.Sprintf("patch %d is applied", i), true)
		if err := os.Rename(filepath.Join(c.Dir, "patch", "a.patch"), filepath.Join(c.Dir, "a.patch")); err != nil {
			t.Fatal(err)
		}
		await(fmt.Sprintf("patch %d is rolled back", i), false)
	}
	cancel()
	work.Wait()
	if n := c.Status().Crashes; n != 0 {
		t.Errorf("the program has crashed %d times", n)
	}
	t.Logf("%d calls", calls.Load())
}
