package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func TestCopyText(t *testing.T) {
	long := strings.Repeat("text\n", 2000)
	for _, c := range []struct {
		name, in, out string
		text          bool
	}{
		{"text", "héllo\tworld\r\nünd\n", "héllo\tworld\r\nünd\n", true},
		{"nothing", "", "", true},
		{"C1 as bytes", "a\x9b31mb", "a\ufffd31mb", true},
		{"C1 as characters", "a\u009b31mb\u0085c", "a\ufffd31mb\ufffdc", true},
		{"bidi", "a\u202eb\u202ac\u2066d\u2069e\u200ef\u200fg\u061ch", "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf\ufffdg\ufffdh", true},
		{"separators", "a\u2028b\u2029c", "a\ufffdb\ufffdc", true},
		{"overwritten line", "good\rbad\r\n", "good\ufffdbad\r\n", true},
		{"cut off character", "a\xe2\x82", "a\ufffd\ufffd", true},
		{"escape", "\x1b[2Jx", "", false},
		{"NUL", "a\x00b", "a", false},
		{"DEL", "a\x7fb", "a", false},
		{"binary behind 4 KiB", long + "\x00\x01", long, false},
		{"escape behind 4 KiB", long + "\x1b]0;title\a", long, false},
	} {
		for how, in := range map[string]*strings.Reader{"at once": strings.NewReader(c.in), "byte by byte": strings.NewReader(c.in)} {
			var out bytes.Buffer
			var err error
			if how == "at once" {
				err = copyText(&out, in)
			} else {
				err = copyText(&out, iotest.OneByteReader(in))
			}
			if out.String() != c.out || (err == nil) != c.text {
				t.Errorf("%s, %s: %.80q, %v", c.name, how, out.String(), err)
			}
			if err != nil && cellproto.HintOf(err) == "" {
				t.Errorf("%s: no hint", c.name)
			}
		}
	}
	var out bytes.Buffer
	if err := copyText(&out, iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc")))); err == nil || out.String() != "a" {
		t.Errorf("an error of the reply: %q, %v", out.String(), err)
	}
}

func FuzzCopyText(f *testing.F) {
	f.Add([]byte("héllo\r\n\u202e\x9b\x00"))
	f.Add([]byte("\xe2\x80\xae\xe2\x80"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		err := copyText(&out, bytes.NewReader(data))
		if err != nil && cellproto.KindOf(err) != cellproto.Failed {
			t.Errorf("%v", err)
		}
		text := strings.ReplaceAll(out.String(), "\r\n", "\n")
		if !utf8.ValidString(text) || strings.ContainsFunc(text, cellproto.Unprintable) {
			t.Errorf("a terminal gets %q", out.String())
		}
	})
}

func TestEscapeJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"b"}`:               `{"a":"b"}`,
		"\"a\u009bb\u202ec\x7f\"": `"a\u009bb\u202ec\u007f"`,
		"\"a\x9bb\"":              `"a\ufffdb"`,
		"[1,\r\n\t2]":             "[1, \n\t2]",
		`"\u001b[2J"`:             `"\u001b[2J"`,
		"{\"k\u200fey\":1}":       `{"k\u200fey":1}`,
	} {
		if got := string(escapeJSON([]byte(in))); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// The same value, whatever it is, without a character that could do harm.
func FuzzEscapeJSON(f *testing.F) {
	f.Add([]byte("{\"a\u202e\":[1,\r\n\"\u009b\x9b\"]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			t.Skip()
		}
		got := escapeJSON(data)
		if strings.ContainsFunc(string(got), cellproto.Unprintable) || !utf8.Valid(got) {
			t.Fatalf("%q", got)
		}
		var before, after any
		if err := json.Unmarshal(data, &before); err != nil {
			t.Skip() // a number that is out of range
		}
		if err := json.Unmarshal(got, &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q: %v", data, got, err)
		}
	})
}

func TestErrorJSON(t *testing.T) {
	n := startFake(t)
	for _, c := range []struct {
		args []string
		want errorJSON
	}{
		{[]string{"use", n.dir, "deny", "--json"}, errorJSON{Kind: "denied", Hint: "Ask the owner.", Exit: 4}},
		{[]string{"use", n.dir, "busy", "--json"}, errorJSON{Kind: "overloaded", Hint: "again in 200ms", RetryAfterMS: 200, Exit: 5}},
		{[]string{"use", n.dir, "fail", "--json"}, errorJSON{Kind: "function error", Exit: 6}},
		{[]string{"use", n.dir, "nothing", "--json"}, errorJSON{Kind: "not found", Exit: 3}},
		{[]string{"use", n.dir, "add", "1", "--json"}, errorJSON{Kind: "bad input", Exit: 2}},
		{[]string{"--json", "nonsense"}, errorJSON{Kind: "bad input", Hint: "cellctl --help lists the commands.", Exit: 2}},
		{[]string{"status", "--no-such-flag", "--json"}, errorJSON{Kind: "bad input", Hint: "cellctl status --help", Exit: 2}},
		{[]string{"status", "--json", t.TempDir()}, errorJSON{Kind: "not found", Exit: 3}},
	} {
		o := run(t, "", c.args...)
		var got errorJSON
		d := json.NewDecoder(strings.NewReader(o.err))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil || d.More() {
			t.Errorf("%v: stderr is %q: %v", c.args, o.err, err)
			continue
		}
		if o.out != "" || o.code != c.want.Exit || got.Exit != o.code || got.Kind != c.want.Kind || got.Error == "" ||
			c.want.Hint != "" && got.Hint != c.want.Hint || got.RetryAfterMS != c.want.RetryAfterMS {
			t.Errorf("%v: exit code %d, %+v, and on stdout %q", c.args, o.code, got, o.out)
		}
		if strings.ContainsAny(o.err, "\x1b") {
			t.Errorf("%v: a terminal gets %q", c.args, o.err)
		}
	}
	if o := run(t, "", "use", n.dir, "fail", "--", "--json"); strings.HasPrefix(o.err, "{") {
		t.Errorf("an argument was taken for the flag: %q", o.err)
	}
}

// A structured reply, whatever its bytes, is shown as one JSON value or refused.
func FuzzReplyText(f *testing.F) {
	f.Add([]byte{0xa1, 0x61, 'a', 0x01}, true)
	f.Add([]byte{0x9f, 0xff}, true)
	f.Add([]byte{0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0}, true) // infinity
	f.Add([]byte{0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add([]byte(" {\"a\":1} "), false)
	f.Add([]byte("{"), false)
	f.Fuzz(func(t *testing.T, data []byte, cbor bool) {
		r := &reply{body: bytes.NewReader(data)}
		if r.Codec = ctl.CodecJSON; cbor {
			r.Codec = ctl.CodecCBOR
		}
		text, err := replyText(r)
		switch kind := cellproto.KindOf(err); {
		case err == nil && !json.Valid(text):
			t.Errorf("%q", text)
		case err != nil && kind != cellproto.Corrupt && kind != cellproto.Unsupported:
			t.Errorf("%v", err)
		}
	})
}
