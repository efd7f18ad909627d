package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/renameio/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// maxShown bounds a JSON reply that is held in memory to be checked before it is shown. Raw ones
// stream and have no bound.
const maxShown = 16 << 20

// replyJSON is what --json prints; its fields are a promise.
type replyJSON struct {
	Reply    json.RawMessage `json:"reply"`
	Provider string          `json:"provider"`
	Source   string          `json:"source"`
	TookUS   int64           `json:"took_us"`
	Raced    bool            `json:"raced"`
	Cached   bool            `json:"cached"`
	Encoding string          `json:"encoding,omitempty"` // "base64" of a raw reply
	Output   string          `json:"output,omitempty"`   // the file that has the reply instead
	Quorum   *ctl.Quorum     `json:"quorum,omitempty"`   // with --quorum
}

// showReply prints a reply, or writes it to the file out.
func (a *app) showReply(r *reply, out *output) error {
	j := replyJSON{Provider: r.Provider, Source: r.Source, TookUS: r.TookUS, Raced: r.Raced, Cached: r.Cached, Quorum: r.Quorum}
	if r.Quorum != nil && !a.json {
		a.showQuorum(r.Quorum)
	}
	switch {
	case out != nil:
		if err := out.save(r.body); err != nil || !a.json {
			return err
		}
		j.Output = out.path
	case a.json:
		var err error
		if j.Reply, j.Encoding, err = embedded(r); err != nil {
			return err
		}
	case r.Codec == ctl.CodecRaw:
		return a.copyRaw(r.body)
	default:
		text, err := replyText(r)
		if err != nil {
			return err
		}
		if a.isTerminal(a.out) {
			text = escapeJSON(text)
		}
		return a.print(append(text, '\n'))
	}
	return a.printJSON(j)
}

// showQuorum says what a person should know of how a reply came about, on stderr.
func (a *app) showQuorum(q *ctl.Quorum) {
	for _, liar := range q.Liars {
		fmt.Fprintf(a.errOut, "cellctl: %s gave another reply than the %d that agree; it is not asked for a while\n", safe(liar), q.Agreed)
	}
	if q.Note != "" {
		fmt.Fprintf(a.errOut, "cellctl: %s\n", safe(q.Note))
	}
}

// replyText gives a structured reply as JSON.
func replyText(r *reply) ([]byte, error) {
	data, err := readShown(r.body)
	if err != nil {
		return nil, err
	}
	if r.Codec == ctl.CodecCBOR {
		return cborToJSON(data)
	}
	data = bytes.TrimSpace(data)
	if !json.Valid(data) {
		return nil, cellproto.Errorf("read the reply", cellproto.Corrupt, "it says that it is JSON, and is not").
			WithHint("--output FILE, to see what it is")
	}
	return data, nil
}

func readShown(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxShown+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxShown {
		return nil, cellproto.Errorf("read the reply", cellproto.TooLarge, "more than %d MiB", maxShown>>20).
			WithHint("--output FILE")
	}
	return data, nil
}

func cborToJSON(data []byte) ([]byte, error) {
	mode, err := cbor.DecOptions{DefaultMapType: reflect.TypeFor[map[string]any]()}.DecMode()
	if err != nil {
		return nil, cellproto.Errorf("read the reply", cellproto.Failed, "%w", err)
	}
	var v any
	if err := mode.Unmarshal(data, &v); err != nil {
		return nil, cellproto.Errorf("read the reply", cellproto.Corrupt, "%w", err).WithHint("--output FILE, to see what it is")
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, cellproto.Errorf("read the reply", cellproto.Unsupported, "it does not fit into JSON: %w", err).WithHint("--output FILE")
	}
	return text, nil
}

// embedded gives a reply as a JSON value.
func embedded(r *reply) (value json.RawMessage, encoding string, err error) {
	if r.Codec != ctl.CodecRaw {
		value, err = replyText(r)
		return value, "", err
	}
	data, err := readShown(r.body)
	if err != nil {
		return nil, "", err
	}
	text, err := json.Marshal(base64.StdEncoding.EncodeToString(data))
	if err != nil {
		return nil, "", cellproto.Errorf("print", cellproto.Failed, "%w", err)
	}
	return text, "base64", nil
}

// copyRaw copies bytes to stdout as they are; to a terminal only text, made safe for it.
func (a *app) copyRaw(r io.Reader) error {
	if a.isTerminal(a.out) {
		return copyText(a.out, r)
	}
	_, err := io.Copy(a.out, r)
	return err
}

// output is the file that a reply goes to. It appears when all of the reply has come. What is there
// already and is no regular file, such as /dev/null or a pipe, is written to as it is.
type output struct {
	path    string
	direct  *os.File
	pending *renameio.PendingFile
}

// openOutput makes ready to write to path; "" gives nil.
func openOutput(path string) (*output, error) {
	if path == "" {
		return nil, nil
	}
	failed := func(err error) error {
		var where *fs.PathError
		if errors.As(err, &where) {
			err = where.Err // its path is that of a temporary file
		}
		return cellproto.Errorf("write "+path, cellproto.Failed, "%w", err).WithHint("--output FILE, in a directory that you can write to")
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, failed(err)
		}
		return &output{path: path, direct: f}, nil
	}
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644), renameio.WithExistingPermissions())
	if err != nil {
		return nil, failed(err)
	}
	return &output{path: path, pending: f}, nil
}

// save writes all of a reply to the file.
func (o *output) save(body io.Reader) error {
	if o.direct != nil {
		return copyTo(o.direct, body, o.path)
	}
	if err := copyTo(o.pending, body, o.path); err != nil {
		return err
	}
	if err := o.pending.CloseAtomicallyReplace(); err != nil {
		return cellproto.Errorf("write "+o.path, cellproto.Failed, "%w", err)
	}
	return nil
}

// drop removes what was not saved.
func (o *output) drop() {
	switch {
	case o == nil:
	case o.direct != nil:
		o.direct.Close()
	default:
		_ = o.pending.Cleanup() // after save there is nothing to do
	}
}

// copyTo tells the errors of the reply, which have a kind of their own, from those of the file.
func copyTo(w io.Writer, r io.Reader, path string) error {
	fr := &failedReader{r: r}
	if _, err := io.Copy(w, fr); err != nil {
		if fr.err != nil {
			return fr.err
		}
		return cellproto.Errorf("write "+path, cellproto.Failed, "%w", err)
	}
	return nil
}

type failedReader struct {
	r   io.Reader
	err error
}

func (f *failedReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}
