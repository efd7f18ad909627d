package node

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// ctlUse makes one call. The reply's bytes follow the last line.
func (n *nucleus) ctlUse(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/1 over a Unix socket has it
	w.Header().Set("Content-Type", ctl.ContentType)
	w.Header().Set("Trailer", ctl.TrailerError)
	out := ctl.NewWriter(w, func() { _ = rc.Flush() })
	req, err := ctl.ParseUse(r.URL.Query(), cellproto.DefaultTimeout)
	if err != nil {
		n.tell(out, cellproto.Errorf("read request", cellproto.BadInput, "%w", err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), req.Timeout)
	defer cancel()
	if n.depends.deps[req.Target] != nil { // says what it waits for
		if _, err := n.depends.ready(ctx, req.Target, func(text string) { _ = out.Progress(text) }); err != nil {
			n.tell(out, err)
			return
		}
	}
	input := io.Reader(r.Body)
	if req.File != nil {
		if f := req.File.Open(); f != nil { // it can be sent to several providers; what comes of it is not looked at
			defer f.Close()
			input = f
		}
	}
	res, err := n.use(ctx, &req, input)
	if err != nil {
		n.tell(out, err)
		return
	}
	var body io.Reader
	if res.Reply.Body != nil {
		defer res.Reply.Body.Close()
		body = res.Reply.Body
	}
	// The arguments' schema was perhaps asked for first, and the race held for that.
	raced := res.Raced || res.Cached && res.Decided.After(begin)
	meta := ctl.UseMeta{
		Codec: codecName(res.Reply.Header.Codec), Provider: res.Provider, Source: res.Source,
		TookUS: time.Since(begin).Microseconds(), Raced: raced, Cached: !raced && res.Cached, Quorum: quorumOf(res.Quorum),
	}
	if err := out.Result(meta); err != nil {
		return
	}
	if _, err := w.Write(res.Reply.Payload); err != nil || body == nil {
		return
	}
	if _, err := io.Copy(flushWriter{w, rc}, body); err != nil {
		if text, jerr := json.Marshal(RemoteError(err)); jerr == nil {
			w.Header().Set(ctl.TrailerError, string(text))
		}
	}
}

// flushWriter sends on what it is given at once.
type flushWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	k, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return k, err
}

func quorumOf(q *call.Quorum) *ctl.Quorum {
	if q == nil {
		return nil
	}
	return &ctl.Quorum{Want: q.Want.String(), Asked: q.Asked, Agreed: q.Agreed, Liars: q.Liars, Silent: q.Silent, Note: q.Note}
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

// use turns what a person asked for into a request: words become arguments by the schema.
func (n *nucleus) use(ctx context.Context, u *ctl.UseRequest, body io.Reader) (*call.Result, error) {
	req := &cellproto.Request{Header: cellproto.Header{Func: u.Func, Codec: cellproto.JSON, Key: []byte(u.Key)}, Payload: u.Args}
	if u.Quorum != "" {
		req.Header.Meta = map[string]string{cellproto.MetaQuorum: u.Quorum}
	}
	auto := u.Body == ctl.BodyAuto
	if u.Argv != nil || auto {
		schema, err := n.caller.Schema(ctx, u.Target)
		if err != nil {
			return nil, err
		}
		fn, err := schema.Function(u.Func)
		if err != nil {
			return nil, err
		}
		if auto {
			u.Body = ctl.BodyArgs
			if fn.BodyIn {
				u.Body = ctl.BodyStream
			}
		}
		if u.Argv != nil && (u.Body == ctl.BodyStream || len(u.Argv) > 0) {
			if req.Payload, err = schema.Arguments(u.Func, u.Argv); err != nil {
				return nil, err
			}
		}
	}
	if u.Body == ctl.BodyStream {
		req.Body = body
	} else if raw, err := io.ReadAll(io.LimitReader(body, cellproto.MaxArgs+1)); err != nil {
		return nil, cellproto.Errorf("read arguments", cellproto.Failed, "%w", err)
	} else if len(raw) > 0 {
		if req.Payload != nil {
			return nil, cellproto.Errorf("read arguments", cellproto.BadInput, "they are given twice, as words and as the body")
		}
		req.Payload = raw
	}
	if len(req.Payload) == 0 {
		req.Payload = []byte("{}")
	}
	if err := cellproto.CheckJSON(req.Payload); err != nil {
		return nil, err
	}
	return n.caller.Call(ctx, u.Target, req)
}
