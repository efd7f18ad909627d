package celltest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// Who is named by the owner is asked at once: it takes no DHT, not even one that cannot be joined.
func TestStaticListWithoutDHT(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("calculator")
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Edit("", "[network]\nstatic = [\""+c.Status().Addrs[0]+"\"]\n"+
		"bootstrap = [\"/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC\"]\n")
	caller.Start()
	reply, meta, err := caller.Use(t.Context(), published.CID, "add", "3", "4")
	if err != nil || string(reply) != "7" || meta.Source != "static" {
		t.Fatalf("%s from %q: %v", reply, meta.Source, err)
	}
}

// The same by the provider's advert file, or its URL, which is there before anybody has asked the provider for anything,
// and again after a restart. On the public network too, where a private address is dialed only if the owner named it.
func TestStaticListByAdvertFile(t *testing.T) {
	t.Parallel()
	const nowhere = "bootstrap = [\"/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC\"]\n"
	for _, network := range []string{"private", "public"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			if network == "public" {
				n.env = append(n.env, cellproto.EnvNetwork+"=public")
			}
			c := n.Example("calculator")
			c.Edit("", "\n[network]\n"+nowhere)
			c.Start()
			published := c.Publish()
			file := filepath.Join(c.Dir, "cache", "advert.json")
			web := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(file))))
			defer web.Close()
			byFile, byURL := n.Headless("by-file"), n.Headless("by-url")
			byFile.Edit("", "[network]\nstatic = [\""+byFile.relative(file)+"\"]\n"+nowhere)
			byURL.Edit("", "[network]\nstatic = [\""+web.URL+"/advert.json\"]\n"+nowhere)
			for _, caller := range []*Cell{byFile, byURL} {
				caller.Start()
				reply, meta, err := caller.Use(t.Context(), published.CID, "add", "3", "4")
				if err != nil || string(reply) != "7" || meta.Source != "static" {
					t.Errorf("by %s: %s from %q: %v", filepath.Base(caller.Dir), reply, meta.Source, err)
				}
				caller.Stop()
			}
			c.Stop()
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			c.Start()
			Eventually(t, "the advert file is written again", func() bool { _, err := os.Stat(file); return err == nil })
		})
	}
}

// --timeout is for the whole call: input that does not end is no reason to wait longer.
func TestTimeoutOfInputWithoutEnd(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	digest, calculator := n.Example("digest"), n.Example("calculator")
	digest.Start()
	calculator.Start()
	body, args := digest.Publish().CID, calculator.Publish().CID
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(body, 1)
	caller.AwaitProviders(args, 1)
	for _, call := range [][2]string{{calculator.Dir, "add"}, {digest.Dir, "sha256"}, {args, "add"}, {body, "sha256"}} {
		t.Run(call[1]+" "+filepath.Base(call[0]), func(t *testing.T) {
			t.Parallel()
			in, held, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			defer in.Close()
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(Bin(t), "cellctl"), "use", call[0], call[1], "--input", "-", "--timeout", "1s")
			cmd.Dir, cmd.Env, cmd.Stdin = caller.Dir, n.Env(), in
			out, _ := cmd.CombinedOutput() // the code says it
			if code := cmd.ProcessState.ExitCode(); code != 5 {
				t.Errorf("exit code %d, want 5\n%s", code, out)
			}
		})
	}
}

// A key's first answer is that of its repeats, whatever has become of the program's own memory.
func TestKeysAreRemembered(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("counter")
	c.Edit(`placement = "local"`, `placement = "public"`)
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	sum := func(from *Cell, target, want string, args ...string) {
		t.Helper()
		if got := from.Must(append([]string{"use", target, "increment"}, args...)...); got != want {
			t.Errorf("increment %v is %s, want %s", args, got, want)
		}
	}
	sum(c, ".", "1")
	sum(c, ".", "2", "--key", "k")
	sum(c, ".", "2", "--key", "k")
	sum(caller, published.CID, "3", "--key", "theirs")
	if err := os.Remove(filepath.Join(c.Dir, "data", "counter.json")); err != nil {
		t.Fatal(err)
	}
	sum(c, ".", "2", "--key", "k")
	sum(caller, published.CID, "3", "--key", "theirs")
	sum(c, ".", "1")
	r := c.Ctl("use", ".", "increment", "by=5", "--key", "k")
	if r.Code != 2 || !strings.Contains(r.Stderr, "key was used before") {
		t.Errorf("exit code %d\n%s", r.Code, r.Stderr)
	}
}

// Who sends a file does not lose a call to a program that hangs, whose nucleus answers pings: the file is read again.
func TestFileLeavesAHangingProgram(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("digest")
	c.Start()
	published := c.Publish()
	other := n.Copy(c)
	other.Start()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 2)
	body := strings.Repeat("0123456789abcdef", 64<<10)
	caller.write("input", body, 0o600)
	send := func() (provider, sum string) {
		t.Helper()
		var reply struct {
			Provider string
			Reply    struct{ SHA256 string }
		}
		text := caller.Must("use", published.CID, "sha256", "--input", "input", "--timeout", "12s", "--json")
		if err := json.Unmarshal([]byte(text), &reply); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return reply.Provider, reply.Reply.SHA256
	}
	first, want := send()
	hangs := c
	if first != c.Status().PeerID {
		hangs = other
	}
	pid := hangs.Status().ProgramPID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	if provider, sum := send(); provider == first || sum != want {
		t.Errorf("%s has answered %q, want %q by another one than %s", provider, sum, want, first)
	}
}

// A nucleus reads the file that a request names, if it is the one that is meant, and the stream if it is not.
func TestFileIsReadByTheNucleus(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("digest")
	c.Start()
	c.write("input", "of the file", 0o600)
	f, err := os.Open(filepath.Join(c.Dir, "input"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	meant := ctl.FileOf(f)
	other := *meant
	other.Size++
	for want, file := range map[string]*ctl.File{"of the file": meant, "of the stream": &other, "": nil} {
		if file == nil {
			want = "of the stream"
		}
		req := ctl.UseRequest{Target: c.Dir, Func: "echo", Timeout: Patience, Body: ctl.BodyStream, File: file}
		r, err := (&ctl.Client{Dir: c.Dir}).Use(t.Context(), req, strings.NewReader("of the stream"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); string(got) != want || err != nil {
			t.Errorf("%+v: it was sent %q, %v; want %q", file, got, err, want)
		}
		r.Close()
	}
}

// A version that somebody else has signed is not one of the cell's: its history ends there and says so.
func TestHistoryOfTwoOwners(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Start()
	old := c.Publish()
	c.Stop()
	if err := os.Remove(filepath.Join(n.root, "home", "keys", "account.key")); err != nil {
		t.Fatal(err)
	}
	c.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	c.Start()
	published := c.Publish()
	var rows []ctl.HistoryRow
	if err := json.Unmarshal([]byte(c.Must("history", published.CID, "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].CID != published.CID || !strings.Contains(rows[0].Note, old.CID+", is signed by another owner") {
		t.Errorf("history %+v", rows)
	}
	if r := c.Ctl("history"); r.Code != 0 || strings.Contains(r.Stdout, old.CID) || !strings.Contains(r.Stderr, "another owner") {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// A cell whose tokens hold for a moment only is called again and again, with bodies too.
func TestShortTokens(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	c := n.Example("digest")
	c.Edit(`challenge = "simple"`, "challenge = \"simple\"\ntoken_ttl = 1")
	c.Start()
	published := c.Publish()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(published.CID, 1)
	want := fmt.Sprintf("%x", sha256.Sum256([]byte("abc")))
	caller.write("data", "abc", 0o644)
	for range 3 {
		if got := caller.Must("use", published.CID, "sha256", "--input", "data"); !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
		given := time.Now()
		Eventually(t, "the provider's token has expired", func() bool { return time.Since(given) > 1100*time.Millisecond })
	}
}
