package ctl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
)

// ErrProtocol says that the other side does not speak this API, or that it stopped in the middle.
var ErrProtocol = errors.New("broken answer")

// ErrLost says that the connection ended before the answer did: what was asked for may have been
// done.
var ErrLost = errors.New("the connection was lost before the answer was complete")

// Writer writes the lines of an answer; any goroutine may use it.
type Writer struct {
	mu    sync.Mutex
	w     io.Writer
	flush func()
	ended bool
}

// NewWriter writes to w and calls flush, which may be nil, after each line.
func NewWriter(w io.Writer, flush func()) *Writer {
	if flush == nil {
		flush = func() {}
	}
	return &Writer{w: w, flush: flush}
}

// Progress says what is being done; text of at most 4 KiB, the rest is cut. After the last line it
// does nothing.
func (w *Writer) Progress(text string) error {
	if text = printable(text); text == "" {
		return nil
	}
	return w.line(Line{Progress: text}, false)
}

// Item writes one row.
func (w *Writer) Item(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write a row: %w", err)
	}
	return w.line(Line{Item: b}, false)
}

// Result writes the last line of what was done. v may be nil.
func (w *Writer) Result(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return w.line(Line{Result: b}, true)
}

// Fail writes the last line of what failed.
func (w *Writer) Fail(e *RemoteError) error { return w.line(Line{Error: e}, true) }

func (w *Writer) line(l Line, last bool) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("cannot write a line: %w", err)
	}
	if len(b) > MaxLine {
		return fmt.Errorf("cannot write a line of %d bytes: the limit is %d", len(b), MaxLine)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil
	}
	w.ended = last
	if _, err := w.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("cannot answer: %w", err)
	}
	w.flush()
	return nil
}

const maxProgress = 4 << 10

// printable makes text fit to be shown on a terminal: one line, no control characters, none that
// turn the direction of writing.
func printable(text string) string {
	if len(text) > maxProgress {
		text = text[:maxProgress]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}

// Reader reads the lines of an answer.
type Reader struct {
	r *bufio.Reader
}

// NewReader reads from r; it reads ahead.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 16<<10)} }

// Next gives the next line. A line past MaxLine, one that is not JSON or has not exactly one field
// is ErrProtocol; an end before the last line is ErrLost.
func (r *Reader) Next() (Line, error) {
	b, err := readLine(r.r, MaxLine)
	if err != nil {
		return Line{}, err
	}
	return parseLine(b)
}

// Rest gives what follows the lines that were read.
func (r *Reader) Rest() io.Reader { return r.r }

func parseLine(b []byte) (Line, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return Line{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if len(fields) != 1 {
		return Line{}, fmt.Errorf("%w: a line with %d fields", ErrProtocol, len(fields))
	}
	var l Line
	for name, value := range fields {
		switch name {
		case "progress":
			if err := json.Unmarshal(value, &l.Progress); err != nil {
				return Line{}, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			l.Progress = printable(l.Progress)
		case "item":
			l.Item = value
		case "result":
			l.Result = value
		case "error":
			if err := json.Unmarshal(value, &l.Error); err != nil {
				return Line{}, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if l.Error == nil || l.Error.Kind == "" {
				return Line{}, fmt.Errorf("%w: an error without a kind", ErrProtocol)
			}
			l.Error.clean()
		default:
			return Line{}, fmt.Errorf("%w: a line with the field %q", ErrProtocol, name)
		}
	}
	return l, nil
}

// clean removes what could drive the terminal on which the error is shown.
func (e *RemoteError) clean() {
	e.Op, e.Kind, e.Message, e.Hint = printable(e.Op), printable(e.Kind), printable(e.Message), printable(e.Hint)
	e.RetryAfterMS = max(e.RetryAfterMS, 0)
}

// readLine reads a line of at most limit bytes and gives it without its line end. Memory grows with
// what arrives, not with what is allowed.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit+1 {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, limit)
		}
		if err == nil && line == nil {
			return bytes.TrimRight(part, "\r\n"), nil
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, ErrLost
		default:
			return nil, err
		}
	}
}

// WriteReady writes the one line that a nucleus sends to whoever started it: that it is ready, or
// why it is not.
func WriteReady(w io.Writer, failure *RemoteError) error {
	line := []byte("ready\n")
	if failure != nil {
		b, err := json.Marshal(failure)
		if err != nil {
			return fmt.Errorf("cannot report that the start failed: %w", err)
		}
		line = append(append([]byte("error "), b...), '\n')
	}
	if _, err := w.Write(line); err != nil {
		return fmt.Errorf("cannot report readiness: %w", err)
	}
	return nil
}

// ReadReady waits for that line. A *RemoteError is what the nucleus reports; ErrLost says that it
// ended without a word.
func ReadReady(r io.Reader) error {
	b, err := readLine(bufio.NewReader(r), maxReady)
	if err != nil {
		return err
	}
	if string(b) == "ready" {
		return nil
	}
	text, ok := bytes.CutPrefix(b, []byte("error "))
	if !ok {
		return fmt.Errorf("%w: %q instead of readiness", ErrProtocol, b)
	}
	e := &RemoteError{Kind: "failed"}
	if err := json.Unmarshal(text, e); err != nil {
		e.Message = string(text)
	}
	e.clean()
	return e
}

const maxReady = 16 << 10
