package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

// What comes from elsewhere must not drive the terminal that it is shown on, nor deceive its reader.
// Only a terminal is protected so: a pipe and a file get every byte as it is.

// copyText copies text to a terminal as it comes. Characters that could do harm, and bytes that are not
// UTF-8, are replaced. At the first control character the bytes are no text, and it stops.
func copyText(w io.Writer, r io.Reader) error {
	in, out := bufio.NewReaderSize(r, 32<<10), bufio.NewWriter(w)
	for at := int64(0); ; {
		c, size, err := in.ReadRune()
		if err != nil {
			if ferr := out.Flush(); ferr != nil || errors.Is(err, io.EOF) {
				return ferr
			}
			return err
		}
		switch {
		case c == '\r' && isNewline(in):
		case isControl(c):
			if err := out.Flush(); err != nil {
				return err
			}
			return notText(at)
		case cellproto.Unprintable(c):
			c = utf8.RuneError
		}
		at += int64(size)
		_, _ = out.WriteRune(c) // its error stays, for Flush
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// isNewline says whether the next byte is one. It waits for that.
func isNewline(in *bufio.Reader) bool {
	next, err := in.Peek(1)
	return err == nil && next[0] == '\n'
}

// isControl says that c is a control character that no text has: C0 but tab and line ends, and DEL.
func isControl(c rune) bool { return c != '\n' && c != '\t' && c != '\r' && c < ' ' || c == 0x7f }

func notText(at int64) error {
	what := "the reply is not text, and this is a terminal"
	if at > 0 {
		what = fmt.Sprintf("from byte %d on the reply is not text, and this is a terminal", at)
	}
	return cellproto.Errorf("print", cellproto.Failed, "%s", what).WithHint("--output FILE, or a pipe")
}

// escapeJSON gives a valid JSON text that says the same and is fit for a terminal.
func escapeJSON(text []byte) []byte {
	out := make([]byte, 0, len(text)+1)
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		switch {
		case c == '\r':
			out = append(out, ' ') // it is not in a string, where it would have been escaped
		case c == utf8.RuneError && size == 1:
			out = append(out, `\ufffd`...)
		case cellproto.Unprintable(c):
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	return out
}
