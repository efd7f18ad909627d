package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func TestUseLocal(t *testing.T) {
	n := startFake(t)
	for _, args := range [][]string{
		{"use", n.dir, "add", "3", "4"},
		{"use", n.dir, "add", "b=4", "a=3"},
		{"use", n.dir, "add", "-3", "10"},
		{"use", "--timeout", "5s", n.dir, "add", "--", "-3", "10"},
		{"use", n.dir, "add", "3", "--timeout=5s", "4"},
	} {
		if got := must(t, run(t, "", args...)); got != "7\n" {
			t.Errorf("%v prints %q", args, got)
		}
	}
	if got := must(t, run(t, `{"a":3,"b":4}`, "use", n.dir, "add", "--input", "-")); got != "7\n" {
		t.Errorf("arguments from stdin: %q", got)
	}
	var j map[string]any
	if err := json.Unmarshal([]byte(must(t, run(t, "", "use", n.dir, "add", "3", "4", "--json"))), &j); err != nil {
		t.Fatal(err)
	}
	if j["reply"] != 7.0 || j["source"] != "local" || j["provider"] != "12D3KooWfake" || j["raced"] != false || j["cached"] != false || j["took_us"].(float64) <= 0 {
		t.Errorf("--json prints %v", j)
	}
}

func TestUseLocalBody(t *testing.T) {
	n := startFake(t)
	body := strings.Repeat("0123456789abcdef", 100_000)
	if got := must(t, run(t, body, "use", n.dir, "echo", "-i", "-")); got != body {
		t.Errorf("%d bytes come back as %d", len(body), len(got))
	}
	file := filepath.Join(t.TempDir(), "reply")
	if got := must(t, run(t, body, "use", n.dir, "echo", "-i", "-", "-o", file)); got != "" {
		t.Errorf("--output prints %q", got)
	}
	if saved, err := os.ReadFile(file); err != nil || string(saved) != body {
		t.Errorf("%d bytes were saved, %v", len(saved), err)
	}
	if got := must(t, run(t, "\x00\xff", "use", n.dir, "echo", "-i", "-", "--json")); !strings.Contains(got, `"reply":"AP8="`) || !strings.Contains(got, `"encoding":"base64"`) {
		t.Errorf("a raw reply in JSON is %s", got)
	}
}

func TestUseLocalFails(t *testing.T) {
	n := startFake(t)
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"fail"}, exitFunction, "cellctl: use DIR fail: division by ?[31mzero\n"},
		{[]string{"deny"}, exitDenied, "cellctl: use DIR deny: call: not you\n  try: Ask the owner.\n"},
		{[]string{"busy"}, exitUnavailable, "cellctl: use DIR busy: call: full\n  try: again in 200ms\n"},
		{[]string{"nope"}, exitNotFound, "cellctl: use DIR nope: call calculator: it has no function \"nope\"\n"},
		{[]string{"add", "3"}, exitUsage, "is missing\n  try: add a:number b:number\n"},
		{[]string{"add", "3", "x"}, exitUsage, "cannot be \"x\"\n"},
		{[]string{"add", "3", "4", "--input", "-"}, exitUsage, "add takes no body"},
		{[]string{"add", "--input", "/no/such/file"}, exitFailed, "cannot read the input"},
		{[]string{"add", "3", "4", "--key", strings.Repeat("k", 65)}, exitUsage, "a key of 65 bytes"},
	} {
		o := run(t, "{}", append([]string{"use", n.dir}, c.args...)...)
		if got := strings.ReplaceAll(o.err, n.dir, "DIR"); o.code != c.code || !strings.Contains(got, c.text) || o.out != "" {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q; want %d, %q", c.args, o.code, o.out, got, c.code, c.text)
		}
	}
}

// A schema in the cache that is not the cell's any more is not used.
func TestUseStaleSchema(t *testing.T) {
	n := startFake(t)
	writeFiles(t, n.dir, map[string]string{"cache/schema.json": `{"cell":"calculator","functions":{"old":{}}}`})
	o := run(t, "", "use", n.dir, "old")
	// The fake answers cell.schema with a failure; what counts is that it was asked.
	if o.code != exitFunction {
		t.Errorf("exit code %d: %s", o.code, o.err)
	}
}

func TestUseRemote(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	var mu sync.Mutex // a handler may still run when the next one begins
	var last ctl.UseRequest
	var lastBody string
	n.routes[ctl.RouteUse] = func(w *ctl.Writer, r *http.Request, raw http.ResponseWriter) {
		req, err := ctl.ParseUse(r.URL.Query(), 0)
		if err != nil {
			t.Error(err)
		}
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		last, lastBody = req, string(b)
		mu.Unlock()
		switch req.Func {
		case "add":
			w.Result(ctl.UseMeta{Codec: ctl.CodecJSON, Source: "dht", Provider: "P", TookUS: 12, Raced: true})
			io.WriteString(raw, "7")
		case "cbor":
			w.Result(ctl.UseMeta{Codec: ctl.CodecCBOR})
			raw.Write([]byte{0xa1, 0x61, 'a', 0x82, 0x01, 0x41, 0xff})
		case "liar":
			w.Result(ctl.UseMeta{Codec: ctl.CodecJSON})
			io.WriteString(raw, "\x1b]0;evil")
		case "cut":
			w.Result(ctl.UseMeta{Codec: ctl.CodecRaw})
			io.WriteString(raw, "some")
			raw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "gone":
			panic(http.ErrAbortHandler)
		default:
			w.Fail(&ctl.RemoteError{Op: "find bafy", Kind: cellproto.NotFound.String(), Message: "asked 20 peers", Hint: "Check the CID."})
		}
	}
	seen := func() (ctl.UseRequest, string) {
		mu.Lock()
		defer mu.Unlock()
		return last, lastBody
	}
	if out := must(t, run(t, "", "use", "bafy", "add", "3", "4", "--timeout", "4s", "--key", "k")); out != "7\n" {
		t.Errorf("prints %q", out)
	}
	got, body := seen()
	if got.Timeout <= 3*time.Second || got.Timeout > 4*time.Second {
		t.Errorf("timeout %v", got.Timeout)
	}
	got.Timeout = 0
	want := ctl.UseRequest{Target: "bafy", Func: "add", CallerDir: n.dir, Argv: []string{"3", "4"}, Body: ctl.BodyArgs, Key: "k"}
	if !reflect.DeepEqual(got, want) || body != "" {
		t.Errorf("the nucleus got %+v and %q, want %+v", got, body, want)
	}
	if out := must(t, run(t, "input", "use", "/ipfs/bafy", "add", "--input", "-", "--json")); !strings.HasPrefix(out, `{"reply":7,"provider":"P","source":"dht","took_us":12,"raced":true,"cached":false}`) {
		t.Errorf("prints %q", out)
	}
	if got, body = seen(); got.Target != "bafy" || got.Body != ctl.BodyAuto || got.Argv != nil || body != "input" {
		t.Errorf("the nucleus got %+v and %q", got, body)
	}
	if out := must(t, run(t, "", "use", "bafy", "cbor")); out != "{\"a\":[1,\"/w==\"]}\n" {
		t.Errorf("CBOR prints %q", out)
	}
	for fn, code := range map[string]int{"liar": exitFailed, "cut": exitUnavailable, "gone": exitUnavailable, "other": exitNotFound} {
		if o := run(t, "", "use", "bafy", fn); o.code != code || strings.Contains(o.out+o.err, "\x1b") {
			t.Errorf("%s: exit code %d, want %d; %q %q", fn, o.code, code, o.out, o.err)
		}
	}
	file := filepath.Join(t.TempDir(), "reply")
	if o := run(t, "", "use", "bafy", "cut", "-o", file); o.code != exitUnavailable {
		t.Errorf("exit code %d: %s", o.code, o.err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("half a reply was left in the file")
	}
}

// A quorum is for the nucleus to hold, also of a directory's cell; who lied is said.
func TestUseQuorum(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	n.routes[ctl.RouteUse] = func(w *ctl.Writer, r *http.Request, raw http.ResponseWriter) {
		if got := r.URL.Query().Get("quorum"); got != "2of3" {
			t.Errorf("it asks for the quorum %q", got)
		}
		w.Result(ctl.UseMeta{Codec: ctl.CodecJSON, Provider: "P1", Source: "dht", Quorum: &ctl.Quorum{
			Want: "2of3", Asked: 3, Agreed: 2, Liars: []string{"P\x1b3"}, Note: "private addresses",
		}})
		io.WriteString(raw, "7")
	}
	for _, target := range []string{"bafy", n.dir} {
		o := run(t, "", "use", "--quorum", "2of3", target, "add", "3", "4")
		if o.code != 0 || o.out != "7\n" || !strings.Contains(o.err, "cellctl: P?3 gave another reply than the 2 that agree") || !strings.Contains(o.err, "cellctl: private addresses\n") {
			t.Errorf("exit code %d\n%s%s", o.code, o.out, o.err)
		}
	}
	o := run(t, "", "use", "--quorum", "2of3", "bafy", "add", "3", "4", "--json")
	var j struct{ Quorum ctl.Quorum }
	if err := json.Unmarshal([]byte(o.out), &j); err != nil || j.Quorum.Agreed != 2 || len(j.Quorum.Liars) != 1 || o.err != "" {
		t.Errorf("%s%s", o.out, o.err)
	}
	if o := run(t, "", "use", "--quorum", "1of2", "bafy", "add", "3", "4"); o.code != exitUsage || !strings.Contains(o.err, "try: 2of3 asks three") {
		t.Errorf("exit code %d\n%s", o.code, o.err)
	}
}
