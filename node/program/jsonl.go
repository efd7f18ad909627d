package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	// maxStdin is how much may wait for a jsonl program to read it, in bytes: some twenty requests of
	// the largest size. Past it calls are Overloaded.
	maxStdin = 4 << 20
	// maxQuoted is how much of a bad line the log shows, in bytes.
	maxQuoted = 200
	// lastAnswers is how long a process's end is waited for once it has closed its output, so that
	// errors can say how it ended.
	lastAnswers = 500 * time.Millisecond
	// farewell is how long the last answers of a process may take to be handed over.
	farewell = time.Second
	// stdinRetry is what callers are told to wait when maxStdin is reached.
	stdinRetry = 50 * time.Millisecond
)

// adapter makes a program that reads and writes JSON lines look like one that speaks frames. It
// answers on far, the program's side of a connection within this process. The program may answer in
// any order. It is not told of cancels: the simplest programs take every line for a request.
type adapter struct {
	name   string
	log    *zap.Logger
	out    *output
	bad    *atomic.Uint64 // lines
	schema *cellproto.Schema
	fits   map[string]func() *cellproto.Fit // what each function promises of its replies
	json   []byte                           // the schema's, canonical; nil when there is none
	hello  cellproto.Hello
	far    *cellproto.Conn
	stdin  *os.File
	stdout *os.File
	// ending waits a little for the process's end and says how it ended, and whether it has.
	ending func() (how string, over bool)
	kick   chan struct{} // capacity 1: there is something to write, or closed
	wrote  chan struct{} // closed when nothing is written to stdin any more
	done   chan struct{} // closed when every goroutine has ended
	useful atomic.Bool   // the program has given one valid answer

	mu      sync.Mutex
	next    uint64 // number of the last request
	pending map[uint64]*lineCall
	queue   []byte
	queued  int64 // bytes ever queued
	written int64 // bytes ever written to stdin
	closed  bool  // nothing is written any more
	calls   int   // of the program itself, under way
	replies sync.WaitGroup
}

// lineCall is a call that the program has been asked to answer.
type lineCall struct {
	in    *cellproto.Inbound
	fn    string
	begin int64       // where its line begins in what is queued
	stop  func() bool // ends the watch for the caller's giving up
}

// loadSchema reads the schema.json of a program that does not derive its own. Without the file it
// gives nil.
func loadSchema(dir string) (*cellproto.Schema, error) {
	path := filepath.Join(dir, "schema.json")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > cellproto.MaxSchema {
		return nil, cellproto.Errorf("read schema.json", cellproto.TooLarge, "%d bytes, the limit is %d", info.Size(), cellproto.MaxSchema)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, cellproto.Errorf("read schema.json", cellproto.KindOf(err), "%w", err)
	}
	return cellproto.ParseSchema(data)
}

// newAdapter makes an adapter that answers on t. Nothing moves before run.
func newAdapter(cfg Config, t cellproto.Transport, schema *cellproto.Schema) (*adapter, error) {
	a := &adapter{
		name: cfg.Name, schema: schema, pending: map[uint64]*lineCall{},
		kick: make(chan struct{}, 1), wrote: make(chan struct{}), done: make(chan struct{}),
	}
	a.hello = cellproto.Hello{
		Versions: []uint{cellproto.Version}, Codecs: []uint{uint(cellproto.JSON)}, Cell: cfg.Name, Agent: "celld-jsonl",
	}
	if schema != nil {
		a.json = schema.Canonical()
		hash := schema.Hash()
		a.hello.Schema = hash[:]
		a.hello.Functions = slices.Sorted(maps.Keys(schema.Functions))
		a.fits = make(map[string]func() *cellproto.Fit, len(schema.Functions))
		for name, fn := range schema.Functions {
			a.fits[name] = sync.OnceValue(fn.ReplyFit)
		}
		for i := range a.hello.Functions {
			a.hello.Slow = append(a.hello.Slow, uint(i+1)) // none is answered inline
		}
	}
	var err error
	a.far, err = cellproto.NewConn(t, cellproto.Config{Hello: a.hello, Accept: a.accept})
	return a, err
}

// run moves requests and answers until the connection and the process's output have ended.
func (a *adapter) run() {
	defer close(a.done)
	var streams sync.WaitGroup
	streams.Go(func() {
		if err := a.writeLines(); err != nil {
			a.out.note("celld: the program does not read its input any more")
			a.end()
		}
	})
	streams.Go(a.readLines)
	if err := a.far.Run(); err != nil {
		a.log.Debug("connection to the adapter ended", zap.Error(err))
	}
	a.closeInput()
	a.stdin.Close() // after which the program should end
	streams.Wait()
	a.replies.Wait()
}

// accept takes a request, on the connection's reading goroutine.
func (a *adapter) accept(c *cellproto.Conn, f *cellproto.Frame) {
	refuse := func(err error) {
		if c.Queue(cellproto.ErrorReply(f.ID, err)) == nil {
			c.FlushLater(c)
		}
	}
	if f.Header.Func == cellproto.FuncSchema {
		if a.json == nil {
			refuse(cellproto.Errorf("call "+a.name, cellproto.NotFound, "it has no schema").
				WithHint("The owner can put a schema.json beside cell.toml."))
			return
		}
		in := c.Inbound(context.Background(), f)
		a.reply(in, a.json)
		return
	}
	line, err := a.request(f)
	if err != nil {
		refuse(err)
		return
	}
	if err := a.ask(c, f, line); err != nil {
		refuse(err)
	}
}

// request checks what a jsonl program can take and gives the line for it, still without its number.
func (a *adapter) request(f *cellproto.Frame) ([]byte, error) {
	op := "call " + f.Header.Func
	if a.schema != nil {
		if _, err := a.schema.Function(f.Header.Func); err != nil {
			return nil, err
		}
	} else if !cellproto.ValidFuncName(f.Header.Func) {
		return nil, cellproto.Errorf(op, cellproto.NotFound, "it has no such function")
	}
	switch {
	case f.More:
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "a program that speaks jsonl takes no bodies").
			WithHint("Write the program with the SDK, which speaks frames.")
	case f.Header.Codec != cellproto.JSON && len(f.Payload) > 0:
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "a program that speaks jsonl takes JSON arguments only").
			WithHint("Send the arguments as JSON.")
	case len(f.Payload) == 0:
		return nil, nil
	}
	return f.Payload, cellproto.CheckJSON(f.Payload)
}

// ask queues the line of one request.
func (a *adapter) ask(c *cellproto.Conn, f *cellproto.Frame, args []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		e := cellproto.Errorf("call "+f.Header.Func, cellproto.Unavailable, "the program does not read its input any more")
		e.RetryAfter = stdinRetry
		return e
	case len(a.queue) > maxStdin:
		e := cellproto.Errorf("call "+f.Header.Func, cellproto.Overloaded, "%d bytes wait for the program to read them", len(a.queue))
		e.RetryAfter = stdinRetry
		return e
	}
	before := len(a.queue)
	queue, err := appendRequest(a.queue, a.next+1, f.Header.Func, args)
	if err != nil {
		a.queue = a.queue[:before]
		return err
	}
	a.queue = queue
	a.next++
	id := a.next
	call := &lineCall{in: c.Inbound(context.Background(), f), fn: f.Header.Func, begin: a.queued}
	a.queued += int64(len(queue) - before)
	a.pending[id] = call
	call.stop = context.AfterFunc(call.in.Context(), func() { a.abandon(id) })
	a.wake()
	return nil
}

func (a *adapter) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// abandon is called when nobody waits for a call any more. The program goes on with it
// unknowingly, so its slot is kept; but not for ever, since the program may have forgotten it.
func (a *adapter) abandon(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, waits := a.pending[id]; waits && !a.closed {
		time.AfterFunc(cellproto.DrainTimeout, func() {
			a.fail(id, cellproto.Errorf("call", cellproto.Timeout, "the program has not answered"))
		})
	}
}

// take removes a call from those that wait.
func (a *adapter) take(id uint64) *lineCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	call := a.pending[id]
	if call != nil {
		delete(a.pending, id)
		call.stop()
	}
	return call
}

// fail ends a call with err, if it waits.
func (a *adapter) fail(id uint64, err error) {
	if call := a.take(id); call != nil {
		_ = call.in.ReplyError(err) // a lost caller needs no answer
	}
}

// reply ends a call with JSON. What is small is queued at once, what is larger has to wait for the
// caller to take it.
func (a *adapter) reply(in *cellproto.Inbound, payload []byte) {
	header := cellproto.Header{Codec: cellproto.JSON}
	if len(payload) <= cellproto.ChunkSize {
		_ = in.Reply(header, payload) // a lost caller needs no answer
		return
	}
	a.replies.Go(func() { _ = in.Reply(header, payload) })
}

// writeLines gives the program its requests, until the input is closed or the program does not take
// them, which is the error.
func (a *adapter) writeLines() error {
	defer close(a.wrote)
	var spare []byte
	for range a.kick {
		a.mu.Lock()
		lines := a.queue
		a.queue = spare[:0]
		closed := a.closed
		a.mu.Unlock()
		if closed {
			return nil
		}
		n, err := a.stdin.Write(lines)
		a.mu.Lock()
		a.written += int64(n)
		closed = a.closed
		a.closed = a.closed || err != nil
		a.mu.Unlock()
		if closed {
			return nil // the error is that of closeInput's deadline
		}
		if err != nil {
			return err
		}
		spare = nil
		if cap(lines) <= 64<<10 {
			spare = lines
		}
	}
	return nil
}

// closeInput gives the program no more requests, and returns when none is being written.
func (a *adapter) closeInput() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	_ = a.stdin.SetWriteDeadline(time.Unix(1, 0)) // a write that waits for the program to read ends
	a.wake()
	<-a.wrote
}

// stop ends what the process's end has not: a descendant that got away may hold the pipes.
func (a *adapter) stop() {
	a.far.Close()
	a.stdout.Close()
}

// readLines takes the program's answers until it closes its output.
func (a *adapter) readLines() {
	lines := lineSplitter{max: maxJSONLine}
	buf := make([]byte, 64<<10)
	for {
		n, err := a.stdout.Read(buf)
		lines.feed(buf[:n], a.line)
		if err != nil {
			break
		}
	}
	lines.finish(a.line)
	a.stdout.Close()
	a.end()
}

// line takes one line of the program.
func (a *adapter) line(line []byte, cut int) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	var ans answer
	var err error
	if cut > 0 {
		ans.ID = findID(line)
		err = cellproto.Errorf("read answer", cellproto.TooLarge, "a line of %d bytes, the limit is %d", len(line)+cut, maxJSONLine)
	} else {
		ans, err = parseAnswer(line)
	}
	if ans.Call != "" {
		a.callNucleus(ans)
		return
	}
	call := a.take(ans.ID)
	switch {
	case err != nil:
		a.badLine(line, err)
		if call != nil {
			_ = call.in.ReplyError(cellproto.Errorf("call "+call.fn, cellproto.Failed, "the program's answer is malformed: %w", err).WithHint(hintAnswer))
		}
		return
	case call == nil:
		a.badLine(line, cellproto.Errorf("read answer", cellproto.NotFound, "no request has the id %d, or it was answered before", ans.ID))
		return
	}
	a.useful.Store(true)
	if ans.Fails {
		_ = call.in.ReplyError(&cellproto.Error{Kind: cellproto.FuncError, Err: errors.New(ans.Error)})
		return
	}
	if err := a.check(call.fn, ans.Reply); err != nil {
		a.badLine(line, err)
		_ = call.in.ReplyError(err)
		return
	}
	a.reply(call.in, ans.Reply)
}

// check says whether an answer is what the schema promises: such a program has nothing else that would.
func (a *adapter) check(fn string, reply []byte) error {
	fit := a.fits[fn]
	if fit == nil {
		return nil
	}
	if err := fit().Check(cellproto.JSON, reply); err != nil {
		return cellproto.Errorf("call "+fn, cellproto.BadReply, "the program's answer is not what its schema promises: %w", err).
			WithHint("Mend the program, or its schema.json.")
	}
	return nil
}

// badLine counts a line that answers nothing, and shows its owner.
func (a *adapter) badLine(line []byte, err error) {
	a.bad.Add(1)
	a.out.note(fmt.Sprintf("celld: %v: %s", err, line[:min(len(line), maxQuoted)]))
}

// end fails the calls that will not be answered any more, each with what is known of it, and ends the
// connection. It is called when the program has closed its output or its input.
func (a *adapter) end() {
	_ = a.far.Goaway("the program is ending") // so that new calls wait for the next one
	how, over := a.ending()
	a.closeInput()
	a.mu.Lock()
	calls := a.pending
	a.pending = map[uint64]*lineCall{}
	read := a.written
	if n, ok := unread(a.stdin); ok && over { // else it may read on
		read -= n
	}
	a.mu.Unlock()
	for _, call := range calls {
		call.stop()
		err := cellproto.Errorf("call "+call.fn, cellproto.MayHaveRun, "the program ended before it answered (%s)", how)
		if call.begin >= read {
			err = cellproto.Errorf("call "+call.fn, cellproto.Unavailable, "the program ended before it read the request (%s)", how)
		}
		_ = call.in.ReplyError(err.WithHint("See what it printed: cellctl logs."))
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = a.far.Drain(ctx, "the program has ended") // it is closed in any case
}
