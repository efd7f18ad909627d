package cell

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// batches sends frames written beforehand, so that the allocations counted are the server's.
func batches(b *testing.B, h cellproto.Header, payload []byte, functions ...*Function) {
	const batch = 100
	nucleus, inside := socketPair(b)
	result := make(chan error, 1)
	go func() { result <- Config{Name: "bench", Log: io.Discard}.Serve(b.Context(), inside, functions...) }()
	var out []byte
	hello := cellproto.Hello{}
	p, err := hello.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	if out, err = cellproto.AppendFrame(out, &cellproto.Frame{Type: cellproto.TypeHello, Payload: p}); err != nil {
		b.Fatal(err)
	}
	if _, err := nucleus.Write(out); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	replies := &counter{r: nucleus, buf: buf}
	replies.skip(b, 1) // the hello
	out = out[:0]
	for i := range batch {
		if out, err = cellproto.AppendFrame(out, &cellproto.Frame{Type: cellproto.TypeRequest, ID: uint32(2*i + 1), Header: h, Payload: payload}); err != nil {
			b.Fatal(err)
		}
	}
	size := len(out) / batch
	b.ReportAllocs()
	calls := 0
	for b.Loop() {
		if calls%batch == 0 {
			for i := range batch { // ids are not used twice
				binary.BigEndian.PutUint32(out[i*size+8:], uint32(2*(calls+i)+1))
			}
			if _, err := nucleus.Write(out); err != nil {
				b.Fatal(err)
			}
			replies.skip(b, batch)
		}
		calls++
	}
	b.StopTimer()
	nucleus.Close()
	<-result
}

// counter reads frames without allocating.
type counter struct {
	r    io.Reader
	buf  []byte
	from int
	to   int
}

func (c *counter) skip(b *testing.B, n int) {
	for n > 0 {
		size, err := cellproto.FrameSize(c.buf[c.from:c.to])
		if err != nil {
			b.Fatal(err)
		}
		if size > 0 && c.to-c.from >= size {
			c.from += size
			n--
			continue
		}
		c.to = copy(c.buf, c.buf[c.from:c.to])
		c.from = 0
		m, err := c.r.Read(c.buf[c.to:])
		if err != nil {
			b.Fatal(err)
		}
		c.to += m
	}
}

func BenchmarkServe(b *testing.B) {
	payload := make([]byte, 200)
	b.Run("raw", func(b *testing.B) {
		batches(b, cellproto.Header{FuncNum: 1}, payload, FuncRaw("echo", echo))
	})
	b.Run("raw-slow", func(b *testing.B) {
		batches(b, cellproto.Header{FuncNum: 1}, payload, FuncRaw("echo", echo).Slow())
	})
	b.Run("raw-yield", func(b *testing.B) {
		batches(b, cellproto.Header{FuncNum: 1}, payload, FuncRaw("echo", func(ctx context.Context, in []byte) ([]byte, error) {
			Yield(ctx)
			return in, nil
		}))
	})
	b.Run("raw-meta", func(b *testing.B) { // of a stranger
		meta := map[string]string{metaPeer: "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"}
		batches(b, cellproto.Header{FuncNum: 1, Meta: meta}, payload, FuncRaw("echo", echo))
	})
	b.Run("json", func(b *testing.B) {
		batches(b, cellproto.Header{FuncNum: 1, Codec: cellproto.JSON}, []byte(`{"a":3,"b":4}`), Func("add", add))
	})
	args, err := cborEncoder.Marshal(addArgs{3, 4})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cbor", func(b *testing.B) {
		batches(b, cellproto.Header{FuncNum: 1, Codec: cellproto.CBOR}, args, Func("add", add))
	})
}

func BenchmarkProgram(b *testing.B) {
	c := startChild(b, nil)
	payload := make([]byte, 200)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			b.SetParallelism(max(callers/2, 1))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := c.Call(b.Context(), &cellproto.Request{Header: cellproto.Header{Func: "echo"}, Payload: payload}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
