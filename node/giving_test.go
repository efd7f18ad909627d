package node

import (
	"reflect"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/give"
	"github.com/celldnet/celld/node/sandbox"
)

// Every field of a change reaches the settings, and nothing else changes.
func TestChangeOf(t *testing.T) {
	yes, no, number, rate, hosts, text := true, false, 33.0, int64(1e6), 7, "mon 10:00-12:00"
	until, list := time.Now().Add(time.Hour), []string{"x"}
	c := ctl.GiveChange{
		On: &yes, CPU: &number, RAM: &number, Disk: &rate, Max: &yes, Busy: &number, Until: &until, Schedule: &text, Allow: &list, Deny: &list,
		GPU: &no, Hosts: &hosts, BuildFromSource: &yes, CreditTo: &text,
	}
	change, err := changeOf(&c)
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := give.ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	got := give.Defaults()
	got.Policy.GPU = true // as an earlier version has let it be set
	change(&got)
	want := give.Settings{
		On: true, CPU: 33, RAM: 33, Disk: 1e6, Max: true, Busy: 33, Until: until, Schedule: schedule,
		Policy: give.Policy{Allow: list, Deny: list, Hosts: 7, BuildFromSource: true, CreditTo: text},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if v.Field(i).IsNil() {
			t.Errorf("%s is not tested", v.Type().Field(i).Name)
		}
	}
	nothing, err := changeOf(&ctl.GiveChange{})
	if err != nil {
		t.Fatal(err)
	}
	if nothing(&got); !reflect.DeepEqual(got, want) {
		t.Errorf("nothing became %+v", got)
	}
	off, err := changeOf(&ctl.GiveChange{On: &no})
	if err != nil {
		t.Fatal(err)
	}
	if off(&got); got.On || !got.Until.IsZero() || got.CPU != 33 {
		t.Errorf("off is %+v", got)
	}
	if _, err := changeOf(&ctl.GiveChange{GPU: &yes}); cellproto.KindOf(err) != cellproto.Unsupported {
		t.Errorf("a GPU that no program would see: %v", err)
	}
	past := time.Now().Add(-time.Second)
	if _, err := changeOf(&ctl.GiveChange{Until: &past}); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("until a second ago: %v", err)
	}
}

func TestBound(t *testing.T) {
	own := sandbox.Config{CPU: 1, Memory: 256 << 20}
	group := map[string]string{"": "/sys/fs/cgroup/x"}
	for name, c := range map[string]struct {
		placed *give.Placement
		own    sandbox.Config
		want   sandbox.Config
	}{
		"not hosted":  {nil, own, own},
		"a share":     {&give.Placement{CPU: 0.1, Memory: 64 << 20}, own, sandbox.Config{CPU: 0.1, Memory: 64 << 20}},
		"wants less":  {&give.Placement{CPU: 2, Memory: 1 << 30}, own, own},
		"says not":    {&give.Placement{CPU: 2, Memory: 1 << 30}, sandbox.Config{Memory: 8 << 20}, sandbox.Config{CPU: 2, Memory: 8 << 20}},
		"hardly any":  {&give.Placement{CPU: 0.001, Memory: 1}, own, sandbox.Config{CPU: leastCPU, Memory: leastMemory}},
		"in a group":  {&give.Placement{CPU: 0.1, Memory: 64 << 20, Groups: group}, own, sandbox.Config{Memory: 64 << 20, Cgroup: "/place"}},
		"a tiny pool": {&give.Placement{CPU: 0.1, Memory: 1, Groups: group}, own, sandbox.Config{Memory: leastMemory, Cgroup: "/place"}},
	} {
		got := c.own
		if bound(&got, c.placed, "/place"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
