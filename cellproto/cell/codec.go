package cell

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// The CBOR that functions see is the JSON of the same value: the same names, the same types shown as
// text or by their MarshalJSON, times in RFC 3339. Only byte slices are byte strings, not base64, and
// nil lists and maps are empty ones.
var (
	cborEncoder = mustMode(func() (cbor.UserBufferEncMode, error) {
		o := cbor.CoreDetEncOptions()
		o.Time = cbor.TimeRFC3339Nano
		o.NilContainers = cbor.NilContainerAsEmpty
		o.ByteArray = cbor.ByteArrayToArray
		o.BinaryMarshaler = cbor.BinaryMarshalerNone
		o.TextMarshaler = cbor.TextMarshalerTextString
		o.JSONMarshalerTranscoder = transcoder(jsonToCBOR)
		return o.UserBufferEncMode()
	})
	cborDecoder = mustMode(func() (cbor.DecMode, error) {
		o := cborOptions()
		o.JSONUnmarshalerTranscoder = transcoder(cborToJSON)
		return o.DecMode()
	})
	// replyDecoder takes what a callee sends, which may be large.
	replyDecoder = mustMode(func() (cbor.DecMode, error) {
		o := cborOptions()
		o.MaxMapPairs, o.MaxArrayElements = maxReply, maxReply
		o.JSONUnmarshalerTranscoder = transcoder(cborToJSON)
		return o.DecMode()
	})
	// For the transcoders.
	plainEncoder = mustMode(func() (cbor.EncMode, error) { return cbor.CoreDetEncOptions().EncMode() })
	plainDecoder = mustMode(func() (cbor.DecMode, error) {
		o := cborOptions()
		o.IntDec = cbor.IntDecConvertNone // encoding/json writes a uint64 as it is, and a big.Int as an object
		return o.DecMode()
	})
)

func cborOptions() cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: cellproto.MaxArgsDepth, MaxMapPairs: cellproto.MaxArgsKeys,
		MaxArrayElements: cellproto.MaxArgs, IndefLength: cbor.IndefLengthForbidden,
		IntDec: cbor.IntDecConvertSignedOrBigInt, DefaultMapType: reflect.TypeFor[map[string]any](),
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
		TextUnmarshaler: cbor.TextUnmarshalerTextString,
	}
}

func mustMode[M any](mode func() (M, error)) M {
	m, err := mode()
	if err != nil {
		panic(err) // the options above contradict each other
	}
	return m
}

type transcoder func(dst io.Writer, src io.Reader) error

func (t transcoder) Transcode(dst io.Writer, src io.Reader) error { return t(dst, src) }

func jsonToCBOR(dst io.Writer, src io.Reader) error {
	dec := json.NewDecoder(src)
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	v, err := plainNumbers(v)
	if err != nil {
		return err
	}
	return plainEncoder.NewEncoder(dst).Encode(v)
}

func cborToJSON(dst io.Writer, src io.Reader) error {
	var v any
	if err := plainDecoder.NewDecoder(src).Decode(&v); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = dst.Write(b)
	return err
}

// plainNumbers turns json.Number into an integer where it is one.
func plainNumbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		if u, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return u, nil
		}
		return v.Float64()
	case []any:
		for i := range v {
			if v[i], err = plainNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = plainNumbers(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// arguments are those of one call, still encoded.
type arguments struct {
	fn    *Function
	codec cellproto.Codec
	data  []byte
}

var noArguments = []byte("{}")

// decode checks the arguments against the function's input and decodes them. The error is BadInput
// and names the argument; TooLarge past the limits; Unsupported for bytes in no codec.
func (a arguments) decode(into any) error {
	if len(a.data) == 0 {
		a.codec, a.data = cellproto.JSON, noArguments
	}
	var err error
	switch a.codec {
	case cellproto.JSON:
		if err = cellproto.CheckJSON(a.data); err == nil {
			if err = checkJSON(a.fn.args, a.data); err == nil && a.fn.open {
				err = unmarshalOpen(a.data, into)
			} else if err == nil {
				err = json.Unmarshal(a.data, into)
			}
		}
	case cellproto.CBOR:
		if err = cborDecoder.Wellformed(a.data); err == nil {
			if err = checkCBOR(a.fn.args, a.data); err == nil {
				err = cborDecoder.Unmarshal(a.data, into)
			}
		}
	default:
		return cellproto.Errorf("call "+a.fn.name, cellproto.Unsupported, "its arguments are JSON or CBOR, these are raw").
			WithHint("Expected: %s", a.fn.usage)
	}
	if err == nil {
		return nil
	}
	kind := cellproto.BadInput
	if cellproto.KindOf(err) == cellproto.TooLarge || pastLimit(err) {
		kind = cellproto.TooLarge
	}
	return cellproto.Errorf("call "+a.fn.name, kind, "%w", plainDecodeError(err)).WithHint("Expected: %s", a.fn.usage)
}

// pastLimit reports that CBOR is nested too deep or has too many elements or keys.
func pastLimit(err error) bool {
	var depth *cbor.MaxNestedLevelError
	var elements *cbor.MaxArrayElementsError
	var pairs *cbor.MaxMapPairsError
	return errors.As(err, &depth) || errors.As(err, &elements) || errors.As(err, &pairs)
}

// plainDecodeError says in the caller's words what the two decoders say in Go's.
func plainDecodeError(err error) error {
	var j *json.UnmarshalTypeError
	var c *cbor.UnmarshalTypeError
	switch {
	case errors.As(err, &j) && j.Field != "":
		return fault{path: j.Field, what: "cannot be a " + j.Value + ", it is of type " + typeName(j.Type)}
	case errors.As(err, &c) && c.StructFieldName != "":
		name := c.StructFieldName[strings.LastIndexByte(c.StructFieldName, '.')+1:]
		return fault{path: name, what: "cannot be of CBOR type " + c.CBORType + ", it is of type " + c.GoType}
	}
	return err
}

func typeName(t reflect.Type) string {
	if t.Name() != "" {
		return t.Name()
	}
	return t.String()
}

// buffers are for encoded replies; Queue and Reply copy what they are given.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxPooled = 64 << 10 // bytes; a larger buffer is let go

func release(b *bytes.Buffer) {
	if b != nil && b.Cap() <= maxPooled {
		b.Reset()
		buffers.Put(b)
	}
}

// encode appends v to a buffer of the pool in the codec of the request, JSON if that was raw.
func encode(codec cellproto.Codec, v any) (cellproto.Codec, *bytes.Buffer, error) {
	b := buffers.Get().(*bytes.Buffer)
	var err error
	if codec == cellproto.CBOR {
		err = cborEncoder.MarshalToBuffer(v, b)
	} else {
		codec = cellproto.JSON
		enc := json.NewEncoder(b)
		enc.SetEscapeHTML(false)
		if err = enc.Encode(v); err == nil {
			b.Truncate(b.Len() - 1) // the line feed
		}
	}
	if err != nil { // the function has run, and would give the same again
		release(b)
		return 0, nil, cellproto.Errorf("encode reply", cellproto.FuncError, "%w", err)
	}
	return codec, b, nil
}

// decodeReply decodes what a callee answered with.
func decodeReply(codec cellproto.Codec, data []byte, into any) error {
	var err error
	switch codec {
	case cellproto.JSON:
		err = json.Unmarshal(data, into)
	case cellproto.CBOR:
		err = replyDecoder.Unmarshal(data, into)
	default:
		b, ok := into.(*[]byte)
		if !ok {
			return cellproto.Errorf("decode reply", cellproto.Unsupported, "the reply is raw bytes, not %T", into)
		}
		*b = data
	}
	if err != nil {
		return cellproto.Errorf("decode reply", cellproto.BadReply, "%w", err)
	}
	return nil
}

const maxReply = math.MaxInt32 >> 5 // bytes of a typed reply, 64 MiB
