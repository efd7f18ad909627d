package mirror

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/celldnet/celld/cellproto"
)

// reach is by which ways git may fetch, and as whom. What a stranger's manifest names is fetched as
// nobody; what the person has named, in their name, if that is asked for.
type reach struct {
	protocols []string
	config    []string // arguments
	env       []string
}

// anybody fetches what others have named.
func (s *Store) anybody() reach {
	r := reach{protocols: []string{"https"}}
	if s.cfg.FileRepos {
		r.protocols = append(r.protocols, "file")
	}
	return r
}

// lookupTimeout bounds the asking of the resolver.
const lookupTimeout = 10 * time.Second

// stranger fetches what anybody may have named: nothing of this machine's own network, which a
// stranger could reach by it else, whatever the name resolves to by the time, and wherever a server sends git to.
func (s *Store) stranger(ctx context.Context, repo string) (reach, error) {
	r := s.anybody()
	u, err := url.Parse(repo)
	if err != nil || u.Scheme != "https" {
		return r, err // allows says whether that will do
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return r, cellproto.Errorf("look up "+u.Hostname(), cellproto.KindOf(err), "%w", err)
	}
	pin, err := pinned(u, addrs)
	if err != nil {
		return r, err
	}
	r.config = append(r.config, "-c", "http.followRedirects=false")
	if net.ParseIP(u.Hostname()) == nil {
		r.config = append(r.config, "-c", "http.curloptResolve="+pin)
	}
	return r, nil
}

// pinned has git go to the addresses of a URL's host that were found, all of which have to be public.
func pinned(u *url.URL, addrs []netip.Addr) (string, error) {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	var list []string
	for _, a := range addrs {
		a = a.Unmap()
		m, err := manet.FromIP(a.AsSlice())
		if err != nil || !manet.IsPublicAddr(m) {
			return "", cellproto.Errorf("clone "+u.Redacted(), cellproto.Denied, "its host is not on the internet")
		}
		list = append(list, a.String())
	}
	return u.Hostname() + ":" + port + ":" + strings.Join(list, ","), nil
}

// passed are the variables of a person's environment that git and ssh need to get out.
var passed = []string{
	"SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
}

// person fetches what this machine's user has named: also by ssh, with their agent and their known
// hosts, and through their proxy. ssh asks nobody anything.
func (s *Store) person() reach {
	r := s.anybody()
	r.protocols = append(r.protocols, "ssh")
	r.env = append(r.env, "GIT_SSH_COMMAND=ssh -oBatchMode=yes -oClearAllForwardings=yes -oPermitLocalCommand=no")
	for _, v := range s.environ() {
		if name, _, ok := strings.Cut(v, "="); ok && slices.Contains(passed, name) {
			r.env = append(r.env, v)
		}
	}
	return r
}

func (s *Store) environ() []string {
	if s.cfg.Environ != nil {
		return s.cfg.Environ
	}
	return os.Environ()
}

// allows says whether a URL may be fetched. git checks once more.
func (r reach) allows(op, repo string) error {
	scheme, _, ok := strings.Cut(repo, "://")
	if !ok {
		scheme = "ssh" // user@host:path
	}
	if slices.Contains(r.protocols, scheme) {
		return nil
	}
	return cellproto.Errorf(op, cellproto.Denied, "only %s is cloned", strings.Join(r.protocols, " or "))
}

const (
	credentialTimeout = 20 * time.Second // for a helper to answer
	maxCredential     = 16 << 10
)

// withCredential asks the person's own git for a credential for an https URL, of whichever helper they have set
// up, and gives a reach that has it: in the environment of one git, for that host alone. It is stored
// nowhere, and no helper is told whether it was good. ok is false if there is none.
func (r reach) withCredential(ctx context.Context, environ []string, repo string) (as reach, ok bool) {
	u, err := url.Parse(repo)
	if err != nil || u.Scheme != "https" || strings.ContainsAny(repo, "\n\x00") {
		return r, false
	}
	ctx, cancel := context.WithTimeout(ctx, credentialTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "credential", "fill")
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "GIT_") && !strings.HasPrefix(name, "GIT_CONFIG") || name == "SSH_ASKPASS"
	})
	cmd.Env = append(cmd.Env, "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "SSH_ASKPASS=/bin/false", "GCM_INTERACTIVE=never")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader("protocol=https\nhost=" + u.Host + "\npath=" + strings.TrimPrefix(u.Path, "/") + "\n\n")
	var out bytes.Buffer
	cmd.Stdout = &capped{&out, maxCredential}
	if cmd.Run() != nil { // nobody knows one
		return r, false
	}
	var user, password string
	for line := range strings.Lines(out.String()) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "username":
			user = value
		case "password":
			password = value
		}
	}
	if user == "" || password == "" {
		return r, false
	}
	// The shell has no part in the words: git's own shell puts the variables in.
	const helper = `!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$CELL_GIT_USER" "$CELL_GIT_PASSWORD"; }; f`
	as = r
	as.config = append(slices.Clone(r.config), "-c", "credential.https://"+u.Host+".helper="+helper)
	as.env = append(slices.Clone(r.env), "CELL_GIT_USER="+user, "CELL_GIT_PASSWORD="+password)
	return as, true
}

// wantsCredential reports that git has failed because nobody has said who it is.
func wantsCredential(err error) bool {
	text := err.Error()
	for _, says := range []string{"could not read Username", "could not read Password", "Authentication failed", "error: 401", "error: 403", "error: 404", "not found"} {
		if strings.Contains(text, says) {
			return true
		}
	}
	return false
}
