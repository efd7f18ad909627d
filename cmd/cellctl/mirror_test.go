package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// What the nucleus says of mirrors is shown, made safe for a terminal, and what is asked of it arrives.
func TestMirrorCommands(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	row := ctl.MirrorRow{
		CID: "bafyx", Name: "calculator\x1b[2J", Version: "1.0.0", Dir: "/x/foreign/a", State: ctl.Running, Source: "artefact",
		Public: true, LastUsed: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	var asked []string
	n.routes[ctl.RouteMirrors] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		q := r.URL.Query()
		said := r.Method + " " + q.Get("target")
		if q.Has("public") {
			said += " public"
		}
		asked = append(asked, said)
		switch {
		case r.Method == "GET":
			w.Result([]ctl.MirrorRow{row})
		case q.Get("target") == "none":
			w.Fail(&ctl.RemoteError{Op: "find mirror none", Kind: "not found", Message: "there is no mirror of it here"})
		case q.Get("target") == "bafysteps":
			for _, step := range []string{"looking for it", "fetching calculator", "fetching calculator", "starting it"} {
				_ = w.Progress(step)
			}
			w.Result(row)
		default:
			w.Result(row)
		}
	}
	n.routes[ctl.RouteCollect] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		w.Result([]ctl.MirrorRow{row})
	}
	for _, c := range []struct{ args, says string }{
		{"mirror add bafyx", "/x/foreign/a\n"},
		{"mirror add bafyx --public", "/x/foreign/a\n"},
		{"mirror ls", "running, public"},
		{"mirror rm calculator", "removed /x/foreign/a\n"},
		{"gc --dry-run", "would remove /x/foreign/a\n"},
		{"gc", "removed /x/foreign/a\n"},
		{"mirror ls --json", `"last_used":"2026-01-02T03:04:05Z","public":true}]`},
		{"gc --json", `[{"cid":"bafyx"`},
	} {
		got := must(t, run(t, "", strings.Fields(c.args)...))
		if !strings.Contains(got, c.says) || strings.Contains(got, "\x1b") {
			t.Errorf("%s prints %q", c.args, got)
		}
	}
	want := "POST bafyx,POST bafyx public,GET ,DELETE calculator,GET "
	if got := strings.Join(asked, ","); got != want {
		t.Errorf("the nucleus was asked %q, want %q", got, want)
	}
	asked = nil
	steps := "cellctl: looking for it\ncellctl: fetching calculator\ncellctl: starting it\n"
	if o := run(t, "", "mirror", "add", "bafysteps"); o.code != 0 || o.err != steps || o.out != "/x/foreign/a\n" {
		t.Errorf("each step is told: exit code %d, %q, %q", o.code, o.out, o.err)
	}
	if o := run(t, "", "mirror", "add", "bafysteps", "--json"); o.code != 0 || o.err != "" {
		t.Errorf("with --json: exit code %d, %q", o.code, o.err)
	}
	if o := run(t, "", "mirror", "rm", "none"); o.code != exitNotFound || !strings.Contains(o.err, "there is no mirror") {
		t.Errorf("exit code %d, %s", o.code, o.err)
	}
	for _, args := range []string{"mirror add", "mirror add a b", "mirror ls x", "mirror rm", "gc x", "mirror nonsense"} {
		if o := run(t, "", strings.Fields(args)...); o.code != exitUsage {
			t.Errorf("%s: exit code %d", args, o.code)
		}
	}
}
