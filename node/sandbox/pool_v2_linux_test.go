package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// A process that has moved down into a leaf to make a pool beside it finds that pool again, and makes no other one:
// that would be twice what is given.
func TestPoolV2IsFoundFromTheLeaf(t *testing.T) {
	scope := filepath.Join(t.TempDir(), "a.scope")
	leaf := filepath.Join(scope, ownerLeaf)
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	// Plain files take what is written to them as the kernel's do.
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
	if left, _ := filepath.Glob(filepath.Join(leaf, "*", "")); len(left) != 0 {
		t.Errorf("in the leaf are %v", left)
	}
}
