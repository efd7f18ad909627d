package node

import (
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

// Which cells are not copied unasked.
func TestAlone(t *testing.T) {
	pure := &cellproto.Schema{Functions: map[string]cellproto.Function{"add": {Pure: true}}}
	mixed := &cellproto.Schema{Functions: map[string]cellproto.Function{"add": {Pure: true}, "put": {Idempotent: true}}}
	for _, c := range []struct {
		name   string
		change func(*celltoml.Config)
		schema *cellproto.Schema
		want   signed.Alone
	}{
		{"all functions are pure", func(*celltoml.Config) {}, pure, ""},
		{"one is idempotent", func(*celltoml.Config) {}, mixed, signed.AloneState},
		{"there is no schema", func(*celltoml.Config) {}, nil, signed.AloneState},
		{"one is idempotent, no state", func(c *celltoml.Config) { c.Cell.State = celltoml.StateNone }, mixed, ""},
		{"all are pure, but it keeps state", func(c *celltoml.Config) { c.Cell.State = celltoml.StateKept }, pure, signed.AloneState},
		{"deps", func(c *celltoml.Config) { c.Deps["a"] = "../a" }, pure, signed.AloneCalls},
		{"remote cells", func(c *celltoml.Config) { c.RemoteCells["a"] = "/run/a" }, pure, signed.AloneCalls},
		{"the owner", func(c *celltoml.Config) { c.SLO.CloneOnViolation, c.Deps["a"] = false, "../a" }, pure, signed.AloneOwner},
	} {
		cfg := celltoml.Default()
		c.change(cfg)
		if got := aloneOf(cfg, c.schema); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
