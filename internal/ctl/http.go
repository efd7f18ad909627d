package ctl

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// request writes the head of a request; a body follows if there is one.
func request(w *bufio.Writer, method, target string, body bool) error {
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: cell\r\nConnection: close\r\n", method, target)
	switch {
	case body:
		w.WriteString("Transfer-Encoding: chunked\r\n")
	case method == "POST":
		w.WriteString("Content-Length: 0\r\n")
	}
	w.WriteString("\r\n")
	return w.Flush()
}

// writeChunks copies body to w in the chunked transfer coding. A body that fails is left without
// its last chunk, so that the server does not take it for complete.
func writeChunks(w *bufio.Writer, body io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, rerr := body.Read(buf)
		if n > 0 {
			fmt.Fprintf(w, "%x\r\n", n)
			w.Write(buf[:n])
			w.WriteString("\r\n")
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	w.WriteString("0\r\n\r\n")
	return w.Flush()
}

// response is the head of an answer and its body.
type response struct {
	status int
	kind   string // media type of the body
	body   io.Reader
}

// readResponse reads the head of an HTTP/1 answer. Interim answers are skipped.
func readResponse(r *bufio.Reader) (*response, error) {
	for {
		left := MaxHeader
		line, err := headLine(r, &left)
		if err != nil {
			return nil, err
		}
		status, err := parseStatus(line)
		if err != nil {
			return nil, err
		}
		header, err := readHeader(r, &left)
		if err != nil {
			return nil, err
		}
		if status >= 100 && status < 200 {
			continue
		}
		body, err := bodyOf(r, header)
		if err != nil {
			return nil, err
		}
		kind, _, _ := strings.Cut(header["content-type"], ";")
		return &response{status: status, kind: kind, body: body}, nil
	}
}

// headLine reads a line of a head that has left bytes left.
func headLine(r *bufio.Reader, left *int) (string, error) {
	b, err := readLine(r, *left)
	if err != nil {
		return "", err
	}
	*left = max(*left-len(b)-2, 0)
	return string(b), nil
}

func parseStatus(line string) (int, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !strings.HasPrefix(version, "HTTP/1.") || err != nil || len(code) != 3 || status < 100 {
		return 0, fmt.Errorf("%w: not HTTP", ErrProtocol)
	}
	return status, nil
}

// readHeader reads header fields up to the empty line; names in lower case, the last value holds.
func readHeader(r *bufio.Reader, left *int) (map[string]string, error) {
	header := map[string]string{}
	for {
		line, err := headLine(r, left)
		if err != nil {
			return nil, err
		}
		if line == "" {
			return header, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || *left == 0 {
			return nil, fmt.Errorf("%w: header of an answer", ErrProtocol)
		}
		header[strings.ToLower(name)] = strings.TrimSpace(value)
	}
}

func bodyOf(r *bufio.Reader, header map[string]string) (io.Reader, error) {
	switch coding := strings.ToLower(header["transfer-encoding"]); coding {
	case "chunked":
		return &chunkedReader{r: r}, nil
	case "":
	default:
		return nil, fmt.Errorf("%w: transfer encoding %q", ErrProtocol, coding)
	}
	length, given := header["content-length"]
	if !given {
		return r, nil // until the connection ends
	}
	n, err := strconv.ParseUint(length, 10, 62)
	if err != nil {
		return nil, fmt.Errorf("%w: content length %q", ErrProtocol, length)
	}
	return &lengthReader{r: r, left: int64(n)}, nil
}

// lengthReader is a body of known size; to end early is ErrLost.
type lengthReader struct {
	r    *bufio.Reader
	left int64
}

func (l *lengthReader) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = ErrLost
	}
	return n, err
}

// chunkedReader undoes the chunked transfer coding (RFC 9112, 7.1). It ends with io.EOF, with the
// *RemoteError of the trailer, or with ErrLost.
type chunkedReader struct {
	r    *bufio.Reader
	left int64 // of the chunk at hand
	any  bool  // a chunk came before
	err  error
}

func (c *chunkedReader) Read(p []byte) (int, error) {
	if c.err == nil && c.left == 0 {
		c.err = c.nextChunk()
	}
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = ErrLost
	}
	c.err = err
	return n, err
}

const maxChunkLine = 256 // bytes of a chunk's size with its extensions, which are ignored

func (c *chunkedReader) nextChunk() error {
	if c.any {
		if line, err := readLine(c.r, maxChunkLine); err != nil || len(line) > 0 {
			return errors.Join(err, fmt.Errorf("%w: end of a chunk", ErrProtocol))
		}
	}
	line, err := readLine(c.r, maxChunkLine)
	if err != nil {
		return err
	}
	digits, _, _ := strings.Cut(string(line), ";")
	size, err := strconv.ParseUint(strings.TrimSpace(digits), 16, 62)
	if err != nil {
		return fmt.Errorf("%w: size of a chunk", ErrProtocol)
	}
	if size == 0 {
		return c.trailer()
	}
	c.left, c.any = int64(size), true
	return nil
}

func (c *chunkedReader) trailer() error {
	left := MaxHeader
	header, err := readHeader(c.r, &left)
	if err != nil {
		return err
	}
	text, ok := header[strings.ToLower(TrailerError)]
	if !ok {
		return io.EOF
	}
	e := &RemoteError{Kind: "failed"}
	if err := json.Unmarshal([]byte(text), e); err != nil {
		return fmt.Errorf("%w: trailer: %w", ErrProtocol, err)
	}
	e.clean()
	return e
}
