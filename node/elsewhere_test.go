package node

import (
	"testing"

	"github.com/celldnet/celld/node/give"
)

// What was placed in another group than today's, or in none, or in one where there are none now, has to move.
func TestElsewhere(t *testing.T) {
	one, two := map[string]string{"": "/sys/fs/cgroup/a/x"}, map[string]string{"": "/sys/fs/cgroup/b/x"}
	for _, c := range []struct {
		placed, now map[string]string
		want        bool
	}{{one, one, false}, {one, two, true}, {nil, one, true}, {one, nil, true}, {nil, nil, false}, {nil, map[string]string{}, false}} {
		dir := t.TempDir()
		p := give.Placement{Home: "/home", Groups: c.placed, CPU: 1, Memory: 1 << 20}
		if err := p.Write(dir); err != nil {
			t.Fatal(err)
		}
		if got := elsewhere(dir, c.now); got != c.want {
			t.Errorf("%v where %v is: %v", c.placed, c.now, got)
		}
	}
	if elsewhere(t.TempDir(), one) {
		t.Error("what has no place is elsewhere")
	}
}
