package cell

import (
	"context"
	"io"
	"reflect"

	"github.com/celldnet/celld/cellproto"
)

// None is the type of arguments or results that there are none of.
type None = struct{}

// Function is one function of a cell, made by Func, FuncBody or FuncRaw. Its methods declare what
// callers may rely on, and return it.
type Function struct {
	name    string
	flags   cellproto.Function // doc and what was declared; compile fills in the rest
	in, out reflect.Type       // nil: raw
	typed   func(ctx context.Context, a arguments, body io.Reader) (any, error)
	raw     func(ctx context.Context, in []byte) ([]byte, error)
	codec   cellproto.Codec // of a raw function's reply
	docs    Docs            // of the program; set by declare

	args  *shape // what the arguments must look like; set by compile
	open  bool   // they may have values of any type; set by compile
	usage string // for the hint of an error in the arguments
}

// Func declares a function. In is a struct, or a map with strings as keys; its `json` tags name the
// arguments, their order is the order of positional arguments, and `doc` tags describe them. A field
// that is no pointer and has neither omitempty nor omitzero must be given. Out is anything that JSON
// can carry; when it is io.Reader or io.ReadCloser the reply is streamed, and the reader is closed.
//
// An error that fn returns reaches the caller with its text, as of kind FuncError; a
// *cellproto.Error keeps its kind. Kinds that say that the request never ran (cellproto.Kind.NeverRan)
// invite the caller to send it again: return them only before anything was done.
func Func[In, Out any](name string, fn func(ctx context.Context, in In) (Out, error)) *Function {
	return newFunction(name, func(ctx context.Context, in In, _ io.Reader) (Out, error) { return fn(ctx, in) })
}

// FuncBody declares a function that also reads a body, which is empty when the caller sends none.
// What it leaves unread is not fetched.
func FuncBody[In, Out any](name string, fn func(ctx context.Context, in In, body io.Reader) (Out, error)) *Function {
	f := newFunction(name, fn)
	f.flags.BodyIn = true
	return f
}

// FuncRaw declares a function of bytes, at most cellproto.MaxArgs of them, that are passed on as they
// are, whatever the codec. in holds until fn returns; the result may be in, or a buffer that fn uses
// again for its next inline call.
func FuncRaw(name string, fn func(ctx context.Context, in []byte) ([]byte, error)) *Function {
	return &Function{name: name, raw: fn}
}

func newFunction[In, Out any](name string, fn func(context.Context, In, io.Reader) (Out, error)) *Function {
	f := &Function{name: name, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out]()}
	f.flags.BodyOut = f.out == reflect.TypeFor[io.Reader]() || f.out == reflect.TypeFor[io.ReadCloser]()
	f.typed = func(ctx context.Context, a arguments, body io.Reader) (any, error) {
		var in In
		if err := a.decode(&in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, in, body)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	return f
}

// Doc sets one sentence for people.
func (f *Function) Doc(text string) *Function { f.flags.Doc = text; return f }

// Pure declares that the result depends on the arguments alone and that nothing is changed: the
// call may be raced, hedged and retried anywhere.
func (f *Function) Pure() *Function { f.flags.Pure = true; return f }

// Idempotent declares that calls with the same key (KeyFrom) have the effect of one: a call may be
// retried, at this provider.
func (f *Function) Idempotent() *Function { f.flags.Idempotent = true; return f }

// Slow declares that the function waits or computes for long: each call gets a goroutine.
func (f *Function) Slow() *Function { f.flags.Slow = true; return f }

// compile derives what is needed to check and decode calls, and gives the function's schema.
func (f *Function) compile() (cellproto.Function, error) {
	schema := f.flags
	if schema.Doc == "" {
		schema.Doc = f.docs.Functions[f.name]
	}
	schema.Slow = schema.Slow || schema.BodyIn || schema.BodyOut
	if f.raw != nil {
		return schema, nil
	}
	if f.typed == nil {
		return schema, cellproto.Errorf(f.name, cellproto.BadInput, "made without a constructor of this package")
	}
	input, args, order, err := deriveInput(f.in, f.docs)
	if err != nil {
		return schema, cellproto.Errorf("arguments of "+f.name, cellproto.BadInput, "%w", err)
	}
	schema.Input, schema.Order, f.args, f.open = input, order, args, opens(f.in)
	if !schema.BodyOut {
		if schema.Output, err = deriveOutput(f.out, f.docs); err != nil {
			return schema, cellproto.Errorf("result of "+f.name, cellproto.BadInput, "%w", err)
		}
	}
	f.usage = schema.Usage(f.name)
	return schema, nil
}
