package ctl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
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

// FuzzParseUse reads the query of a request to use: what is taken says the same when it is written again.
func FuzzParseUse(f *testing.F) {
	for _, s := range []string{
		"target=x&fn=add&timeout_ms=1000&argv=" + url.QueryEscape(`["3","4"]`),
		"fn=add&args=" + url.QueryEscape(`{"a":1}`) + "&body=auto&key=k&caller_dir=/x",
		"fn=add&argv=1", "fn=add&argv=[]&args={}", "fn=&timeout_ms=-1", "fn=x&timeout_ms=99999999999999999999", "fn=x&body=none", "argv=null&fn=x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		r, err := ParseUse(q, time.Second)
		if err != nil {
			return
		}
		if r.Func == "" || r.Timeout < time.Millisecond || r.Timeout > 24*time.Hour || r.Argv != nil && r.Args != nil {
			t.Fatalf("%+v", r)
		}
		written, err := r.Query()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseUse(written, time.Minute)
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
	})
}

// FuzzReadReady reads what a nucleus says to whoever started it.
func FuzzReadReady(f *testing.F) {
	for _, s := range []string{"ready\n", "error {\"op\":\"x\",\"kind\":\"denied\",\"message\":\"m\"}\n", "error x\n", "", "ready", "error null\n", "steady\n"} {
		f.Add([]byte(s))
	}
	f.Add(bytes.Repeat([]byte("x"), maxReady+10))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := ReadReady(bytes.NewReader(data))
		var remote *RemoteError
		switch {
		case err == nil:
			if !bytes.HasPrefix(data, []byte("ready")) {
				t.Fatalf("%q was taken for ready", data)
			}
		case errors.As(err, &remote):
			for _, s := range []string{remote.Op, remote.Kind, remote.Message, remote.Hint} {
				if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
					t.Fatalf("a terminal gets %q", s)
				}
			}
			if remote.Kind == "" || remote.RetryAfterMS < 0 {
				t.Fatalf("%+v", remote)
			}
		case !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrLost):
			t.Fatalf("error of no kind: %v", err)
		}
	})
}

// FuzzResults reads what a nucleus answers with, as each command does: it is decoded, or refused.
func FuzzResults(f *testing.F) {
	f.Add([]byte(`{"cid":"b","version":"1.0.0","created":"2026-01-01T00:00:00Z","schema":""}`))
	f.Add([]byte(`[{"peer":"12D3","addrs":["/ip4/1.2.3.4"],"source":"dht"}]`))
	f.Add([]byte(`{"codec":"json","took_us":1e400}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := json.Marshal(Line{Result: data})
		if err != nil {
			t.Skip()
		}
		l, err := NewReader(bytes.NewReader(append(line, '\n'))).Next()
		if err != nil {
			return
		}
		for _, into := range []any{&Status{}, &Published{}, &UseMeta{}, &[]RaceRow{}, &[]HistoryRow{}, &[]Check{}, &FindRow{}, &Found{}} {
			_ = json.Unmarshal(l.Result, into) // an error is an answer; a panic is not
		}
	})
}
