package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// localCall is a call over the cell's own socket: one hop to its nucleus, none to the caller's.
type localCall struct {
	*call
	dir  string
	conn *cellproto.Conn
	done chan struct{}
}

// useLocal calls the cell in dir over run/cell.sock; it wakes its nucleus if that sleeps.
func (a *app) useLocal(ctx context.Context, dir string, c *call, in io.Reader, p *progress) (*reply, error) {
	begin := time.Now()
	socket, err := a.dialCell(ctx, dir, p)
	if err != nil {
		return nil, fromControl(c.op, dir, err)
	}
	p.say("waiting for " + c.fn)
	conn, err := cellproto.NewConn(socket, cellproto.Config{
		Opener: true,
		Hello:  cellproto.Hello{Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)}, Agent: "cellctl"},
	})
	if err != nil {
		socket.Close()
		return nil, err
	}
	l := &localCall{call: c, dir: dir, conn: conn, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		_ = conn.Run() // why it ended is the error of the call
	}()
	r, err := l.request(ctx, in)
	if err != nil {
		l.close()
		return nil, err
	}
	took := time.Since(begin)
	meta := ctl.UseMeta{Codec: codecName(r.Header.Codec), Source: "local", TookUS: took.Microseconds()}
	if a.json {
		meta.Provider = peerOf(ctx, dir)
	}
	return &reply{UseMeta: meta, body: bodyOf(c.op, r), close: l.close}, nil
}

// dialCell connects to the cell's socket, and starts its nucleus first if nobody listens.
func (a *app) dialCell(ctx context.Context, dir string, p *progress) (*net.UnixConn, error) {
	socket, err := ctl.Dial(ctx, dir, ctl.CellSocket)
	if !errors.Is(err, ctl.ErrNotRunning) {
		return socket, err
	}
	if _, err := a.ensure(ctx, dir, p); err != nil {
		return nil, err
	}
	return ctl.Dial(ctx, dir, ctl.CellSocket)
}

func (l *localCall) close() {
	l.conn.Close()
	<-l.done
}

// request builds the arguments by the cell's schema and makes the call.
func (l *localCall) request(ctx context.Context, in io.Reader) (*cellproto.Reply, error) {
	req := &cellproto.Request{Header: cellproto.Header{Func: l.fn, Codec: cellproto.JSON, Key: []byte(l.key)}}
	f, err := l.function(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case in == nil || f.BodyIn:
		req.Body = in
		req.Payload, err = f.Arguments(l.argv)
	case len(l.argv) > 0:
		return nil, usageError{cellproto.Errorf(l.op, cellproto.BadInput, "%s takes no body, so --input is its arguments", l.fn).
			WithHint("either --input or arguments")}
	default:
		if req.Payload, err = readArgs(ctx, in); ctx.Err() != nil {
			return nil, wrapOp(l.op, err)
		}
	}
	if err != nil {
		e := cellproto.Errorf(l.op, cellproto.KindOf(err), "%w", err).WithHint("%s", f.Usage(l.fn))
		return nil, usageError{e}
	}
	r, err := l.conn.Call(ctx, req)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, cellproto.Errorf(l.op, cellproto.Timeout, "no answer in time; it may have run").WithHint("a longer --timeout")
	case err != nil:
		return nil, badTarget(wrapOp(l.op, err))
	}
	return r, nil
}

// function finds the function in the schema: the cached one, unless the cell says that it now has
// another. A function of a cell that shows no schema takes arguments by name.
func (l *localCall) function(ctx context.Context) (cellproto.Function, error) {
	var open cellproto.Function
	if strings.HasPrefix(l.fn, cellproto.ReservedPrefix) {
		return open, nil
	}
	// The cell's hello is on its way while the cache is read.
	schema := readSchema(l.dir)
	var hash cellproto.SchemaHash
	if schema != nil {
		hash = schema.Hash()
	}
	hello, err := l.conn.PeerHello(ctx)
	if err != nil {
		return open, wrapOp(l.op, err)
	}
	if len(hello.Schema) > 0 && string(hash[:]) != string(hello.Schema) {
		schema = nil
	}
	if schema == nil {
		schema, err = l.fetchSchema(ctx)
		if err != nil || schema == nil {
			return open, err
		}
	}
	f, err := schema.Function(l.fn)
	if err != nil {
		return open, wrapOp(l.op, err)
	}
	return f, nil
}

// fetchSchema asks the cell; nil without an error is a cell that shows none.
func (l *localCall) fetchSchema(ctx context.Context) (*cellproto.Schema, error) {
	r, err := l.conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema, Codec: cellproto.JSON}})
	switch cellproto.KindOf(err) {
	case 0:
	case cellproto.NotFound, cellproto.Unsupported:
		return nil, nil
	default:
		return nil, wrapOp(l.op, err)
	}
	data, err := r.Bytes(cellproto.MaxSchema)
	if err != nil {
		return nil, wrapOp(l.op, err)
	}
	schema, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil, wrapOp(l.op, err)
	}
	return schema, nil
}

// readSchema gives the schema of the cell in dir as its nucleus has cached it, else as its owner
// wrote it; nil if there is none.
func readSchema(dir string) *cellproto.Schema {
	if s := readSchemaFile(filepath.Join(dir, "cache", "schema.json")); s != nil {
		return s
	}
	return readSchemaFile(filepath.Join(dir, "schema.json"))
}

// readSchemaFile gives nil for a file that is missing or broken: it is only a cache.
func readSchemaFile(path string) *cellproto.Schema {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, cellproto.MaxSchema+1))
	if err != nil {
		return nil
	}
	s, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil
	}
	return s
}

// readArgs reads JSON arguments, for as long as ctx lets it. A read that does not return ends with the process.
func readArgs(ctx context.Context, in io.Reader) ([]byte, error) {
	type read struct {
		data []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, cellproto.MaxArgs+1))
		done <- read{data, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, cellproto.Errorf("read the input", cellproto.Failed, "%w", r.err)
		}
		return r.data, cellproto.CheckJSON(r.data)
	case <-ctx.Done():
		return nil, cellproto.Errorf("read the input", cellproto.KindOf(ctx.Err()), "it has no end yet").
			WithHint("a longer --timeout, or close the pipe that --input - reads")
	}
}

// peerOf gives the peer ID of dir's nucleus, or "" if it does not say.
func peerOf(ctx context.Context, dir string) string {
	status, err := (&ctl.Client{Dir: dir}).Status(ctx)
	if err != nil {
		return ""
	}
	return status.PeerID
}

func codecName(c cellproto.Codec) string {
	switch c {
	case cellproto.JSON:
		return ctl.CodecJSON
	case cellproto.CBOR:
		return ctl.CodecCBOR
	}
	return ctl.CodecRaw
}

// bodyOf gives all bytes of a reply, payload and body.
func bodyOf(op string, r *cellproto.Reply) io.Reader {
	if r.Body == nil {
		return strings.NewReader(string(r.Payload))
	}
	return io.MultiReader(strings.NewReader(string(r.Payload)), opErrors{r.Body, op})
}

// opErrors puts what was asked for in front of the errors of a body.
type opErrors struct {
	r  io.Reader
	op string
}

func (o opErrors) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = wrapOp(o.op, err)
	}
	return n, err
}
