package celltoml

import "strings"

// Repo is a git repository that a person names under [deps], and what of it.
type Repo struct {
	URL string // https://, ssh:// or user@host:path; file:// in tests
	Ref string // tag, branch or commit
}

// GitDep reads a dependency by git: "URL@REF", with "git " before it where the URL could be taken for
// something else. ok is false for what is none; the error's kind is BadInput.
func GitDep(s string) (repo Repo, ok bool, err error) {
	repo, ok, f := gitDep(s)
	if f != nil {
		f.path = "deps"
		return Repo{}, true, f.err("read cell.toml")
	}
	return repo, ok, nil
}

func gitDep(s string) (Repo, bool, *fault) {
	rest, named := strings.CutPrefix(s, "git ")
	if !named && !strings.Contains(rest, "://") && !strings.HasSuffix(rest, ".git") && !strings.Contains(rest, ".git@") {
		return Repo{}, false, nil
	}
	repo, f := splitRepo(strings.TrimSpace(rest))
	return repo, true, f
}

// splitRepo cuts the reference off a URL. An @ before the path belongs to the host.
func splitRepo(s string) (Repo, *fault) {
	const hint = `Give the URL and what of it, such as "https://example.org/calculator.git@v1.0.0".`
	at := strings.LastIndexByte(s, '@')
	if at <= pathBegin(s) {
		return Repo{}, faultf(hint, "names no tag, branch or commit: %s", quote(s))
	}
	r := Repo{URL: s[:at], Ref: s[at+1:]}
	if r.Ref == "" {
		return Repo{}, faultf(hint, "names no tag, branch or commit: %s", quote(s))
	}
	if f := checkRef(r.Ref); f != nil {
		return Repo{}, f
	}
	return r, checkRepo(r.URL)
}

// pathBegin gives where the path of a URL begins, or of user@host:path.
func pathBegin(s string) int {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return len(s) - len(rest) + i
		}
		return len(s)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return i
	}
	return len(s)
}

// checkRepo takes what a person's own git may fetch from. Nothing of it may look like an option, to git
// or to ssh.
func checkRepo(s string) *fault {
	const hint = `Give a URL that begins with "https://" or "ssh://", or user@host:path.`
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "file://") {
		return checkURL(s)
	}
	rest, ssh := strings.CutPrefix(s, "ssh://")
	sep := "/"
	if !ssh {
		sep = ":"
	}
	host, path, ok := strings.Cut(rest, sep)
	user, name, hasUser := strings.Cut(host, "@")
	if !hasUser {
		user, name = "", host
	}
	bad := !ok || path == "" || name == "" || strings.Contains(name, "@") || !ssh && (!hasUser || strings.Contains(host, "/")) ||
		strings.HasPrefix(user, "-") || strings.HasPrefix(name, "-") || strings.HasPrefix(path, "-") || strings.HasPrefix(path, ":") ||
		strings.ContainsAny(s, " \t\"'`\\<>$;|&")
	if bad {
		return faultf(hint, "is not a URL that can be fetched: %s", quote(s))
	}
	if strings.Contains(user, ":") {
		return faultf("Remove the password from the URL: cell.toml is published.", "must not contain a password")
	}
	return nil
}
