package node

import (
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/dht"
)

func TestProfile(t *testing.T) {
	for name, want := range map[string]Profile{"": Ordinary, "ordinary": Ordinary, "router": Router} {
		if p, err := ParseProfile(name); err != nil || p != want {
			t.Errorf("%q is %q: %v", name, p, err)
		}
	}
	if _, err := ParseProfile("Router"); cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == "" {
		t.Errorf("another one: %v", err)
	}
	if low, high := Router.conns(); low >= connsLow || high >= connsHigh || low >= high {
		t.Errorf("a router keeps %d to %d connections", low, high)
	}
	if Router.serverMode() != dht.ModeClient || Ordinary.serverMode() != dht.ModeAuto {
		t.Error("a router serves the DHT, or nobody does")
	}
	if c := Router.content("/cell"); c.Dir != "" || c.MaxBlocks != routerBlocks {
		t.Errorf("a router keeps blocks in %+v", c)
	}
	if c := Ordinary.content("/cell"); c.Dir != "/cell/cache/blocks" || c.MaxBlocks != 0 {
		t.Errorf("others keep blocks in %+v", c)
	}
	for _, step := range []struct {
		profile    Profile
		tier, want celltoml.SandboxTier
	}{
		{Router, celltoml.SandboxNone, celltoml.SandboxAuto}, {Router, celltoml.SandboxT2, celltoml.SandboxT2}, {Ordinary, celltoml.SandboxNone, celltoml.SandboxNone},
	} {
		cfg := celltoml.Default()
		cfg.Sandbox.Tier = step.tier
		if step.profile.confine(cfg); cfg.Sandbox.Tier != step.want {
			t.Errorf("%q: %s becomes %s", step.profile, step.tier, cfg.Sandbox.Tier)
		}
	}
}
