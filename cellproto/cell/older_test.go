package cell

import (
	"context"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

type olderPair struct {
	A int `json:"a"`
	B int `json:"b"`
}

type olderFactors struct {
	Left  int `json:"left"`
	Right int `json:"right"`
}

func mulPair(_ context.Context, in olderPair) (int, error)       { return in.A * in.B, nil }
func mulFactors(_ context.Context, in olderFactors) (int, error) { return in.Left * in.Right, nil }

// A program serves the callers of an older version by that one's functions, over both ways.
func TestServeOlderVersions(t *testing.T) {
	older := [][]*Function{{Func("mul", mulPair), Func("gone", mulPair)}}
	p := start(t, programConfig{Config: Config{Older: older}}, Func("mul", mulFactors))
	hello, err := p.PeerHello(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	call := func(fn, args, as string) (string, error) {
		t.Helper()
		h := cellproto.Header{Func: fn, Codec: cellproto.JSON}
		if as != "" {
			h.Meta = map[string]string{cellproto.MetaSchema: as}
		}
		reply, err := p.Call(limited(t), &cellproto.Request{Header: h, Payload: []byte(args)})
		if err != nil {
			return "", err
		}
		b, err := reply.Bytes(1 << 20)
		return string(b), err
	}
	text, err := call(cellproto.FuncSchema, "", "")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := cellproto.ParseSchema([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if hash := schema.Hash(); string(hash[:]) != string(hello.Schema) || len(schema.Older) != 1 {
		t.Fatalf("its schema is %s", text)
	}
	as := schema.Older[0].Hash().String()
	if text, err := call(cellproto.FuncSchema, "", as); err != nil || text != string(schema.Older[0].Canonical()) {
		t.Errorf("the older version's callers are told %s, %v", text, err)
	}
	for _, tc := range []struct {
		fn, args, as, want string
		kind               cellproto.Kind
	}{
		{"mul", `{"left":3,"right":4}`, "", "12", 0},
		{"mul", `{"a":3,"b":4}`, as, "12", 0},
		{"gone", `{"a":3,"b":4}`, as, "12", 0},
		{"mul", `{"a":3,"b":4}`, "", "", cellproto.BadInput},
		{"mul", `{"left":3,"right":4}`, as, "", cellproto.BadInput},
		{"gone", `{"a":3,"b":4}`, "", "", cellproto.NotFound},
		{"mul", `{"a":3,"b":4}`, schema.Hash().String(), "", cellproto.Incompatible},
		{"mul", `{"a":3,"b":4}`, "nonsense", "", cellproto.Incompatible},
	} {
		if got, err := call(tc.fn, tc.args, tc.as); got != tc.want || cellproto.KindOf(err) != tc.kind {
			t.Errorf("%s %s as %.12q: %q, %v", tc.fn, tc.args, tc.as, got, err)
		}
	}
}

func TestOlderVersionsAreChecked(t *testing.T) {
	fn := Func("mul", mulPair)
	for name, cfg := range map[string]Config{
		"the same name twice": {Older: [][]*Function{{fn, fn}}},
		"too many":            {Older: make([][]*Function, cellproto.MaxOlder+1)},
		"no function":         {Older: [][]*Function{{{}}}},
	} {
		if _, err := newServer(cfg.withDefaults(), []*Function{fn}); err == nil {
			t.Errorf("%s: it can be served", name)
		}
	}
}
