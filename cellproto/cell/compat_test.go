package cell

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"pgregory.net/rapid"
)

type shade string

func (shade) Enum() []string { return []string{"red", "green", "blue"} }

// Two versions of one type have one name: here they are those of two functions.
func versionsOfItem() []reflect.Type {
	type item struct {
		X int64 `json:"x"`
	}
	types := []reflect.Type{reflect.TypeFor[item]()}
	func() {
		type item struct {
			X    int64     `json:"x"`
			At   time.Time `json:"at"`
			Next *item     `json:"next"`
		}
		types = append(types, reflect.TypeFor[item]())
	}()
	func() {
		type item struct {
			X    int64     `json:"x"`
			At   time.Time `json:"at"`
			Next *item     `json:"next"`
			More []byte    `json:"more,omitempty"`
		}
		types = append(types, reflect.TypeFor[item]())
	}()
	func() {
		type item struct {
			X string `json:"x"`
		}
		types = append(types, reflect.TypeFor[item]())
	}()
	return types
}

var (
	items      = versionsOfItem()
	basicTypes = append([]reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[int8](), reflect.TypeFor[uint16](), reflect.TypeFor[int64](), reflect.TypeFor[float64](),
		reflect.TypeFor[string](), reflect.TypeFor[time.Time](), reflect.TypeFor[[]byte](), reflect.TypeFor[color](), reflect.TypeFor[shade](),
		reflect.TypeFor[any](),
	}, items...)
)

func pick[T any](t *rapid.T, from []T) T { return from[rapid.IntRange(0, len(from)-1).Draw(t, "i")] }

func randomType(t *rapid.T, depth int) reflect.Type {
	n := rapid.IntRange(0, 9).Draw(t, "kind")
	if depth == 0 {
		n = 0
	}
	switch n {
	case 6:
		return reflect.SliceOf(randomType(t, depth-1))
	case 7:
		return reflect.MapOf(reflect.TypeFor[string](), randomType(t, depth-1))
	case 8:
		if of := randomType(t, depth-1); of.Kind() != reflect.Interface {
			return reflect.PointerTo(of)
		}
	case 9:
		return randomStruct(t, depth-1)
	case 5:
		return reflect.ArrayOf(rapid.IntRange(1, 2).Draw(t, "length"), randomType(t, depth-1))
	}
	return pick(t, basicTypes)
}

func randomStruct(t *rapid.T, depth int) reflect.Type {
	var fields []reflect.StructField
	for i := range rapid.IntRange(0, 4).Draw(t, "fields") {
		fields = append(fields, structField(t, string(rune('A'+i)), randomType(t, depth)))
	}
	return reflect.StructOf(fields)
}

func structField(t *rapid.T, name string, of reflect.Type) reflect.StructField {
	option := pick(t, []string{"", "", ",omitempty", ",omitzero"})
	return reflect.StructField{Name: name, Type: of, Tag: reflect.StructTag(fmt.Sprintf(`json:"%s%s"`, name, option))}
}

// changed gives a type that is of, or a little different.
func changed(t *rapid.T, of reflect.Type, depth int) reflect.Type {
	if rapid.IntRange(0, 5).Draw(t, "other") == 0 {
		return randomType(t, depth)
	}
	switch {
	case of.Kind() == reflect.Struct && of.Name() == "":
		return changedStruct(t, of, depth)
	case of == reflect.TypeFor[[]byte]():
	case of.Kind() == reflect.Slice:
		return reflect.SliceOf(changed(t, of.Elem(), depth))
	case of.Kind() == reflect.Map:
		return reflect.MapOf(of.Key(), changed(t, of.Elem(), depth))
	case of.Kind() == reflect.Array:
		return reflect.ArrayOf(of.Len(), changed(t, of.Elem(), depth))
	case of.Kind() == reflect.Pointer && rapid.Bool().Draw(t, "plain"):
		return of.Elem()
	case of.Name() == "item":
		return pick(t, items)
	}
	if of.Kind() != reflect.Interface && rapid.IntRange(0, 4).Draw(t, "pointer") == 0 {
		return reflect.PointerTo(of)
	}
	return of
}

func changedStruct(t *rapid.T, of reflect.Type, depth int) reflect.Type {
	var fields []reflect.StructField
	for i := range of.NumField() {
		f := of.Field(i)
		switch rapid.IntRange(0, 6).Draw(t, "change") {
		case 0: // gone
		case 1:
			fields = append(fields, structField(t, f.Name, changed(t, f.Type, depth)))
		default:
			f.Type = changed(t, f.Type, depth)
			fields = append(fields, reflect.StructField{Name: f.Name, Type: f.Type, Tag: f.Tag})
		}
	}
	if rapid.IntRange(0, 2).Draw(t, "more") == 0 {
		fields = append(fields, structField(t, "N", randomType(t, depth)))
	}
	return reflect.StructOf(fields)
}

// fill gives a value that a function might take or give: often with what is not set.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	if e, ok := v.Interface().(Enumerator); ok && v.Kind() == reflect.String {
		values := e.Enum()
		v.SetString(values[r.IntN(len(values))])
		return
	}
	if v.Type() == timeType {
		if r.IntN(2) == 0 {
			v.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), 0).UTC()))
		}
		return
	}
	n := r.IntN(3)
	if depth == 0 {
		n = 0
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(n > 0)
	case reflect.Int8, reflect.Int64:
		v.SetInt(r.Int64N(256) - 128)
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(r.Uint64N(256))
	case reflect.Float64:
		v.SetFloat(float64(r.IntN(10)) / 4)
	case reflect.String:
		v.SetString([]string{"", "red", "text", "AAAA"}[r.IntN(4)])
	case reflect.Slice:
		if n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
		}
		for i := range v.Len() {
			fill(r, v.Index(i), depth-1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), depth-1)
		}
	case reflect.Map:
		if n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for i := range n - 1 {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(r, e, depth-1)
			v.SetMapIndex(reflect.ValueOf([]string{"A", "z", "x"}[i]), e)
		}
	case reflect.Pointer:
		if n > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), depth-1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), depth-1)
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf([]any{"text", true, map[string]any{"a": "b"}, []any{"c"}}[r.IntN(4)]))
	}
}

// If a newer program is compatible, it takes every argument that its callers may give, and gives nothing that they
// were not promised, in both codecs. And what a program gives is always what its own schema promises.
func TestCompatibleTypes(t *testing.T) {
	compatible, broken := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		old := randomStruct(t, 3)
		next := changedStruct(t, old, 2)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "values"), 1))
		if takesAll(t, r, old, next) {
			compatible++
		} else {
			broken++
		}
		givesNothingElse(t, r, old, next)
		givesNothingElse(t, r, old, old)
	})
	t.Logf("%d pairs of arguments are compatible, %d are not", compatible, broken)
}

func schemaOf(t *rapid.T, f cellproto.Function) *cellproto.Schema {
	s := &cellproto.Schema{Cell: "c", Functions: map[string]cellproto.Function{"f": f}}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func takesAll(t *rapid.T, r *rand.Rand, old, next reflect.Type) bool {
	was, _, _, err := deriveInput(old, Docs{})
	is, shape, _, nerr := deriveInput(next, Docs{})
	if err != nil || nerr != nil {
		t.Fatal(err, nerr)
	}
	if len(cellproto.Compatible(schemaOf(t, cellproto.Function{Input: was}), schemaOf(t, cellproto.Function{Input: is}))) > 0 {
		return false
	}
	for range 20 {
		given := reflect.New(old)
		fill(r, given.Elem(), 6)
		for _, codec := range []cellproto.Codec{cellproto.JSON, cellproto.CBOR} {
			_, b, err := encode(codec, given.Interface())
			if err != nil {
				t.Fatal(err)
			}
			a := arguments{fn: &Function{args: shape}, codec: codec, data: b.Bytes()}
			if err := a.decode(reflect.New(next).Interface()); err != nil {
				t.Fatalf("%v\nas arguments (%v) of\n%s\nis\n%s\n%q: %v", old, codec, was, is, b.Bytes(), err)
			}
		}
	}
	return true
}

func givesNothingElse(t *rapid.T, r *rand.Rand, old, next reflect.Type) {
	was, err := deriveOutput(old, Docs{})
	is, nerr := deriveOutput(next, Docs{})
	if err != nil || nerr != nil {
		t.Fatal(err, nerr)
	}
	promised := cellproto.Function{Output: was}
	if len(cellproto.Compatible(schemaOf(t, promised), schemaOf(t, cellproto.Function{Output: is}))) > 0 {
		return
	}
	for range 20 {
		given := reflect.New(next)
		fill(r, given.Elem(), 6)
		for _, codec := range []cellproto.Codec{cellproto.JSON, cellproto.CBOR} {
			_, b, err := encode(codec, given.Interface())
			if err != nil {
				t.Fatal(err)
			}
			if err = promised.ReplyFit().Check(codec, b.Bytes()); err == nil {
				err = decodeReply(codec, b.Bytes(), reflect.New(old).Interface())
			}
			if err != nil {
				t.Fatalf("%v\nas a reply (%v) of\n%s\nis\n%s\n%q: %v", old, codec, was, is, b.Bytes(), err)
			}
		}
	}
}

// A program whose times are not set does not lie.
func TestTimeNotSetFits(t *testing.T) {
	type reply struct {
		At   time.Time   `json:"at"`
		List []time.Time `json:"list"`
		P    *time.Time  `json:"p"`
	}
	output, err := deriveOutput(reflect.TypeFor[reply](), Docs{})
	if err != nil {
		t.Fatal(err)
	}
	for _, codec := range []cellproto.Codec{cellproto.CBOR, cellproto.JSON} {
		_, b, err := encode(codec, reply{List: make([]time.Time, 1), P: new(time.Time)})
		if err != nil {
			t.Fatal(err)
		}
		if err := (cellproto.Function{Output: output}).ReplyFit().Check(codec, b.Bytes()); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
	}
}
