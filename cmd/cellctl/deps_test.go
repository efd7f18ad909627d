package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// What the nucleus says of dependencies is shown, made safe for a terminal, and what is asked of it arrives.
func TestDepsCommands(t *testing.T) {
	n := startFake(t)
	t.Chdir(n.dir)
	rows := []ctl.DepRow{
		{Name: "beside", Kind: ctl.DepDirectory, Target: "../x", Dir: "/x", State: ctl.Idle},
		{Name: "built", Kind: ctl.DepGit, Target: "https://h/a@main\x1b[2J", Commit: strings.Repeat("ab", 20), Dir: "/f", State: ctl.Running, Error: "it is gone"},
		{Name: "fresh", Kind: ctl.DepGit, Target: "https://h/b@v1"},
		{Name: "making", Kind: ctl.DepGit, Target: "https://h/c@v1", Step: "cloning"},
		{Name: "named", Kind: ctl.DepPublished, Target: "k51x", CID: "bafyx"},
	}
	var asked []string
	n.routes[ctl.RouteDeps] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		names := r.URL.Query()["name"]
		asked = append(asked, r.Method+" "+strings.Join(names, "+"))
		if len(names) == 1 {
			w.Fail(&ctl.RemoteError{Op: "update none", Kind: "not found", Message: "it is no dependency by git"})
			return
		}
		w.Result(rows)
	}
	out := must(t, run(t, "", "deps"))
	for _, says := range []string{"idle", "running; the last update failed: it is gone", "(abababababab)", "not fetched yet", "being made ready: cloning", "bafyx"} {
		if !strings.Contains(out, says) || strings.Contains(out, "\x1b") {
			t.Errorf("it prints %q, without %q", out, says)
		}
	}
	if out := must(t, run(t, "", "deps", "update", "--json")); !strings.HasPrefix(out, `[{"name":"beside","kind":"directory"`) {
		t.Errorf("it prints %q", out)
	}
	must(t, run(t, "", "deps", "update", "built", "fresh"))
	if o := run(t, "", "deps", "update", "none"); o.code != exitNotFound {
		t.Errorf("exit code %d, %s", o.code, o.err)
	}
	if got, want := strings.Join(asked, ","), "GET ,POST ,POST built+fresh,POST none"; got != want {
		t.Errorf("the nucleus was asked %q, want %q", got, want)
	}
}
