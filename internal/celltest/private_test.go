package celltest

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/celldnet/celld/internal/ctl"
)

// password is what opens the private repositories of a test.
const password = "the-password-of-ann"

// repositories serves a network's repositories over https: those below /private/ to who knows the password, those
// below /public/ to everybody. It has all of the network trust its certificate.
func (n *Net) repositories(t *testing.T) (url string) {
	t.Helper()
	exe, err := exec.Command("git", "--exec-path").Output()
	backend := filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend")
	if _, serr := os.Stat(backend); err != nil || serr != nil {
		t.Skip("git has no http-backend here")
	}
	git := &cgi.Handler{Path: backend, Env: []string{
		"GIT_PROJECT_ROOT=" + filepath.Join(n.root, "repos"), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=ann",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}}
	mux := http.NewServeMux()
	mux.Handle("/public/", http.StripPrefix("/public", git))
	mux.Handle("/private/", http.StripPrefix("/private", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, word, ok := r.BasicAuth(); !ok || user != "ann" || word != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		git.ServeHTTP(w, r)
	})))
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(n.root, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	n.env = append(n.env, "GIT_SSL_CAINFO="+ca)
	return server.URL
}

// helper has git ask a credential helper of this person's, which notes in a file what it is asked to do.
func (n *Net) helper(t *testing.T, password string) (asked string) {
	t.Helper()
	asked = filepath.Join(n.root, "asked")
	text := fmt.Sprintf("[credential]\n\thelper = \"!f() { echo $1 >>%s; echo username=ann; echo password=%s; }; f\"\n", asked, password)
	if err := os.WriteFile(filepath.Join(n.root, ".gitconfig"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return asked
}

// A dependency in a public repository needs nothing. One in a private repository is fetched with what git's own credential
// helper says, which is asked for it and told nothing; what it says is in no file, and no process has it afterwards.
// Without a helper, or with a wrong password, who calls is told what to do.
func TestPrivateGitDependency(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Repository("greet")
	url := n.repositories(t)
	caller := func(name string) *Cell {
		t.Helper()
		c := n.Headless(name)
		c.Edit("", fmt.Sprintf("[deps]\npublic = \"git %s/public/greet@main\"\nprivate = \"git %[1]s/private/greet@main\"\n", url))
		c.Start()
		return c
	}
	first := caller("first")
	if got := first.Must("use", "public", "greet", "Ann", "--timeout", "50s"); got != `"Hello, Ann!"` {
		t.Errorf("the public one says %s", got)
	}
	n.At(first.deps()["public"].Dir)
	fails := func(c *Cell, says string) {
		t.Helper()
		r := c.Ctl("use", "private", "greet", "Ann", "--timeout", "50s")
		if r.Code == 0 || !strings.Contains(r.Stderr, says) || strings.Contains(r.Stderr, "wrong-") {
			t.Errorf("exit code %d, want %q\n%s", r.Code, says, r.Stderr)
		}
	}
	fails(first, "credential helper")
	n.helper(t, "wrong-password")
	fails(caller("second"), "Authentication failed")

	asked := n.helper(t, password)
	third := caller("third")
	if got := third.Must("use", "private", "greet", "Ann", "--timeout", "50s"); got != `"Hello, Ann!"` {
		t.Errorf("the private one says %s", got)
	}
	row := third.deps()["private"]
	n.At(row.Dir)
	if row.State != ctl.Running || row.Error != "" || row.Commit == "" {
		t.Errorf("%+v", row)
	}
	if words, err := os.ReadFile(asked); err != nil || strings.ReplaceAll(string(words), "get\n", "") != "" {
		t.Errorf("the helper was asked to %q, %v", words, err)
	}
	n.tellsNobody(t, password)
}

// tellsNobody checks that a secret is in no file of the network, but for the configuration of git, and in no environment
// or command line of its processes.
func (n *Net) tellsNobody(t *testing.T, secret string) {
	t.Helper()
	out, _ := exec.Command("grep", "-rlF", "--exclude=.gitconfig", secret, n.root).Output() // it fails if there is nothing
	if len(out) > 0 {
		t.Errorf("it is in %s", out)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // of a good pattern
	seen := 0
	for _, line := range lines {
		text, _ := os.ReadFile(line) // it may have ended
		if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(line))); pid == os.Getpid() || !strings.Contains(string(text), n.root+"/") {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(line), "environ"))
		if seen++; strings.Contains(string(text)+string(environ), secret) {
			t.Errorf("it is told to %q", text)
		}
	}
	if seen == 0 {
		t.Error("no process of the network was seen")
	}
}
