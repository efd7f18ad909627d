package cell

import (
	"bytes"
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/wire"
)

func TestStubSaysWhatItWasMadeFor(t *testing.T) {
	hash := cellproto.SchemaHash{7}
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	NewStubFor(l, "", "no hash")
	if l.made != nil {
		t.Error("what is no hash was taken")
	}
	NewStubFor(l, "", hash.String())
	NewStubFor(l, "", cellproto.SchemaHash{8}.String()) // the first one has said it
	if string(l.made) != string(hash[:]) {
		t.Errorf("it says %x", l.made)
	}
	var out cellproto.Request
	r := Request{Func: "f", To: "maths", Quorum: "2of3", meta: NewStubFor(nil, "maths", hash.String()).meta}
	if err := r.encode(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.Header.Meta[cellproto.MetaMadeFor]; got != hash.String() || out.Header.Meta[cellproto.MetaQuorum] != "2of3" || len(r.meta) != 1 {
		t.Errorf("the meta is %v, that of the stub %v", out.Header.Meta, r.meta)
	}
}

// jsonCallee answers every call with one JSON text.
type jsonCallee string

func (c jsonCallee) Do(context.Context, *Request) (*Reply, error) {
	return &Reply{reply: cellproto.Reply{Header: cellproto.Header{Codec: cellproto.JSON}, Payload: []byte(c)}}, nil
}

// A generated client holds a reply in JSON to what it holds one in CBOR to.
func TestInvokeChecksJSON(t *testing.T) {
	type point struct {
		X    int64
		Tone string
		Pair [2]int64
		Data []byte
		Any  any
	}
	names := []string{"x", "tone", "pair", "data", "any"}
	parse := func(r *wire.Reader) (out point) {
		var seen uint64
		for n := r.Map(); n > 0 && r.Ok(); n-- {
			switch string(r.Key()) {
			case "x":
				r.Once(&seen, 0)
				out.X = r.Int(64)
			case "tone":
				r.Once(&seen, 1)
				out.Tone = r.OneOf([]string{"red"})
			case "pair":
				r.Once(&seen, 2)
				if r.Length(r.Array(), 2) {
					out.Pair = [2]int64{r.Int(64), r.Int(64)}
				}
				r.Leave()
			case "data":
				r.Once(&seen, 3)
				if !r.Null() {
					out.Data = r.Bytes()
				}
			case "any":
				r.Once(&seen, 4)
				out.Any = ParseAny(r)
			default:
				r.Skip()
			}
		}
		r.Leave()
		r.Need(seen, 1, names)
		return out
	}
	for reply, ok := range map[string]bool{
		`{"x":1}`: true, `{"x":1.0,"new":[{}]}`: true, `{"x":1,"data":null}`: true,
		`{"x":1,"tone":"red","pair":[1,2],"data":"AP8=","any":{"n":[7,1.5]}}`: true,
		`{}`: false, `{"X":1}`: false, `{"x":null}`: false, `{"x":"1"}`: false, `{"x":1,"tone":"blue"}`: false, `{"x":1,"pair":[1]}`: false,
		`{"x":1,"pair":[1,2,3]}`: false, `{"x":1,"data":"*"}`: false, `{"x":1,"x":2}`: false, `[]`: false, `null`: false, ``: false,
	} {
		w := wire.GetWriter()
		w.Map(0)
		out, err := Invoke(t.Context(), NewStub(jsonCallee(reply), ""), Request{Func: "f"}, w, parse)
		w.Free()
		if ok != (err == nil) || !ok && (cellproto.KindOf(err) != cellproto.BadReply || !reflect.DeepEqual(out, point{})) {
			t.Errorf("%s: %+v, %v", reply, out, err)
		}
		if strings.Contains(reply, "any") {
			want := point{1, "red", [2]int64{1, 2}, []byte{0, 255}, map[string]any{"n": []any{int64(7), 1.5}}}
			if !reflect.DeepEqual(out, want) {
				t.Errorf("%+v", out)
			}
		}
	}
}

// Between the codecs no integer of 64 bits changes.
func TestTranscodedIntegers(t *testing.T) {
	for _, text := range []string{"18446744073709551615", "9223372036854775808", "-9223372036854775808", "0", "1.5"} {
		var there, back bytes.Buffer
		err := jsonToCBOR(&there, strings.NewReader(text))
		if err == nil {
			err = cborToJSON(&back, &there)
		}
		if err != nil || back.String() != text {
			t.Errorf("%s came back as %s, %v", text, &back, err)
		}
	}
}
