package ctl

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// What the body of a use request is.
const (
	BodyArgs   = "args"   // the arguments, a JSON object; an empty body is {}
	BodyStream = "stream" // the function's input, as it comes; the arguments are in the query
	BodyAuto   = "auto"   // as BodyStream if the function takes a body, else as BodyArgs
)

// UseRequest is one call. The arguments are in Argv or Args, or in the request's body; if they are
// in two places the request is bad input.
//
// The nucleus answers before the body has ended, so a server on net/http has to enable full duplex.
type UseRequest struct {
	Target    string          // CID, IPNS name, domain, name under [deps] or [remote_cells], or absolute directory; "" is the nucleus's own cell
	Func      string          // name of the function
	Timeout   time.Duration   // of the whole call, from the arrival of the request; > 0
	CallerDir string          // absolute directory of the cell on whose behalf; "" is the nucleus's own
	Argv      []string        // words from a command line: positional in the schema's order, or name=value
	Args      json.RawMessage // or a JSON object
	Body      string          // what the request's body is; "" is BodyArgs
	File      *File           // that the request's body is the content of; nil: of none, or that is not known
	Key       string          // idempotency key, at most 64 bytes; "" lets the nucleus choose one
	Quorum    string          // "2of3": three providers are asked and two must agree; "" asks one
}

// File is a regular file that a body is read from. A nucleus that finds the same one reads it itself, as often as it needs,
// and any other the body.
type File struct {
	Path    string // absolute
	Size    int64  // bytes
	Changed int64  // ns since 1970
}

// FileOf describes an open file; nil if it is none that can be read twice.
func FileOf(f *os.File) *File {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	path, err := filepath.Abs(f.Name())
	if err != nil {
		return nil
	}
	return &File{Path: path, Size: info.Size(), Changed: info.ModTime().UnixNano()}
}

// Open opens the file; nil if it is not there, or is another one.
func (f *File) Open() *os.File {
	if info, err := os.Stat(f.Path); err != nil || !info.Mode().IsRegular() { // to open a FIFO would wait
		return nil
	}
	opened, err := os.Open(f.Path)
	if err != nil {
		return nil
	}
	if now := FileOf(opened); now == nil || *now != *f {
		opened.Close()
		return nil
	}
	return opened
}

// Query gives r as the query of its URL.
func (r *UseRequest) Query() (url.Values, error) {
	q := url.Values{
		"target": {r.Target}, "fn": {r.Func},
		"timeout_ms": {strconv.FormatInt(max(r.Timeout.Milliseconds(), 1), 10)},
	}
	if r.CallerDir != "" {
		q.Set("caller_dir", r.CallerDir)
	}
	if r.Body != "" && r.Body != BodyArgs {
		q.Set("body", r.Body)
	}
	if r.Key != "" {
		q.Set("key", r.Key)
	}
	if r.Quorum != "" {
		q.Set("quorum", r.Quorum)
	}
	if r.File != nil {
		b, err := json.Marshal(r.File)
		if err != nil {
			return nil, fmt.Errorf("cannot write the file's name: %w", err)
		}
		q.Set("file", string(b))
	}
	if r.Argv != nil {
		b, err := json.Marshal(r.Argv)
		if err != nil {
			return nil, fmt.Errorf("cannot write the arguments: %w", err)
		}
		q.Set("argv", string(b))
	}
	if r.Args != nil {
		q.Set("args", string(r.Args))
	}
	return q, nil
}

// ParseUse is the inverse of Query. Its errors say which parameter is wrong. defaultTimeout holds
// where the query gives none.
func ParseUse(q url.Values, defaultTimeout time.Duration) (UseRequest, error) {
	r := UseRequest{
		Target: q.Get("target"), Func: q.Get("fn"), CallerDir: q.Get("caller_dir"), Body: q.Get("body"),
		Key: q.Get("key"), Quorum: q.Get("quorum"),
	}
	var err error
	if r.Timeout, err = ParseTimeout(q, defaultTimeout); err != nil {
		return r, err
	}
	switch r.Body {
	case "":
		r.Body = BodyArgs
	case BodyArgs, BodyStream, BodyAuto:
	default:
		return r, fmt.Errorf("body is %q, allowed are %s, %s and %s", r.Body, BodyArgs, BodyStream, BodyAuto)
	}
	if r.Func == "" {
		return r, fmt.Errorf("fn is missing: the name of the function")
	}
	if q.Has("argv") && q.Has("args") {
		return r, fmt.Errorf("both argv and args are given")
	}
	if s := q.Get("argv"); s != "" {
		if err := json.Unmarshal([]byte(s), &r.Argv); err != nil {
			return r, fmt.Errorf("argv is not a JSON list of strings: %w", err)
		}
	}
	if s := q.Get("file"); s != "" {
		if err := json.Unmarshal([]byte(s), &r.File); err != nil {
			return r, fmt.Errorf("file is not what a file is: %w", err)
		}
		if r.File != nil && !filepath.IsAbs(r.File.Path) {
			return r, fmt.Errorf("file has the path %.80q, which is not absolute", r.File.Path)
		}
	}
	if s := q.Get("args"); s != "" {
		r.Args = json.RawMessage(s)
	}
	return r, nil
}

// ParseTimeout reads timeout_ms: 1 ms to 24 h.
func ParseTimeout(q url.Values, otherwise time.Duration) (time.Duration, error) {
	s := q.Get("timeout_ms")
	if s == "" {
		return otherwise, nil
	}
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms < 1 || ms > (24*time.Hour).Milliseconds() {
		return 0, fmt.Errorf("timeout_ms is %q, allowed are 1 to %d", s, (24 * time.Hour).Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// ParseEvery reads every_ms: 100 ms to 1 h; 10 s where there is none.
func ParseEvery(q url.Values) (time.Duration, error) {
	s := q.Get("every_ms")
	if s == "" {
		return 10 * time.Second, nil
	}
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms < 100 || ms > time.Hour.Milliseconds() {
		return 0, fmt.Errorf("every_ms is %q, allowed are 100 to %d", s, time.Hour.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// How the reply of a use is encoded.
const (
	CodecJSON = "json"
	CodecCBOR = "cbor"
	CodecRaw  = "raw"
)

// UseMeta describes a reply. After its line comes the reply in the codec, until the answer ends.
type UseMeta struct {
	Codec    string `json:"codec"`
	Provider string `json:"provider"` // peer ID
	Source   string `json:"source"`   // local, dht, mdns, static or mirror
	TookUS   int64  `json:"took_us"`  // from the request's arrival to the first byte of the reply
	Raced    bool   `json:"raced"`    // a race was held for this call
	Cached   bool   `json:"cached"`   // the winner of an earlier race was called

	Quorum *Quorum `json:"quorum,omitempty"` // of a call that asked for one
}

// Quorum says how a reply came about that several providers were asked for.
type Quorum struct {
	Want   string   `json:"want"`             // "2of3"
	Asked  int      `json:"asked"`            // who have answered
	Agreed int      `json:"agreed"`           // of these, with the reply that counts
	Liars  []string `json:"liars"`            // peers that gave another one, and are not asked for a while
	Silent []string `json:"silent,omitempty"` // peers that were asked and gave none in time
	Note   string   `json:"note,omitempty"`   // what weakens it
}
