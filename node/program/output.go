package program

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"
)

const (
	outputRate = 64 << 10 // bytes a second of a program's output that are kept (SECURITY, "Limits")
	maxLogLine = 4 << 10  // bytes of a line before escaping; the rest is cut
	maxTail    = 200      // bytes of a line that an error quotes
)

// output takes what the program prints and passes it on line by line: with the time, control bytes
// escaped, and not more than outputRate. A program is never held up by it.
type output struct {
	w   io.Writer
	log *zap.Logger
	now func() time.Time
	cut atomic.Uint64 // bytes

	mu      sync.Mutex
	budget  budget
	buf     []byte
	last    string // the last line that is not blank
	telling string // the first line since forget that says why a program died
	broken  bool   // the last write to w failed
}

func newOutput(w io.Writer, log *zap.Logger) *output {
	return &output{w: w, log: log, now: time.Now}
}

// pump takes lines from a process's output until it ends or is closed, or the pump is stopped.
type pump struct {
	out     *output
	r       *os.File
	lines   lineSplitter
	stopped atomic.Bool
	over    chan struct{} // closed when run has returned
}

// newPump makes a pump that goes on with a line that has begun, of which cut bytes were dropped.
func newPump(out *output, r *os.File, line []byte, cut int) *pump {
	return &pump{out: out, r: r, lines: lineSplitter{max: maxLogLine, line: line, cut: cut}, over: make(chan struct{})}
}

func (p *pump) run() {
	defer close(p.over)
	buf := make([]byte, 32<<10)
	for {
		var deadline time.Time
		if p.out.owes() {
			deadline = p.out.now().Add(time.Second)
		}
		_ = p.r.SetReadDeadline(deadline) // without deadlines the note of what was cut comes later
		if p.stopped.Load() {
			return
		}
		n, err := p.r.Read(buf)
		p.lines.feed(buf[:n], p.out.line)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.out.settle()
		} else if err != nil {
			p.lines.finish(p.out.line)
			return
		}
	}
}

// stop ends run, and gives the line that has begun and how much of it was dropped.
func (p *pump) stop() (line []byte, cut int) {
	p.stopped.Store(true)
	_ = p.r.SetReadDeadline(time.Unix(1, 0)) // a closed pipe has ended run
	<-p.over
	return p.lines.line, p.lines.cut
}

// line takes one line of the program's, of which cut bytes are missing at the end.
func (o *output) line(line []byte, cut int) { o.add(line, cut, true) }

// note adds a line of the nucleus's own. It is not what the program said before it ended.
func (o *output) note(text string) { o.add([]byte(text), 0, false) }

func (o *output) add(line []byte, cut int, programs bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line = bytes.TrimSuffix(line, []byte("\r"))
	o.buf = appendEscaped(o.buf[:0], line)
	if text := bytes.TrimSpace(o.buf); programs && len(text) > 0 {
		o.last = string(text[:min(len(text), maxTail)])
		if o.telling == "" && (bytes.HasPrefix(text, []byte("panic: ")) || bytes.HasPrefix(text, []byte("fatal error: "))) {
			o.telling = o.last // what follows in a Go program's trace says less
		}
	}
	if cut > 0 {
		o.cut.Add(uint64(cut))
		o.buf = append(o.buf, " ["...)
		o.buf = append(strconv.AppendInt(o.buf, int64(cut), 10), " bytes cut]"...)
	}
	now := o.now()
	ok, owed := o.budget.take(now, len(o.buf)+len(stamp)+1)
	o.report(now, owed)
	if ok {
		o.write(now, o.buf)
	} else {
		o.cut.Add(uint64(len(o.buf)))
	}
}

// owes reports that bytes were cut that the output does not say yet.
func (o *output) owes() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.budget.cut > 0
}

// settle says how much was cut, once the second is over.
func (o *output) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	_, owed := o.budget.take(now, 0)
	o.report(now, owed)
}

// report writes how much was cut. o.mu is held.
func (o *output) report(now time.Time, owed int64) {
	if owed > 0 {
		text := strconv.AppendInt(nil, owed, 10)
		o.write(now, append(text, " bytes cut: the program prints more than 64 KiB a second"...))
	}
}

const stamp = "2006-01-02T15:04:05.000Z "

// write passes one line on. o.mu is held.
func (o *output) write(now time.Time, text []byte) {
	line := make([]byte, 0, len(stamp)+len(text)+1)
	line = now.UTC().AppendFormat(line, stamp)
	line = append(append(line, text...), '\n')
	_, err := o.w.Write(line)
	if err != nil && !o.broken {
		o.log.Warn("cannot write the cell's log", zap.Error(err))
	}
	o.broken = err != nil
}

// forget begins a new process: what an earlier one printed is not why it ends.
func (o *output) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.telling = "", ""
}

// tail gives the line that best says why the program ended, or "".
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.telling != "" {
		return o.telling
	}
	return o.last
}

// budget bounds bytes a second. It has no clock of its own.
type budget struct {
	second int64 // unix
	spent  int
	cut    int64 // bytes refused and not yet reported
}

// take asks for n bytes now. owed is what was refused before this second, to be reported once.
func (b *budget) take(now time.Time, n int) (ok bool, owed int64) {
	if s := now.Unix(); s != b.second {
		b.second, b.spent = s, 0
		owed, b.cut = b.cut, 0
	}
	if b.spent+n > outputRate {
		b.cut += int64(n)
		return false, owed
	}
	b.spent += n
	return true, owed
}

// lineSplitter cuts a stream into lines. What it passes on holds until the next call.
type lineSplitter struct {
	max  int // bytes of a line; what is longer is dropped and counted
	line []byte
	cut  int
}

// feed calls emit for each line that data completes, without its newline.
func (s *lineSplitter) feed(data []byte, emit func(line []byte, cut int)) {
	for {
		end := bytes.IndexByte(data, '\n')
		piece := data
		if end >= 0 {
			piece = data[:end]
		}
		room := min(len(piece), s.max-len(s.line))
		s.line = append(s.line, piece[:room]...)
		s.cut += len(piece) - room
		if end < 0 {
			return
		}
		emit(s.line, s.cut)
		s.reset()
		data = data[end+1:]
	}
}

// finish calls emit for what is left at the end of the stream.
func (s *lineSplitter) finish(emit func(line []byte, cut int)) {
	if len(s.line) > 0 {
		emit(s.line, s.cut)
	}
	s.reset()
}

func (s *lineSplitter) reset() {
	s.line, s.cut = s.line[:0], 0
	if cap(s.line) > 64<<10 {
		s.line = nil // a long line has passed
	}
}

// appendEscaped appends text with control bytes, bytes that are not UTF-8, and marks that reorder
// what a terminal shows written as \x1b or \u202e. Tabs stay.
func appendEscaped(dst, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\t':
			dst = append(dst, '\t')
		case r == utf8.RuneError && n == 1 || r < utf8.RuneSelf && unicode.IsControl(r):
			dst = append(dst, '\\', 'x', hexDigits[text[0]>>4], hexDigits[text[0]&15])
		case unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029:
			dst = append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default:
			dst = append(dst, text[:n]...)
		}
		text = text[n:]
	}
	return dst
}

const hexDigits = "0123456789abcdef"
