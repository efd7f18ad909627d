package cell

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// Client calls cells through the nucleus, over the connection that the program serves. Functions
// and Config.Background have one in their context, which Call and Do use.
type Client struct {
	conn          *cellproto.Conn
	calls, bodies chan struct{} // places for calls of a Store
}

// NewClient calls over conn, whose owner runs and closes it.
func NewClient(conn *cellproto.Conn) *Client {
	return &Client{conn: conn, calls: make(chan struct{}, storeCalls), bodies: make(chan struct{}, storeBodies)}
}

type clientKey struct{}

// ClientFrom gives the client of a function's context, or nil.
func ClientFrom(ctx context.Context) *Client {
	c, _ := ctx.Value(clientKey{}).(*Client)
	return c
}

// Request is one call of another cell.
type Request struct {
	To   string // a name of [deps], a CID, an IPNS name or a domain; "" is this cell itself
	Func string
	// Args is a struct or a map, sent as CBOR; []byte is sent as it is, json.RawMessage as JSON. At
	// most cellproto.MaxArgs bytes when encoded. CBOR is sent as it is. Nil: none.
	Args any
	Key  string // idempotency key, at most 64 bytes; "" for none
	// Body is streamed after the arguments; or nil. One that is an io.Seeker, as a file is, is sent again when its callee is lost
	// and the function may run again; a call with one that has no Key gets one.
	Body io.Reader
	// Quorum asks several providers of a pure function: "2of3" asks three in different networks, of whom
	// two must give the same reply. See Reply.Quorum. "" asks one. A body has at most 1 MiB then.
	Quorum string

	meta map[string]string // of the header; it is not written to
}

// Reply is the answer to a Request. Its body must be closed, if it has one; Decode and Bytes do so.
type Reply struct {
	reply  cellproto.Reply
	quorum bool
}

// Quorum says how a reply came about that several providers were asked for: how many have answered, how
// many of them agreed, and the peers that gave another reply, which the nucleus does not ask for a while.
// Without Request.Quorum it is 0, 0, nil.
func (r *Reply) Quorum() (agreed, asked int, liars []cellproto.PeerID) {
	if !r.quorum {
		return 0, 0, nil
	}
	meta := r.reply.Header.Meta
	agreed, _ = strconv.Atoi(meta[cellproto.MetaAgreed])
	asked, _ = strconv.Atoi(meta[cellproto.MetaAsked])
	for _, p := range strings.Fields(meta[cellproto.MetaLiars]) {
		liars = append(liars, cellproto.PeerID(p))
	}
	return agreed, asked, liars
}

// Body gives the whole reply as a stream.
func (r *Reply) Body() io.ReadCloser {
	if r.reply.Body != nil {
		return r.reply.Body
	}
	return io.NopCloser(bytes.NewReader(r.reply.Payload))
}

// Bytes gives the whole reply as it was encoded; past limit bytes the error is TooLarge.
func (r *Reply) Bytes(limit int64) ([]byte, error) { return r.reply.Bytes(limit) }

// Decode decodes a reply of at most 64 MiB. Fields that into does not have are passed over: a newer
// cell may say more. Raw bytes are decoded into a *[]byte only, else the error is Unsupported; what
// does not fit into is BadReply.
func (r *Reply) Decode(into any) error {
	data, err := r.reply.Bytes(maxReply)
	if err != nil {
		return err
	}
	return decodeReply(r.reply.Header.Codec, data, into)
}

// Call calls a function of the cell named to, with the client of ctx, and decodes its reply: into
// Out, or as bytes when Out is []byte, or streamed when Out is io.ReadCloser, which must be closed.
// See Client.Do.
func Call[Out any](ctx context.Context, to, function string, args any) (Out, error) {
	var out Out
	reply, err := Do(ctx, &Request{To: to, Func: function, Args: args})
	if err != nil {
		return out, err
	}
	if reflect.TypeFor[Out]() == reflect.TypeFor[io.ReadCloser]() {
		return reply.Body().(Out), nil
	}
	if err := reply.Decode(&out); err != nil {
		return out, remote(err)
	}
	return out, nil
}

// Do is Client.Do with the client of ctx. Without one the error is Unsupported.
func Do(ctx context.Context, r *Request) (*Reply, error) {
	client := ClientFrom(ctx)
	if client == nil {
		return nil, cellproto.Errorf("call "+r.Func, cellproto.Unsupported, "the context is not that of a function of a cell").
			WithHint("Pass on the context that the function was called with.")
	}
	return client.Do(ctx, r)
}

// Do sends r and waits for the reply. An inline function yields first (see the package comment). The
// deadline and the trace of ctx travel along. Errors have the kind that the nucleus or the callee
// answered with; see cellproto.Conn.Call. Returned from a function that is neither pure nor
// idempotent, an error that says that the callee never ran becomes a FuncError: this one did run.
func (cl *Client) Do(ctx context.Context, r *Request) (*Reply, error) {
	var request cellproto.Request
	if err := r.encode(&request); err != nil {
		return nil, err
	}
	if c := callFrom(ctx); c != nil {
		c.detach()
		request.Header.Trace = []byte(c.given.trace)
	}
	reply := &Reply{quorum: r.Quorum != ""}
	if err := cl.send(ctx, &request, &reply.reply); err != nil {
		return nil, remote(err)
	}
	return reply, nil
}

// bodyTries is how often a call with a body is made, at most.
const bodyTries = 4

// send makes the call, and again if its body is all that kept the nucleus from that, and can be sent anew.
func (cl *Client) send(ctx context.Context, request *cellproto.Request, reply *cellproto.Reply) error {
	body, ok := request.Body.(io.Seeker)
	if !ok {
		return cl.conn.CallInto(ctx, request, reply)
	}
	begin, err := body.Seek(0, io.SeekCurrent)
	if err != nil { // a pipe that is a file, too
		return cl.conn.CallInto(ctx, request, reply)
	}
	if len(request.Header.Key) == 0 {
		request.Header.Key = make([]byte, 16)
		rand.Read(request.Header.Key) // never fails
	}
	for try := 1; ; try++ {
		err := cl.conn.CallInto(ctx, request, reply)
		var e *cellproto.Error
		if err == nil || try == bodyTries || ctx.Err() != nil || !errors.As(err, &e) || !e.Again {
			return err
		}
		if _, serr := body.Seek(begin, io.SeekStart); serr != nil {
			return err
		}
	}
}

// encode fills in the request, and checks the limits of a header, which the peer would end the whole
// connection for.
func (r *Request) encode(out *cellproto.Request) error {
	if err := checkNames(r.Func, r.To, r.Key); err != nil {
		return err
	}
	out.Body, out.Header.Func, out.Header.To, out.Header.Key = r.Body, r.Func, r.To, []byte(r.Key)
	out.Header.Meta = r.meta
	if r.Quorum != "" {
		if _, err := cellproto.ParseQuorum(r.Quorum); err != nil {
			return err
		}
		out.Header.Meta = map[string]string{cellproto.MetaQuorum: r.Quorum}
		maps.Copy(out.Header.Meta, r.meta)
	}
	switch args := r.Args.(type) {
	case nil:
	case []byte:
		out.Payload = args
	case json.RawMessage:
		out.Payload, out.Header.Codec = args, cellproto.JSON
	case CBOR:
		out.Payload, out.Header.Codec = args, cellproto.CBOR
	default:
		var err error
		if out.Payload, err = cborEncoder.Marshal(args); err != nil {
			return cellproto.Errorf("call "+r.Func, cellproto.BadInput, "cannot encode the arguments: %w", err)
		}
		out.Header.Codec = cellproto.CBOR
	}
	return checkArgs(r.Func, out.Payload)
}

func checkNames(function, to, key string) error {
	if function != "" && len(function) <= cellproto.MaxFuncName && len(to) <= maxTarget && len(key) <= maxKey {
		return nil
	}
	op := "call " + function
	for _, limit := range []struct {
		what       string
		size, most int
	}{{"function", len(function), cellproto.MaxFuncName}, {"target", len(to), maxTarget}, {"key", len(key), maxKey}} {
		if limit.size > limit.most {
			return cellproto.Errorf(op, cellproto.BadInput, "%s of %d bytes, the limit is %d", limit.what, limit.size, limit.most)
		}
	}
	return cellproto.Errorf(op, cellproto.BadInput, "no function is named")
}

func checkArgs(function string, args []byte) error {
	if len(args) <= cellproto.MaxArgs {
		return nil
	}
	return cellproto.Errorf("call "+function, cellproto.TooLarge, "arguments of %d bytes, the limit is %d", len(args), cellproto.MaxArgs).
		WithHint("Send what is large as a body.")
}

// Limits of cellproto.Header, in bytes.
const (
	maxTarget = 512
	maxKey    = 64
)

// remoteError marks an error as what became of a call to another cell.
type remoteError struct{ err *cellproto.Error }

func (e *remoteError) Error() string { return e.err.Error() }
func (e *remoteError) Unwrap() error { return e.err }

func remote(err error) error {
	known, ok := err.(*cellproto.Error)
	if !ok {
		known = cellproto.Errorf("", cellproto.KindOf(err), "%w", err)
	}
	return &remoteError{known}
}
