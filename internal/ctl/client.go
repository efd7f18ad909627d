package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"
)

// Client asks the nucleus of one cell directory. The zero Progress is silent. Every method makes
// one connection of its own and ends with ctx. Errors: ErrNotRunning, *RemoteError, ErrLost,
// ErrProtocol, or the context's.
type Client struct {
	Dir      string
	Progress func(text string) // what the nucleus says that it is doing; called in order
}

// Status asks how the cell is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return result[Status](ctx, c, "GET", RouteStatus, nil)
}

// Metrics asks what the cell does and costs.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	return result[Metrics](ctx, c, "GET", RouteMetrics, nil)
}

// Publish makes the cell known and gives its CID, if it breaks none of the callers who count.
func (c *Client) Publish(ctx context.Context, g Guard) (Published, error) {
	q := url.Values{}
	g.set(q)
	return result[Published](ctx, c, "POST", RoutePublish, withTimeout(ctx, q))
}

// Fits asks whether a program with this schema could take over.
func (c *Client) Fits(ctx context.Context, schema []byte, g Guard) (Fits, error) {
	var fits Fits
	q := url.Values{}
	g.set(q)
	a, err := c.ask(ctx, "POST", RouteFits, withTimeout(ctx, q), bytes.NewReader(schema))
	if err != nil {
		return fits, err
	}
	defer a.close()
	raw, err := a.result(c.Progress, nil)
	if err != nil {
		return fits, a.cause(ctx, err)
	}
	if err := json.Unmarshal(raw, &fits); err != nil {
		return fits, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return fits, nil
}

// Find calls row for each provider of target as it is found.
func (c *Client) Find(ctx context.Context, target string, row func(FindRow) error) error {
	a, err := c.ask(ctx, "GET", RouteFind, targetQuery(ctx, target), nil)
	if err != nil {
		return err
	}
	defer a.close()
	_, err = a.result(c.Progress, func(item json.RawMessage) error {
		var r FindRow
		if err := json.Unmarshal(item, &r); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return row(r)
	})
	return a.cause(ctx, err)
}

// Race measures the providers of target.
func (c *Client) Race(ctx context.Context, target string) ([]RaceRow, error) {
	return result[[]RaceRow](ctx, c, "POST", RouteRace, targetQuery(ctx, target))
}

// Watch calls each for each race of target as it ends, until ctx does. The nucleus holds one itself when
// there was none for so long.
func (c *Client) Watch(ctx context.Context, target string, every time.Duration, each func(RaceReport) error) error {
	q := targetQuery(ctx, target)
	q.Set("every_ms", strconv.FormatInt(every.Milliseconds(), 10))
	a, err := c.ask(ctx, "GET", RouteRaces, q, nil)
	if err != nil {
		return err
	}
	defer a.close()
	_, err = a.result(c.Progress, func(item json.RawMessage) error {
		var r RaceReport
		if err := json.Unmarshal(item, &r); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return each(r)
	})
	return a.cause(ctx, err)
}

// History gives the versions of target, newest first.
func (c *Client) History(ctx context.Context, target string) ([]HistoryRow, error) {
	return result[[]HistoryRow](ctx, c, "GET", RouteHistory, targetQuery(ctx, target))
}

// Schema gives the schema of target as JSON.
func (c *Client) Schema(ctx context.Context, target string) (json.RawMessage, error) {
	return result[json.RawMessage](ctx, c, "GET", RouteSchema, targetQuery(ctx, target))
}

// Version gives one version of target whole.
func (c *Client) Version(ctx context.Context, target, version string) (VersionDetail, error) {
	q := targetQuery(ctx, target)
	q.Set("version", version)
	return result[VersionDetail](ctx, c, "GET", RouteVersion, q)
}

// Describe gives what target is now, with its schema.
func (c *Client) Describe(ctx context.Context, target string) (Description, error) {
	return result[Description](ctx, c, "GET", RouteDescribe, targetQuery(ctx, target))
}

// Doctor gives what the nucleus finds about itself.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return result[[]Check](ctx, c, "GET", RouteDoctor, nil)
}

// Swap has a new program take over: the file program, absolute, or what is in bin/ if it is "".
func (c *Client) Swap(ctx context.Context, program string, g Guard, publish bool) (Swapped, error) {
	q := url.Values{}
	if program != "" {
		q.Set("program", program)
	}
	g.set(q)
	if publish {
		q.Set("publish", "1")
	}
	return result[Swapped](ctx, c, "POST", RouteSwap, withTimeout(ctx, q))
}

// Upgrade has another celld take the nucleus over: file, absolute, or whatever is at the path of the one
// that runs if it is "". With cut, calls that do not end in time are cut. When it returns without an
// error the other one is about to take over; Status waits for that.
func (c *Client) Upgrade(ctx context.Context, file string, cut bool) (Upgrading, error) {
	q := url.Values{}
	if file != "" {
		q.Set("file", file)
	}
	if cut {
		q.Set("cut", "1")
	}
	return result[Upgrading](ctx, c, "POST", RouteUpgrade, withTimeout(ctx, q))
}

// Run starts the program of the cell.
func (c *Client) Run(ctx context.Context) (Status, error) {
	return result[Status](ctx, c, "POST", RouteRun, withTimeout(ctx, nil))
}

// Mirrors lists the mirrors on this machine.
func (c *Client) Mirrors(ctx context.Context) ([]MirrorRow, error) {
	return result[[]MirrorRow](ctx, c, "GET", RouteMirrors, withTimeout(ctx, nil))
}

// AddMirror makes a mirror of target, unless there is one, and starts it; a public one is announced.
func (c *Client) AddMirror(ctx context.Context, target string, public bool) (MirrorRow, error) {
	q := targetQuery(ctx, target)
	if public {
		q.Set("public", "1")
	}
	return result[MirrorRow](ctx, c, "POST", RouteMirrors, q)
}

// RemoveMirror stops and removes a mirror: its CID, its directory, or its name.
func (c *Client) RemoveMirror(ctx context.Context, target string) (MirrorRow, error) {
	return result[MirrorRow](ctx, c, "DELETE", RouteMirrors, targetQuery(ctx, target))
}

// Collect removes the mirrors that nobody has used for a week, or with dry only names them.
func (c *Client) Collect(ctx context.Context, dry bool) ([]MirrorRow, error) {
	q := url.Values{}
	if dry {
		q.Set("dry", "1")
	}
	return result[[]MirrorRow](ctx, c, "POST", RouteCollect, withTimeout(ctx, q))
}

// Deps lists what is under [deps], and what it stands for.
func (c *Client) Deps(ctx context.Context) ([]DepRow, error) {
	return result[[]DepRow](ctx, c, "GET", RouteDeps, withTimeout(ctx, nil))
}

// UpdateDeps brings dependencies by git up to date: those named, or all.
func (c *Client) UpdateDeps(ctx context.Context, names []string) ([]DepRow, error) {
	return result[[]DepRow](ctx, c, "POST", RouteDeps, withTimeout(ctx, url.Values{"name": names}))
}

// Stop tells the nucleus to stop. It has not yet stopped when Stop returns.
func (c *Client) Stop(ctx context.Context) error {
	_, err := result[json.RawMessage](ctx, c, "POST", RouteStop, nil)
	return err
}

// UseReply is the reply to a call: UseMeta says what Read gives. Read ends with io.EOF only if
// everything came. The owner calls Close.
type UseReply struct {
	UseMeta
	a   *answer
	ctx context.Context
}

// Read reads the reply in its codec.
func (r *UseReply) Read(p []byte) (int, error) {
	n, err := r.a.lines.Rest().Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.a.cause(r.ctx, err)
	}
	return n, err
}

// Close ends the call, if it still goes on.
func (r *UseReply) Close() error {
	r.a.close()
	return nil
}

// Use makes one call. body is nil, or is what req.Body says; it is read until it ends, until the
// reply is closed or until ctx ends, on a goroutine that outlives these by the body's current Read.
func (c *Client) Use(ctx context.Context, req UseRequest, body io.Reader) (*UseReply, error) {
	q, err := req.Query()
	if err != nil {
		return nil, err
	}
	a, err := c.ask(ctx, "POST", RouteUse, q, body)
	if err != nil {
		return nil, err
	}
	raw, err := a.result(c.Progress, nil)
	r := &UseReply{a: a, ctx: ctx}
	if err == nil {
		if jerr := json.Unmarshal(raw, &r.UseMeta); jerr != nil {
			err = fmt.Errorf("%w: result of use", ErrProtocol)
		}
	}
	if err != nil {
		err = a.cause(ctx, err)
		a.close()
		return nil, err
	}
	return r, nil
}

func targetQuery(ctx context.Context, target string) url.Values {
	return withTimeout(ctx, url.Values{"target": {target}})
}

// withTimeout tells the nucleus how long ctx has left, less what it takes to say so: it should be
// the nucleus that gives up first, since it knows how far it got.
func withTimeout(ctx context.Context, q url.Values) url.Values {
	deadline, ok := ctx.Deadline()
	if !ok {
		return q
	}
	if q == nil {
		q = url.Values{}
	}
	q.Set("timeout_ms", strconv.FormatInt(max(Budget(time.Until(deadline)).Milliseconds(), 1), 10))
	return q
}

// Budget is how much of left a nucleus gets, so that its own word on a timeout still arrives in time,
// also from a busy machine: it alone knows how far it got.
func Budget(left time.Duration) time.Duration {
	return left - min(left/10, 200*time.Millisecond)
}

// result makes a request without a body and decodes its result.
func result[T any](ctx context.Context, c *Client, method, route string, q url.Values) (T, error) {
	var v T
	a, err := c.ask(ctx, method, route, q, nil)
	if err != nil {
		return v, err
	}
	defer a.close()
	raw, err := a.result(c.Progress, nil)
	if err != nil {
		return v, a.cause(ctx, err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return v, nil
}

// answer is a connection whose answer is being read.
type answer struct {
	conn    net.Conn
	lines   *Reader
	release func() bool
	sent    chan error // what became of the request's body; holds one
}

// ask sends a request and reads the head of the answer.
func (c *Client) ask(ctx context.Context, method, route string, q url.Values, body io.Reader) (*answer, error) {
	conn, err := Dial(ctx, c.Dir, ControlSocket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	a := &answer{conn: conn, sent: make(chan error, 1)}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // cannot fail on an open socket
	}
	a.release = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if err := a.exchange(method, route, q, body); err != nil {
		err = a.cause(ctx, err)
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *answer) exchange(method, route string, q url.Values, body io.Reader) error {
	w := bufio.NewWriterSize(a.conn, 4<<10)
	target := route
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	if err := request(w, method, target, body != nil); err != nil {
		return err
	}
	if body != nil {
		go func() {
			err := writeChunks(w, body)
			a.sent <- err
			if err != nil && !isNetError(err) {
				a.conn.Close() // our own input broke: the server must not wait for the rest
			}
		}()
	}
	resp, err := readResponse(bufio.NewReader(a.conn))
	if err != nil {
		return err
	}
	a.lines = NewReader(resp.body)
	switch {
	case resp.kind == ContentType:
	case resp.status == 401 || resp.status == 403:
		return &RemoteError{Op: method + " " + route, Kind: "denied", Message: "the nucleus answers its owner only",
			Hint: "Become the user who started it."}
	default:
		return fmt.Errorf("%w: the nucleus does not answer %s %s (HTTP %d)", ErrProtocol, method, route, resp.status)
	}
	return nil
}

// result reads lines up to the last one.
func (a *answer) result(progress func(string), item func(json.RawMessage) error) (json.RawMessage, error) {
	for {
		l, err := a.lines.Next()
		switch {
		case err != nil:
			return nil, err
		case l.Error != nil:
			return nil, l.Error
		case l.Result != nil:
			return l.Result, nil
		case l.Item != nil && item != nil:
			if err := item(l.Item); err != nil {
				return nil, err
			}
		case l.Progress != "" && progress != nil:
			progress(l.Progress)
		}
	}
}

// cause gives the error behind err: the context's if it has ended, the request body's if that
// broke, ErrLost for a connection that did.
func (a *answer) cause(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case sent := <-a.sent:
		a.sent <- sent
		if sent != nil && !isNetError(sent) {
			return fmt.Errorf("cannot read the input: %w", sent)
		}
	default:
	}
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout():
		return context.DeadlineExceeded // the connection's clock was a little ahead of the context's
	case isNetError(err):
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}

func isNetError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

func (a *answer) close() {
	a.release()
	a.conn.Close()
}
