package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func TestReadingCommands(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	n.status.Addrs = []string{"/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWfake"}
	n.status.Served = 7
	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n.routes[ctl.RouteRace] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		w.Result([]ctl.RaceRow{{Peer: "P1", MedianUS: 310, P99US: 1_200_000, Queue: 2, ScoreUS: 12_345, Winner: true}, {Peer: "P2", Error: "no answer"}})
	}
	n.routes[ctl.RouteFind] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		if r.URL.Query().Get("target") == "none" {
			w.Result(ctl.Found{})
			return
		}
		w.Item(ctl.FindRow{Peer: "P1", Addrs: []string{"/a", "/b"}, Source: "dht"})
		w.Fail(&ctl.RemoteError{Kind: cellproto.Timeout.String(), Message: "time is up"})
	}
	n.routes[ctl.RouteHistory] = func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) {
		w.Result([]ctl.HistoryRow{{CID: "bafy2", Version: "1.0.1", Created: day, Schema: strings.Repeat("ab", 32), Owner: "P1"}})
	}
	n.routes[ctl.RouteSchema] = func(w *ctl.Writer, _ *http.Request, raw http.ResponseWriter) {
		fmt.Fprintf(raw, "{\"result\":%s}\n", strings.ReplaceAll(testSchema, "\n", ""))
	}
	n.routes[ctl.RoutePublish] = func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) {
		w.Result(ctl.Published{CID: "bafy2", Name: "calculator", Version: "1.0.1", IPNS: "k51"})
	}
	for _, c := range []struct{ command, want string }{
		{"race bafy", "PEER  PING   P99   QUEUE  SCORE   \nP1    310µs  1.2s  2      12.3ms  winner\nP2    -      -     -      -       no answer\n"},
		{"race --json", `[{"peer":"P1","median_us":310,"p99_us":1200000,"queue":2,"score_us":12345,"winner":true},{"peer":"P2","median_us":0,"p99_us":0,"queue":0,"score_us":0,"winner":false,"error":"no answer"}]` + "\n"},
		{"find bafy", "P1  dht     /a /b\n"},
		{"find bafy --json", `[{"peer":"P1","addrs":["/a","/b"],"source":"dht"}]` + "\n"},
		{"history --json", `[{"cid":"bafy2","version":"1.0.1","created":"2026-01-02T03:04:05Z","schema":"` + strings.Repeat("ab", 32) + `","owner":"P1"}]` + "\n"},
		{"publish", "bafy2\nk51\n"},
		{"publish --json", `{"cid":"bafy2","name":"calculator","version":"1.0.1","ipns":"k51"}` + "\n"},
		{"schema", "calculator\n  add a:number b:number -> number    (pure)\n      Adds.\n"},
		{"schema --json", strings.ReplaceAll(testSchema, "\n", "") + "\n"},
		{"status", "calls    0 in flight, 7 served\n"},
		{"start", "calculator already running (pid 0)\n"},
	} {
		got := must(t, run(t, "", strings.Fields(c.command)...))
		if !strings.HasPrefix(got, c.want) && (c.command != "status" || !strings.Contains(got, c.want)) {
			if c.command == "schema --json" && compact(got) == compact(c.want) {
				continue
			}
			t.Errorf("%s prints\n%s\nwant\n%s", c.command, got, c.want)
		}
	}
	const fault = ".cell-cache/slo.json does not count: it is empty"
	n.status.Objectives = []string{fault}
	if o := run(t, "", "race", "bafy"); o.code != 0 || o.err != "cellctl: "+fault+"\n" {
		t.Errorf("race with a damaged objective: exit code %d, %q", o.code, o.err)
	}
	if o := run(t, "", "status"); !strings.Contains(o.out, "objective  "+fault+"\n") {
		t.Errorf("status with a damaged objective:\n%s", o.out)
	}
	if o := run(t, "", "find", "none"); o.code != exitNotFound || !strings.Contains(o.err, "nobody provides it") {
		t.Errorf("find of nothing: exit code %d, %s", o.code, o.err)
	}
}

func compact(s string) string { return strings.ReplaceAll(s, " ", "") }

func TestDoctor(t *testing.T) {
	n := startFake(t)
	n.routes[ctl.RouteDoctor] = func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) {
		w.Result([]ctl.Check{{Name: "reachable", OK: true, Detail: "yes"}, {Name: "dht", Detail: "0 peers", Fix: "cellctl restart"}})
	}
	writeFiles(t, n.dir, map[string]string{"keys/host.key": "secret"})
	o := run(t, "", "doctor", n.dir)
	for _, want := range []string{
		"ok     cell.toml: ", "WRONG  keys: others can read keys/host.key\n         try: chmod -R go= ",
		"ok     nucleus: pid 0, running", "ok     reachable: yes\n", "WRONG  dht: 0 peers\n         try: cellctl restart\n",
	} {
		if !strings.Contains(o.out, want) {
			t.Errorf("doctor prints\n%s\nwithout %q", o.out, want)
		}
	}
	if o.code != exitFailed || o.err != "" {
		t.Errorf("exit code %d, stderr %q", o.code, o.err)
	}
	if o := run(t, "", "doctor", "--json", n.dir); !strings.Contains(o.out, `{"name":"dht","ok":false,"detail":"0 peers","fix":"cellctl restart"}`) {
		t.Errorf("--json prints %s", o.out)
	}
}

func TestStop(t *testing.T) {
	n := startFake(t)
	n.routes[ctl.RouteStop] = func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) { w.Result(nil) }
	if got := must(t, run(t, "", "stop", n.dir)); got != "stopped\n" {
		t.Errorf("prints %q", got)
	}
}

func TestExitCodes(t *testing.T) {
	want := map[cellproto.Kind]int{
		cellproto.NotFound: exitNotFound, cellproto.Denied: exitDenied, cellproto.Overloaded: exitUnavailable,
		cellproto.Unavailable: exitUnavailable, cellproto.Timeout: exitUnavailable, cellproto.MayHaveRun: exitUnavailable,
		cellproto.FuncError: exitFunction,
	}
	for k := cellproto.Failed; k <= cellproto.Incompatible; k++ {
		code, ok := want[k]
		if !ok {
			code = exitFailed
		}
		err := cellproto.Errorf("x", k, "y")
		if got := exitCode(err); got != code {
			t.Errorf("%v exits with %d, want %d", k, got, code)
		}
		if got := exitCode(usageError{err}); got != exitUsage {
			t.Errorf("a usage error of kind %v exits with %d", k, got)
		}
		wire := &ctl.RemoteError{Kind: k.String(), Message: "y"}
		if got := exitCode(fromControl("x", "d", wire)); got != code {
			t.Errorf("%v from the wire exits with %d, want %d", k, got, code)
		}
	}
	if got := exitCode(nil); got != exitDone {
		t.Errorf("nil exits with %d", got)
	}
	for err, code := range map[error]int{
		ctl.ErrNotRunning: exitUnavailable, ctl.ErrLost: exitUnavailable, ctl.ErrProtocol: exitFailed,
		context.DeadlineExceeded: exitUnavailable, os.ErrPermission: exitDenied,
	} {
		e := fromControl("x", "d", fmt.Errorf("wrapped: %w", err))
		if got := exitCode(e); got != code {
			t.Errorf("%v exits with %d, want %d", err, got, code)
		}
	}
}

func TestParseTarget(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"cell.toml":      "[cell]\nname = \"caller\"\n[deps]\nlib = \"../other\"\n",
		"lib/cell.toml":  "[cell]\nname = \"lib\"\n",
		"own/cell.toml":  "[cell]\nname = \"own\"\n",
		"plain/file.txt": "",
	})
	t.Chdir(dir)
	for word, want := range map[string]target{
		"bafyabc":                       {text: "bafyabc"},
		"example.org":                   {text: "example.org"},
		"/ipns/example.org":             {text: "example.org"},
		"lib":                           {text: "lib"}, // the name under [deps] is nearer than the directory
		"./lib":                         {text: filepath.Join(dir, "lib"), dir: filepath.Join(dir, "lib")},
		"own":                           {text: filepath.Join(dir, "own"), dir: filepath.Join(dir, "own")},
		".":                             {text: dir, dir: dir},
		filepath.Join(dir, "lib") + "/": {text: filepath.Join(dir, "lib"), dir: filepath.Join(dir, "lib")},
		"plain":                         {text: "plain"},
	} {
		if got, err := parseTarget(word); err != nil || got != want {
			t.Errorf("%s is %+v, %v; want %+v", word, got, err, want)
		}
	}
	for _, word := range []string{"./plain", "../nowhere", "/", ""} {
		if got, err := parseTarget(word); err == nil {
			t.Errorf("%q is %+v", word, got)
		}
	}
}

func TestHomePath(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"CELL_HOME": "/h", "XDG_DATA_HOME": "/d", "HOME": "/u"}, "/h"},
		{map[string]string{"XDG_DATA_HOME": "/d", "HOME": "/u"}, "/d/cell/home"},
		{map[string]string{"XDG_DATA_HOME": "relative", "HOME": "/u"}, "/u/.local/share/cell/home"},
		{map[string]string{}, ""},
	} {
		a := &app{getenv: func(k string) string { return c.env[k] }}
		if got, err := a.homePath(); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%v gives %q, %v", c.env, got, err)
		}
	}
}

func TestProtectNumbers(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"use x add 3 4", "use x add 3 4"},
		{"use x add -3 4", "use -- x add -3 4"},
		{"use x add -.5 --json 4 --timeout 3s", "use --json --timeout 3s -- x add -.5 4"},
		{"use -i - x f -1", "use -i - -- x f -1"},
		{"use x f -1 -o out", "use -o out -- x f -1"},
		{"use x f --timeout=3s -1 -- --json -2", "use --timeout=3s -- x f -1 --json -2"},
		{"--json use x f -1", "--json use -- x f -1"},
		{"logs -5", "logs -5"},
		{"use x f -1 --unknown", "use --unknown -- x f -1"},
	} {
		a := &app{}
		got := strings.Join(protectNumbers(a.root(nil), strings.Fields(c.in)), " ")
		if got != c.want {
			t.Errorf("%q becomes %q, want %q", c.in, got, c.want)
		}
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		a := &app{errOut: &b, getenv: os.Getenv}
		p := a.progress()
		p.say("quick")
		p.done()
		p.say("after the end")
		time.Sleep(time.Second)
		if b.Len() > 0 {
			t.Errorf("a quick command says %q", b.String())
		}
		p = a.progress()
		p.say("first")
		p.say("second")
		time.Sleep(progressDelay + time.Millisecond)
		synctest.Wait()
		p.say("third\x1b[2J")
		p.done()
		p.done()
		if b.String() != "cellctl: second\ncellctl: third?[2J\n" {
			t.Errorf("a slow command says %q", b.String())
		}
	})
}

func TestProgressTerminal(t *testing.T) {
	var b strings.Builder
	p := &progress{w: &b, tty: true, width: 5}
	p.say("abcdefgh")
	p.say("abcdefgh")
	p.done()
	if b.String() != "\r\x1b[Kabcde\r\x1b[K" {
		t.Errorf("a terminal gets %q", b.String())
	}
}

func TestReadTail(t *testing.T) {
	long := strings.Repeat("0123456789\n", 10_000)
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\n", 5, "a\n"}, {"a\nb\n", 0, ""},
		{long, 5_000, long[:55_000]}, {long, 20_000, long},
	} {
		path := filepath.Join(t.TempDir(), "log")
		writeFiles(t, filepath.Dir(path), map[string]string{"log": c.text})
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, end, err := readTail(f, c.n)
		f.Close()
		if err != nil || string(got) != c.want || end != int64(len(c.text)) {
			t.Errorf("the last %d lines of %d bytes: %d bytes up to %d, %v", c.n, len(c.text), len(got), end, err)
		}
	}
}

// A log that grows, is rotated and is cut is followed without loss.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cell.log")
	var b strings.Builder
	v := &logView{a: &app{out: &b, getenv: os.Getenv}}
	l := &tailedLog{name: "cell.log", path: path}
	v.logs = []*tailedLog{l}
	defer v.close()
	advance := func() {
		t.Helper()
		if err := v.advance(l); err != nil {
			t.Fatal(err)
		}
	}
	advance() // it does not exist yet
	appendTo := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(text)
		f.Close()
	}
	appendTo("one\ntw")
	advance()
	appendTo("o\nthree\n")
	os.Rename(path, path+".1")
	appendTo("four\n")
	advance()
	os.WriteFile(path, []byte("5\n"), 0o600)
	advance()
	if want := "one\ntwo\nthree\nfour\n5\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

// A log that is rotated while it is read: what is written between the last look at the old file and the
// look at its name is not lost.
func TestFollowAcrossRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cell.log")
	const files = 100
	var b strings.Builder
	v := &logView{a: &app{out: &b, getenv: os.Getenv}}
	l := &tailedLog{name: "cell.log", path: path}
	v.logs = []*tailedLog{l}
	defer v.close()
	var printed atomic.Int64
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range int64(files) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintln(f, "first of", i)
			for printed.Load() < 2*i+1 && !t.Failed() { // it is open at the reader
				runtime.Gosched()
			}
			fmt.Fprintln(f, "last of", i)
			os.Rename(path, path+".1")
			f.Close()
		}
		os.WriteFile(path, nil, 0o600)
	}()
	for over := false; !over; {
		select {
		case <-written:
			over = true // and once more
		default:
		}
		if err := v.advance(l); err != nil {
			t.Fatal(err)
		}
		n := int64(strings.Count(b.String(), "\n"))
		if over && n != 2*files {
			t.Fatalf("%d lines, want %d", n, 2*files)
		}
		printed.Store(n)
		if strings.Count(b.String(), "first") > strings.Count(b.String(), "last")+1 {
			t.Errorf("a last line is lost after %d lines", n)
			return
		}
	}
}

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	os.WriteFile(path, []byte("old"), 0o600)
	save := func(path string, r io.Reader) error {
		o, err := openOutput(path)
		if err != nil {
			return err
		}
		defer o.drop()
		return o.save(r)
	}
	if err := save(path, brokenReader{}); !errors.Is(err, errBroken) {
		t.Errorf("a broken reply gives %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("the file now has %q", b)
	}
	if err := save(path, strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new" {
		t.Errorf("the file has %q", b)
	}
	if err := save("/dev/null", strings.NewReader("x")); err != nil {
		t.Errorf("writing to /dev/null: %v", err)
	}
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Error("/dev/null was replaced by a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("%v were left", left)
	}
	missing := filepath.Join(dir, "nowhere", "out")
	if err := save(missing, strings.NewReader("x")); cellproto.KindOf(err) != cellproto.Failed || strings.Contains(err.Error(), "/.") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestDurationFlag(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"5": 5 * time.Second, "0.25": 250 * time.Millisecond, "90s": 90 * time.Second, "2m": 2 * time.Minute, "-1": -time.Second,
		"": -1, "x": -1, "5 s": -1, "1e300": -1, "NaN": -1, "inf": -1,
	} {
		d := durationFlag(-1)
		if err := d.Set(text); (err == nil) != (want != -1) || time.Duration(d) != want {
			t.Errorf("%q is %v, %v", text, time.Duration(d), err)
		}
	}
}

func TestQuoteWord(t *testing.T) {
	for in, want := range map[string]string{"a/b-c.d": "a/b-c.d", "a b": "'a b'", "": "''", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := quoteWord(in); got != want {
			t.Errorf("%q is quoted as %s", in, got)
		}
	}
}

// TestUseAlone: a line that begins with use makes that command only, which is the one that it is among the others.
func TestUseAlone(t *testing.T) {
	a := &app{}
	var help [2]string
	for i, args := range [][]string{{"use", "x", "add"}, nil} {
		root := a.root(args)
		use, _, err := root.Find([]string{"use"})
		if err != nil {
			t.Fatal(err)
		}
		help[i] = use.UsageString()
		if n := len(root.Commands()); (n == 1) != (args != nil) {
			t.Errorf("%q makes %d commands", args, n)
		}
	}
	if help[0] != help[1] {
		t.Errorf("its help is %s, among the others %s", help[0], help[1])
	}
}
