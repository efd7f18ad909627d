package call

import (
	"encoding/json"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// A provider whose replies are not what its schema promises costs a pure function nothing, and is not asked
// for a while. For a function that may not be repeated the caller is told that the reply is bad.
func TestRepliesThatDoNotFit(t *testing.T) {
	schema := testSchema()
	for _, name := range []string{"echo", "once"} {
		fn := schema.Functions[name]
		fn.Output = json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}`)
		schema.Functions[name] = fn
	}
	cell := publish(t, schema)
	wrong := func(in *cellproto.Inbound) {
		in.Reply(cellproto.Header{Codec: cellproto.JSON}, []byte(`{"text":5}`))
	}
	t.Run("pure", func(t *testing.T) {
		c, all := electorate(t, cell, 3, nil)
		all[0].program.handle, all[1].program.handle = wrong, wrong
		for range 10 {
			if res := call(t, c, cell, "echo"); res.Provider != peerText(all[2].host) {
				t.Fatalf("%s answered", res.Provider)
			}
		}
		if n := all[0].program.begun.Load() + all[1].program.begun.Load(); n > 2 {
			t.Errorf("those who lie were asked %d times", n)
		}
	})
	t.Run("once", func(t *testing.T) {
		c, all := electorate(t, cell, 2, nil)
		all[0].program.handle, all[1].program.handle = wrong, wrong
		_, err := try(t, c, cell.id.String(), request("once", "x"))
		if cellproto.KindOf(err) != cellproto.BadReply {
			t.Errorf("%v", err)
		}
		if n := all[0].program.begun.Load() + all[1].program.begun.Load(); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}
