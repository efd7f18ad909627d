package ctl

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzAnswer reads an answer as the client does: it must end in a result or an error, and must not
// give more bytes than came.
func FuzzAnswer(f *testing.F) {
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + ContentType + "\r\n"
	for _, s := range []string{
		head + "\r\n{\"progress\":\"x\"}\n{\"result\":{}}\nrest",
		head + "Transfer-Encoding: chunked\r\n\r\nd;x=y\r\n{\"result\":{}}\r\n4\r\nrest\r\n0\r\nCell-Error: {\"kind\":\"failed\"}\r\n\r\n",
		head + "Content-Length: 20\r\n\r\n{\"error\":{\"kind\":\"denied\"}}\n",
		"HTTP/1.1 100 Continue\r\n\r\n" + head + "\r\n{\"item\":1}\n",
		"HTTP/1.0 500 x\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		resp, err := readResponse(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		lines := NewReader(resp.body)
		for {
			l, err := lines.Next()
			if err != nil {
				var remote *RemoteError
				if !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrLost) && !errors.As(err, &remote) {
					t.Fatalf("error of no kind: %v", err)
				}
				return
			}
			if l.Error != nil || l.Result != nil {
				break
			}
		}
		rest, _ := io.ReadAll(lines.Rest())
		if len(rest) > len(data) {
			t.Fatalf("%d bytes from %d", len(rest), len(data))
		}
	})
}
