package cellproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

// stateVector is one line of testdata/state.json.
type stateVector struct {
	Name  string
	Hex   string          // CBOR; "": there is only JSON
	JSON  json.RawMessage // nil: there is only CBOR
	Error string          // kind; "": it is good
}

func stateVectors(t testing.TB) (out []stateVector) {
	t.Helper()
	data, err := os.ReadFile("testdata/state.json")
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStateVectors(t *testing.T) {
	for _, v := range stateVectors(t) {
		raw, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		check := func(codec Codec, data []byte) *StateArgs {
			if len(data) == 0 {
				return nil
			}
			a, err := ParseStateArgs(codec, data)
			if got := KindOf(err); v.Error == "" && err != nil || v.Error != "" && got.String() != v.Error {
				t.Errorf("%s, codec %d: %v, want %q", v.Name, codec, err, v.Error)
			}
			return a
		}
		a, b := check(CBOR, raw), check(JSON, v.JSON)
		if a != nil && b != nil && !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v in CBOR, %+v in JSON", v.Name, a, b)
		}
		if a == nil {
			continue
		}
		if again, err := a.Marshal(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s: encoded again it is %x: %v", v.Name, again, err)
		}
	}
}

func TestStateLimits(t *testing.T) {
	for name, c := range map[string]struct {
		args StateArgs
		kind Kind
	}{
		"largest":        {StateArgs{Key: make(Blob, MaxStateKey), Value: make(Blob, MaxStateValue), Old: make(Blob, MaxStateValue)}, 0},
		"key":            {StateArgs{Key: make(Blob, MaxStateKey+1)}, TooLarge},
		"prefix":         {StateArgs{Prefix: make(Blob, MaxStateKey+1)}, TooLarge},
		"after":          {StateArgs{After: make(Blob, MaxStateKey+1)}, TooLarge},
		"value":          {StateArgs{Value: make(Blob, MaxStateValue+1)}, TooLarge},
		"old":            {StateArgs{Old: make(Blob, MaxStateValue+1)}, TooLarge},
		"all":            {StateArgs{Value: make(Blob, MaxArgs)}, TooLarge},
		"negative":       {StateArgs{Offset: -1}, BadInput},
		"negative lenth": {StateArgs{Length: -1}, BadInput},
	} {
		data, err := c.args.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseStateArgs(CBOR, data); KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseStateArgs(Raw, []byte{1}); KindOf(err) != Unsupported {
		t.Errorf("raw arguments: %v", err)
	}
	if _, err := ParseStateReply(make([]byte, MaxArgs+1)); KindOf(err) != TooLarge {
		t.Errorf("a reply that is too large: %v", err)
	}
}

// nil and empty are told apart, in both codecs.
func TestStateReply(t *testing.T) {
	for _, value := range []Blob{nil, {}, []byte("x"), {0xff}} {
		r := StateReply{Value: value, Keys: []Blob{[]byte("k"), {0xfe}}, Files: []StateFile{{Name: "n", Size: 1, Modified: 2}}, More: true}
		data, err := r.Marshal(CBOR)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseStateReply(data); err != nil || !reflect.DeepEqual(&r, again) {
			t.Errorf("%#v became %#v: %v", &r, again, err)
		}
		data, err = r.Marshal(JSON)
		var again StateReply
		if err == nil {
			err = json.Unmarshal(data, &again)
		}
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%s became %#v: %v", data, again, err)
		}
	}
}

func TestValidStateName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "0": true, "report-2.txt": true, "a..b": true, strings.Repeat("x", MaxStateName): true,
		"": false, ".": false, "..": false, ".hidden": false, "-x": false, "_x": false, "A": false, "a/b": false, `a\b`: false,
		"../x": false, "a\x00": false, "a b": false, "ä": false, "a\n": false, "a:b": false, strings.Repeat("x", MaxStateName+1): false,
	} {
		if ValidStateName(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
	}
}

func FuzzParseStateArgs(f *testing.F) {
	for _, v := range stateVectors(f) {
		raw, _ := hex.DecodeString(v.Hex)
		f.Add(true, raw)
		f.Add(false, []byte(v.JSON))
	}
	f.Fuzz(func(t *testing.T, binary bool, data []byte) {
		codec := JSON
		if binary {
			codec = CBOR
		}
		a, err := ParseStateArgs(codec, data)
		if err != nil {
			if k := KindOf(err); k != BadInput && k != TooLarge {
				t.Fatalf("%v %v", k, err)
			}
			return
		}
		if len(a.Key) > MaxStateKey || len(a.Value) > MaxStateValue || len(a.Old) > MaxStateValue || a.Offset < 0 {
			t.Fatalf("%+v", a)
		}
		again, err := a.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := ParseStateArgs(CBOR, again); err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v became %+v: %v", a, b, err)
		}
	})
}
