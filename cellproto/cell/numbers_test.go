package cell

import (
	"context"
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

type openBase struct {
	Inner map[string]any `json:"inner"`
}

// ownNumber reads itself.
type ownNumber struct{ V any }

func (o *ownNumber) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &o.V) }
func (o ownNumber) MarshalJSON() ([]byte, error)     { return json.Marshal(o.V) }

type openArgs struct {
	openBase
	V    any                  `json:"v"`
	List []*any               `json:"list"`
	Pair [2]any               `json:"pair"`
	Maps map[string][]any     `json:"maps"`
	Sub  map[string]*openArgs `json:"sub"`
	N    float64              `json:"n"`
	Own  ownNumber            `json:"own"`
}

// What a schema leaves open is the same whether it comes in JSON or in CBOR: no integer is rounded.
func TestOpenNumbers(t *testing.T) {
	f := Func("open", func(_ context.Context, in openArgs) (None, error) { return None{}, nil })
	if _, err := f.compile(); err != nil {
		t.Fatal(err)
	}
	large, one := any(int64(1<<60+1)), any(1.5)
	in := openArgs{
		openBase: openBase{map[string]any{"a": []any{map[string]any{"b": large}}}}, V: map[string]any{"x": large, "y": nil, "z": "1"},
		List: []*any{&large, nil, &one}, Pair: [2]any{int64(math.MinInt64), true}, Maps: map[string][]any{"m": {int64(3), 1e300}}, N: 3,
		Own: ownNumber{V: 7.0},
	}
	in.Sub = map[string]*openArgs{"s": {V: int64(1<<53 + 1), List: []*any{}, Maps: map[string][]any{}, Sub: map[string]*openArgs{}, openBase: openBase{map[string]any{}}}}
	for _, codec := range []cellproto.Codec{cellproto.JSON, cellproto.CBOR} {
		_, b, err := encode(codec, in)
		if err != nil {
			t.Fatal(err)
		}
		var got openArgs
		if err := (arguments{f, codec, b.Bytes()}).decode(&got); err != nil {
			t.Fatalf("codec %d: %v", codec, err)
		}
		if !reflect.DeepEqual(got, in) {
			t.Errorf("codec %d:\n%#v\nis not\n%#v", codec, got, in)
		}
	}
	var got openArgs
	err := arguments{f, cellproto.JSON, []byte(`{"inner":{},"v":1e999,"list":[],"pair":[1,2],"maps":{},"sub":{},"n":1,"own":1}`)}.decode(&got)
	if cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("a number that is none: %v", err)
	}
}
