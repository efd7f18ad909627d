package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// loop is a nucleus that sends each call for another cell back to the program that makes it.
func loop(c *cellproto.Conn, f *cellproto.Frame) {
	r := cellproto.NewRelay(c, f, func(cellproto.Kind, time.Time) {})
	back := cellproto.Frame{Header: f.Header, Payload: f.Payload, More: f.More}
	back.Header.To = ""
	if err := r.To(c, &back, true); err != nil {
		r.Fail(err)
	}
}

// sum adds the numbers up to N with a call a number, nested, each of which is inline.
func sum(ctx context.Context, in sizeArgs) (int64, error) {
	if in.N == 0 {
		return 0, nil
	}
	rest, err := Call[int64](ctx, "self", "sum", sizeArgs{in.N - 1})
	return in.N + rest, err
}

func TestInlineCallsAnotherCell(t *testing.T) {
	p := start(t, programConfig{accept: loop}, Func("sum", sum), Func("add", add))
	got, err := p.json(t, "sum", `{"n":20}`)
	check(t, got, err, "210", 0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				got, err := p.json(t, "sum", `{"n":3}`)
				check(t, got, err, "6", 0)
				got, err = p.json(t, "add", `{"a":1,"b":1}`)
				check(t, got, err, "2", 0)
			}
		})
	}
	wg.Wait()
}

// Two goroutines of one inline function call at once: one of them makes it yield.
func TestInlineCallsFromGoroutines(t *testing.T) {
	p := start(t, programConfig{accept: loop}, Func("add", add), Func("both", func(ctx context.Context, in addArgs) (int, error) {
		var wg sync.WaitGroup
		results := make([]int, 2)
		for i := range results {
			wg.Go(func() { results[i], _ = Call[int](ctx, "self", "add", in) })
		}
		wg.Wait()
		return results[0] * results[1], nil
	}))
	for range 100 {
		got, err := p.json(t, "both", `{"a":1,"b":2}`)
		check(t, got, err, "9", 0)
	}
}

func TestClientVariants(t *testing.T) {
	p := start(t, programConfig{accept: loop},
		Func("zeros", zeros), FuncRaw("echo", echo), Func("div", div),
		Func("stream", func(ctx context.Context, in sizeArgs) (int64, error) {
			body, err := Call[io.ReadCloser](ctx, "self", "zeros", in)
			if err != nil {
				return 0, err
			}
			defer body.Close()
			return io.Copy(io.Discard, body)
		}),
		Func("bytes", func(ctx context.Context, _ None) (string, error) {
			b, err := Call[[]byte](ctx, "self", "echo", []byte("bytes"))
			return string(b), err
		}),
		Func("wrong", func(ctx context.Context, _ None) (string, error) {
			return Call[string](ctx, "self", "div", addArgs{1, 1})
		}),
		Func("zero", func(ctx context.Context, _ None) (int, error) { return Call[int](ctx, "self", "div", addArgs{1, 0}) }),
		Func("absent", func(ctx context.Context, _ None) (int, error) { return Call[int](ctx, "self", "sub", addArgs{1, 0}) }),
	)
	for _, test := range []struct {
		function, args, want string
		kind                 cellproto.Kind
	}{
		{"stream", `{"n":3000000}`, "3000000", 0},
		{"bytes", ``, `"bytes"`, 0},
		{"wrong", ``, "decode reply", cellproto.FuncError},
		{"zero", ``, "division by zero", cellproto.FuncError},
		{"absent", ``, `no function "sub"`, cellproto.FuncError},
	} {
		got, err := p.json(t, test.function, test.args)
		check(t, got, err, test.want, test.kind)
	}
}

// TestClientQuorum asks a nucleus for a quorum, and one that knows nothing of it.
func TestClientQuorum(t *testing.T) {
	meta := map[string]string{cellproto.MetaAgreed: "2", cellproto.MetaAsked: "3", cellproto.MetaLiars: "a b"}
	asked := make(chan string, 1)
	p := start(t, programConfig{accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		asked <- f.Header.Meta[cellproto.MetaQuorum]
		_ = c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Header: cellproto.Header{Codec: cellproto.JSON, Meta: meta}, Payload: []byte("1")})
		c.FlushLater(c)
	}}, Func("ask", func(ctx context.Context, in struct{ Quorum string }) (string, error) {
		r, err := Do(ctx, &Request{To: "other", Func: "f", Quorum: in.Quorum})
		if err != nil {
			return "", err
		}
		agreed, asked, liars := r.Quorum()
		return fmt.Sprint(agreed, asked, liars), nil
	}))
	for q, want := range map[string]string{"2of3": `"2 3 [a b]"`, "": `"0 0 []"`} {
		got, err := p.json(t, "ask", `{"Quorum":"`+q+`"}`)
		check(t, got, err, want, 0)
		if said := <-asked; said != q {
			t.Errorf("the nucleus was asked for %q, want %q", said, q)
		}
	}
}

// TestClientSendsABodyAgain has a nucleus that has read a body, and cannot make the call again for want of it.
func TestClientSendsABodyAgain(t *testing.T) {
	const size = 1 << 20
	lost := cellproto.Errorf("call", cellproto.MayHaveRun, "the provider is gone")
	for name, c := range map[string]struct {
		meta map[string]string
		body func() io.Reader
		runs int
		want string
		kind cellproto.Kind
	}{
		"a file":                    {map[string]string{cellproto.MetaAgain: "1"}, func() io.Reader { return strings.NewReader(strings.Repeat("x", size)) }, 2, fmt.Sprint(size), 0},
		"a stream":                  {map[string]string{cellproto.MetaAgain: "1"}, func() io.Reader { return io.LimitReader(zeroReader{}, size) }, 1, "", cellproto.MayHaveRun},
		"what must not be repeated": {nil, func() io.Reader { return strings.NewReader(strings.Repeat("x", size)) }, 1, "", cellproto.MayHaveRun},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []string
			var served sync.WaitGroup
			p := start(t, programConfig{accept: func(conn *cellproto.Conn, f *cellproto.Frame) {
				in := conn.Inbound(context.Background(), f)
				served.Go(func() {
					keys = append(keys, string(in.Header.Key))
					n, _ := io.Copy(io.Discard, in.Body())
					if len(keys) == 1 {
						_ = in.ReplyErrorMeta(lost, c.meta)
						return
					}
					_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Append(nil, n))
				})
			}}, Func("send", func(ctx context.Context, _ None) (int, error) {
				r, err := Do(ctx, &Request{To: "other", Func: "f", Body: c.body()})
				if err != nil {
					return 0, err
				}
				var n int
				err = r.Decode(&n)
				return n, err
			}).Pure())
			got, err := p.json(t, "send", "")
			served.Wait()
			check(t, got, err, c.want, c.kind)
			if len(keys) != c.runs || keys[0] != keys[c.runs-1] || name != "a stream" && keys[0] == "" {
				t.Errorf("it was called %d times, want %d, with the keys %x", len(keys), c.runs, keys)
			}
		})
	}
}

func TestClientLimits(t *testing.T) {
	p := start(t, programConfig{}, FuncRaw("echo", echo))
	client := NewClient(p.Conn)
	for want, r := range map[string]*Request{
		"no function is named":  {},
		"function of 200 bytes": {Func: strings.Repeat("f", 200)},
		"target of 600 bytes":   {Func: "f", To: strings.Repeat("t", 600)},
		"key of 65 bytes":       {Func: "f", Key: strings.Repeat("k", 65)},
		"cannot encode":         {Func: "f", Args: make(chan int)},
		"4of8: two different":   {Func: "f", Quorum: "4of8"},
	} {
		_, err := client.Do(t.Context(), r)
		check(t, "", err, want, cellproto.BadInput)
	}
	_, err := client.Do(t.Context(), &Request{Func: "echo", Args: make([]byte, cellproto.MaxArgs+1)})
	check(t, "", err, "the limit is", cellproto.TooLarge)
	_, err = Do(t.Context(), &Request{Func: "echo"})
	check(t, "", err, "not that of a function", cellproto.Unsupported)
	got, err := p.call(t, cellproto.Header{Func: "echo"}, []byte("alive"))
	check(t, got, err, "alive", 0)
}

func TestContext(t *testing.T) {
	type key struct{}
	waiting := make(chan string, 2)
	ended := make(chan error, 2)
	wait := func(ctx context.Context, _ None) (None, error) {
		waiting <- KeyFrom(ctx)
		<-ctx.Done()
		ended <- ctx.Err()
		return None{}, ctx.Err()
	}
	var kept context.Context
	p := start(t, programConfig{}, Func("inline", wait), Func("slow", wait).Slow(), Func("add", add),
		Func("who", func(ctx context.Context, _ None) ([]string, error) {
			kept = ctx
			child, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Hour)
			defer cancel()
			_, timed := ctx.Deadline()
			return []string{KeyFrom(child), string(CallerFrom(child)), MetaFrom(child, "x"), fmt.Sprint(timed, ctx.Err())}, nil
		}),
	)
	got, err := p.call(t, cellproto.Header{Func: "who", Key: []byte("k1"), Meta: map[string]string{"peer": "12D3", "x": "y"}}, nil)
	check(t, got, err, `["k1","12D3","y","true <nil>"]`, 0)
	<-kept.Done()
	if kept.Err() == nil || KeyFrom(kept) != "k1" {
		t.Error("the context of a call that is over")
	}

	for _, name := range []string{"inline", "slow"} {
		// The caller gives up: the function is told, although it runs inline.
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := p.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: name, Key: []byte("k2")}})
			result <- err
		}()
		if key := <-waiting; key != "k2" {
			t.Errorf("key %q", key)
		}
		got, err := p.json(t, "add", `{"a":1,"b":1}`)
		check(t, got, err, "2", 0)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		check(t, "", <-result, "", cellproto.Canceled)

		// The deadline passes in the program, the caller waits longer.
		done := make(chan error, 1)
		_, err = p.Open(&cellproto.Frame{Header: cellproto.Header{Func: name, Budget: 20 * time.Millisecond}}, sinkFunc(func(f *cellproto.Frame) {
			done <- cellproto.Errorf("", f.Header.Kind, "%s", f.Payload)
		}))
		if err != nil {
			t.Fatal(err)
		}
		p.Flush()
		<-waiting
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		check(t, "", <-done, "deadline", cellproto.Timeout)
	}
}

type sinkFunc func(*cellproto.Frame)

func (s sinkFunc) HandleFrame(_ *cellproto.Conn, f *cellproto.Frame) { s(f) }
func (sinkFunc) HandleClose(*cellproto.Conn, error)                  {}

func TestYield(t *testing.T) {
	entered, open := make(chan struct{}), make(chan struct{})
	p := start(t, programConfig{},
		Func("wait", func(ctx context.Context, _ None) (None, error) {
			Yield(ctx)
			close(entered)
			<-open
			return None{}, nil
		}),
		Func("open", func(context.Context, None) (None, error) { close(open); return None{}, nil }))
	result := make(chan error, 1)
	go func() { _, err := p.json(t, "wait", ""); result <- err }()
	<-entered
	got, err := p.json(t, "open", "")
	check(t, got, err, "{}", 0)
	check(t, "", <-result, "", 0)
}

// TestLongestBudget: no budget that a header can carry is over at once.
func TestLongestBudget(t *testing.T) {
	p := start(t, programConfig{}, FuncRaw("left", func(ctx context.Context, _ []byte) ([]byte, error) {
		if d, ok := ctx.Deadline(); !ok || time.Until(d) < 24*time.Hour {
			return nil, errors.New("the deadline is near")
		}
		return nil, ctx.Err()
	}))
	h := cellproto.Header{Func: "left", Budget: math.MaxInt64 / time.Microsecond * time.Microsecond}
	if _, err := p.Call(context.WithoutCancel(t.Context()), &cellproto.Request{Header: h}); err != nil {
		t.Error(err)
	}
}
