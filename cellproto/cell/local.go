package cell

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// LocalConfig is how a cell on this machine is called.
type LocalConfig struct {
	// Dir is the cell's directory. Its nucleus must run (cellctl start).
	Dir string
	// Relay has the calls pass through the nucleus, which is slower. Default: the nucleus hands the
	// connection to the program, where the system and the program can do that.
	Relay bool
	// Cell is what the other side must serve: a CID, or "" for whatever it is.
	Cell string
	// Token is for callers who are not the cell's owner: what cell.token gave.
	Token []byte
}

// Local calls one cell on this machine, from any program of its owner, over the cell's own socket. All
// calls share one connection. When the cell's program is replaced, frozen or stopped, or its nucleus is
// started anew, calls go on over a new connection: one that has not begun is sent there, one that
// may have run is sent again only if its function is pure, or idempotent and the call has a key.
//
// Its methods may be used concurrently. Close ends it.
type Local struct {
	cfg LocalConfig

	mu     sync.Mutex
	cur    *localConn // nil: none was made yet
	closed bool
	made   []byte                       // hash of the schema that the caller was made for; nil: not known
	open   map[*cellproto.Conn]struct{} // all that have not ended, those that are being left too
	conns  sync.WaitGroup

	schema   *cellproto.Schema // nil: not asked for yet
	schemaOf *cellproto.Conn   // over which it came: another one may lead to another program
}

// localConn is a connection that is being made or is there.
type localConn struct {
	ready chan struct{}
	conn  *cellproto.Conn
	err   error
}

// Open makes a Local. Nothing is connected before the first call. An error is BadInput.
func (cfg LocalConfig) Open() (*Local, error) {
	if cfg.Dir == "" {
		return nil, cellproto.Errorf("open cell", cellproto.BadInput, "no directory is given")
	}
	return &Local{cfg: cfg, open: map[*cellproto.Conn]struct{}{}}, nil
}

// Open is LocalConfig.Open with the defaults.
func Open(dir string) (*Local, error) { return LocalConfig{Dir: dir}.Open() }

// madeFor notes which schema a client was made for, unless another one has said so before; connections that
// are made from now on name it.
func (l *Local) madeFor(schema string) {
	hash, err := cellproto.ParseSchemaHash(schema)
	if err != nil {
		return // a client that was changed by hand: it says nothing
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made == nil {
		l.made = hash[:]
	}
}

// Close ends the connection. Calls in flight fail.
func (l *Local) Close() error {
	l.mu.Lock()
	l.closed = true
	cur := l.cur
	l.mu.Unlock()
	if cur != nil {
		<-cur.ready
	}
	l.mu.Lock()
	for conn := range l.open {
		conn.Close()
	}
	l.mu.Unlock()
	l.conns.Wait()
	return nil
}

const (
	// localTries is how often one call is sent, at most: connections can be lost in a row while a cell
	// is replaced.
	localTries = 8
	// localPause is how long to wait before the second try, doubling.
	localPause = time.Millisecond
)

// Do sends r and waits for the reply. r.To must be empty. Errors have the kind that the callee answered
// with; Unavailable with a hint when no nucleus answers.
func (l *Local) Do(ctx context.Context, r *Request) (*Reply, error) {
	var request cellproto.Request
	if err := r.encode(&request); err != nil {
		return nil, err
	}
	if r.To != "" {
		return nil, cellproto.Errorf("call "+r.Func, cellproto.BadInput, "a connection to one cell does not call others")
	}
	reply := new(Reply)
	if err := l.do(ctx, &request, &reply.reply); err != nil {
		return nil, remote(err)
	}
	return reply, nil
}

// CallRaw calls a function with args as they are and appends its reply, of at most 64 MiB, to room, which
// may be nil. Where there is room enough, and the reply has no body, the call allocates nothing.
func (l *Local) CallRaw(ctx context.Context, function string, args, room []byte) ([]byte, error) {
	if err := checkNames(function, "", ""); err != nil {
		return room, err
	}
	if err := checkArgs(function, args); err != nil {
		return room, err
	}
	request := cellproto.Request{Header: cellproto.Header{Func: function}, Payload: args}
	reply := cellproto.Reply{Payload: room}
	if err := l.do(ctx, &request, &reply); err != nil {
		return room, remote(err)
	}
	if reply.Body == nil {
		return reply.Payload, nil
	}
	return reply.Bytes(int64(len(room)) + maxReply)
}

// do makes a call, over several connections one after the other if need be. Its errors are not marked as
// those of another cell yet.
func (l *Local) do(ctx context.Context, request *cellproto.Request, reply *cellproto.Reply) error {
	var ran error // of a try that may have run
	pause := localPause
	for try := 1; ; try++ {
		conn, err := l.conn(ctx)
		if err == nil {
			if err = conn.CallInto(ctx, request, reply); err == nil {
				return nil
			}
		}
		if conn == nil || try == localTries || !l.again(ctx, conn, request, err) {
			if ran != nil && cellproto.KindOf(err).NeverRan() {
				return ran
			}
			return err
		}
		if !cellproto.KindOf(err).NeverRan() {
			ran = err
		}
		if try == 1 { // the new connection is there at once
			continue
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return err
		}
	}
}

// again says whether a failed call is to be sent once more, over a new connection.
func (l *Local) again(ctx context.Context, conn *cellproto.Conn, r *cellproto.Request, err error) bool {
	kind := cellproto.KindOf(err)
	if ctx.Err() != nil || r.Body != nil || cellproto.RetryAfterOf(err) > 0 {
		return false
	}
	gone := conn.Leaving()
	select {
	case <-conn.Done():
		gone = true
	default:
	}
	switch {
	case !gone:
		return false
	case kind == cellproto.Unavailable:
		return true
	case kind != cellproto.MayHaveRun:
		return false
	}
	fn, known := l.function(ctx, r.Header.Func)
	return known && (fn.Pure || fn.Idempotent && len(r.Header.Key) > 0)
}

// function says what callers may rely on, by the schema of the program that they reach now.
func (l *Local) function(ctx context.Context, name string) (cellproto.Function, bool) {
	conn, err := l.conn(ctx)
	if err != nil {
		return cellproto.Function{}, false
	}
	l.mu.Lock()
	schema := l.schema
	if l.schemaOf != conn {
		schema = nil
	}
	l.mu.Unlock()
	if schema == nil {
		reply, err := conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}})
		if err != nil {
			return cellproto.Function{}, false
		}
		raw, err := reply.Bytes(cellproto.MaxSchema)
		if err != nil {
			return cellproto.Function{}, false
		}
		if schema, err = cellproto.ParseSchema(raw); err != nil {
			return cellproto.Function{}, false
		}
		l.mu.Lock()
		l.schema, l.schemaOf = schema, conn
		l.mu.Unlock()
	}
	fn, err := schema.Function(name)
	return fn, err == nil
}

// conn gives a connection on which a call can begin.
func (l *Local) conn(ctx context.Context) (*cellproto.Conn, error) {
	l.mu.Lock()
	cur := l.cur
	if l.closed {
		l.mu.Unlock()
		return nil, cellproto.Errorf("call "+l.cfg.Dir, cellproto.Canceled, "the connection was closed")
	}
	if cur == nil || cur.dead() {
		if cur != nil && cur.conn != nil {
			left := cur.conn
			l.conns.Go(func() { _ = left.Drain(context.Background(), "the caller goes on elsewhere") }) // Close cuts it
		}
		cur = &localConn{ready: make(chan struct{})}
		l.cur = cur
		l.mu.Unlock()
		cur.conn, cur.err = l.connect()
		close(cur.ready)
	} else {
		l.mu.Unlock()
	}
	select {
	case <-cur.ready:
		return cur.conn, cur.err
	default:
	}
	select {
	case <-cur.ready:
		return cur.conn, cur.err
	case <-ctx.Done():
		return nil, cellproto.Errorf("call "+l.cfg.Dir, cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
	}
}

// dead reports that no call can begin.
func (c *localConn) dead() bool {
	select {
	case <-c.ready:
	default:
		return false
	}
	if c.err != nil || c.conn.Leaving() {
		return true
	}
	select {
	case <-c.conn.Done():
		return true
	default:
		return false
	}
}

func (l *Local) connect() (*cellproto.Conn, error) {
	t, err := dialCell(l.cfg.Dir)
	if err != nil {
		kind := cellproto.KindOf(err)
		if kind == cellproto.Failed || kind == cellproto.NotFound {
			kind = cellproto.Unavailable
		}
		return nil, cellproto.Errorf("call "+l.cfg.Dir, kind, "%w", err).WithHint("Start it: cellctl start %s", l.cfg.Dir)
	}
	l.mu.Lock()
	made := l.made
	l.mu.Unlock()
	hello := cellproto.Hello{
		Agent: agent, Cell: l.cfg.Cell, Token: l.cfg.Token, MadeFor: made, Codecs: []uint{uint(cellproto.JSON), uint(cellproto.CBOR)},
	}
	if !l.cfg.Relay {
		hello.Capabilities = []string{cellproto.CapHandoff}
	}
	conn, err := cellproto.NewConn(t, cellproto.Config{Opener: true, Hello: hello})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	conn.Flush() // by the hello the nucleus sees to the connection, while the first call is made ready
	l.mu.Lock()
	l.open[conn] = struct{}{}
	l.mu.Unlock()
	l.conns.Go(func() {
		_ = conn.Run() // its calls are told why it ended
		l.mu.Lock()
		delete(l.open, conn)
		l.mu.Unlock()
	})
	return conn, nil
}

// socketName is the cell's socket, relative to its directory.
const socketName = "run/cell.sock"

// CallLocal calls a function and decodes its reply into Out, or gives it as bytes when Out is []byte.
func CallLocal[Out any](ctx context.Context, l *Local, function string, args any) (Out, error) {
	var out Out
	reply, err := l.Do(ctx, &Request{Func: function, Args: args})
	if err != nil {
		return out, err
	}
	if err := reply.Decode(&out); err != nil {
		return out, remote(err)
	}
	return out, nil
}
