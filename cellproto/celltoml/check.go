package celltoml

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

// fault is what is wrong with one value. Where it stands is added by whoever knows.
type fault struct {
	path string // the key, "auth.challenge"; set by validate
	msg  string // without the key: "is missing"
	hint string // a whole sentence
}

func faultf(hint, format string, args ...any) *fault {
	return &fault{msg: fmt.Sprintf(format, args...), hint: hint}
}

// clip bounds how much of a stranger's text is repeated, compared or printed.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// quote gives s in quotes, cut, and with control characters escaped: it may go to a terminal.
func quote(s string) string {
	if c := clip(s); len(c) < len(s) {
		return strconv.Quote(c) + "..."
	}
	return strconv.Quote(s)
}

// checkText is what every text must pass. Line ends are for the build command only.
func checkText(s string, lines bool) *fault {
	if len(s) > maxText {
		return faultf("Shorten it.", "is %d bytes long, the limit is %d", len(s), maxText)
	}
	if !utf8.ValidString(s) {
		return faultf("Save the file as UTF-8.", "is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) && !(lines && (r == '\n' || r == '\t')) {
			return faultf("Remove it; a TOML text in double quotes turns \\n, \\t and \\u0000 into such characters.",
				"contains the control character %U", r)
		}
	}
	return nil
}

func isNameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '-'
}

// checkName takes [a-z0-9][a-z0-9-]{0,62}: what is also a DNS label and a file name everywhere.
func checkName(s string) *fault {
	if !cellproto.ValidCellName(s) {
		return faultf("A name is 1 to 63 characters out of a-z, 0-9 and -, and has no - in front.", "is not a name: %s", quote(s))
	}
	return nil
}

const versionHint = `Write MAJOR.MINOR.PATCH such as "1.0.0", with "-beta.1" or "+build" behind it if needed (semver.org).`

// checkVersion takes semver 2.0.0 (https://semver.org), without a leading v.
func checkVersion(s string) *fault {
	bad := faultf(versionHint, "is not a version: %s", quote(s))
	if len(s) > 128 {
		return bad
	}
	rest, meta, hasMeta := strings.Cut(s, "+")
	core, pre, hasPre := strings.Cut(rest, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return bad
	}
	for _, p := range parts {
		if !isNumber(p) {
			return bad
		}
		// Comparing versions must not overflow, in any language.
		if _, err := strconv.ParseInt(p, 10, 64); err != nil {
			return bad
		}
	}
	if hasPre && !isDotted(pre, true) || hasMeta && !isDotted(meta, false) {
		return bad
	}
	return nil
}

// isDotted takes the dotted identifiers behind - and + of a version. Numeric identifiers of a
// pre-release have no leading zero; those of build metadata may.
func isDotted(s string, pre bool) bool {
	for _, id := range strings.Split(s, ".") {
		if id == "" {
			return false
		}
		digits := true
		for i := 0; i < len(id); i++ {
			b := id[i]
			if !isNameByte(b) && !('A' <= b && b <= 'Z') {
				return false
			}
			digits = digits && '0' <= b && b <= '9'
		}
		if pre && digits && !isNumber(id) {
			return false
		}
	}
	return true
}

// isNumber takes digits without a leading zero.
func isNumber(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s == "0" || s != "" && s[0] != '0'
}

// checkPath takes a file below the cell's directory, written with slashes.
func checkPath(s string) *fault {
	const hint = `Name a file below the cell's directory, such as "bin/calculator".`
	switch {
	case strings.HasPrefix(s, "/"):
		return faultf(hint, "must not be an absolute path: %s", quote(s))
	case hasDotDot(s):
		return faultf(hint, `must not contain "..": %s`, quote(s))
	case strings.HasSuffix(s, "/"), path.Clean(s) == ".":
		return faultf(hint, "names a directory, not a file: %s", quote(s))
	}
	return nil
}

func hasDotDot(s string) bool {
	for _, part := range strings.Split(s, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func checkSpeaks(s string) *fault {
	if s == "http" {
		return faultf(`Use "frames" (the SDK) or "jsonl" (one JSON object a line) for now.`, `"http" is reserved for later`)
	}
	return nil
}

func checkReserved(string) *fault {
	return faultf(`Leave it out, or set it to "", for now.`, "is reserved for later")
}

// checkKey takes a file name under keys/ or a key as text; which of the two it is, the reader of
// keys finds out.
func checkKey(s string) *fault {
	const hint = `Give the name of a file under keys/, such as "friend.pub", or the key itself.`
	switch {
	case strings.TrimSpace(s) == "":
		return faultf(hint, "must not be empty")
	case strings.HasPrefix(s, "/"):
		return faultf(hint, "must not be an absolute path: %s", quote(s))
	case hasDotDot(s):
		return faultf(hint, `must not contain "..": %s`, quote(s))
	}
	return nil
}

// checkURL takes what a stranger's machine may be told to fetch from. Whether file:// is honoured is
// decided where it is fetched.
func checkURL(s string) *fault {
	const hint = `Give a URL that begins with "https://", such as "https://example.org/calculator.git".`
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(s, "file://")
	}
	if !ok || rest == "" || strings.ContainsAny(s, " \"'`\\<>") {
		return faultf(hint, "is not a URL that can be fetched: %s", quote(s))
	}
	if host, _, _ := strings.Cut(rest, "/"); strings.Contains(host, "@") {
		return faultf("Remove the user and password from the URL: cell.toml is published.", "must not contain a password: a URL with user@host")
	}
	return nil
}

// checkRef takes the names that git check-ref-format takes, and nothing that git could read as an
// option or as a range of revisions.
func checkRef(s string) *fault {
	bad := strings.HasPrefix(s, "-") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") ||
		strings.HasSuffix(s, ".") || strings.HasSuffix(s, ".lock") || strings.Contains(s, "..") ||
		strings.Contains(s, "//") || strings.Contains(s, "@{") || strings.ContainsAny(s, " ~^:?*[\\") || len(s) > 255
	if bad {
		return faultf(`Give a tag, branch or commit, such as "v1.0.0".`, "is not a git reference: %s", quote(s))
	}
	return nil
}

func checkBLAKE3(s string) *fault {
	ok := len(s) == 64
	for i := 0; ok && i < len(s); i++ {
		ok = '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
	}
	if !ok {
		return faultf("b3sum prints it.", "is not 64 lower-case hex digits: %s", quote(s))
	}
	return nil
}

// checkDep takes the four ways to name another cell. Only a path and a repository can be told apart without
// asking anyone; an absolute path would break on every other machine.
func checkDep(s string) *fault {
	const hint = `Give "../path", a CID, a name, or a git URL with "@ref".`
	switch {
	case strings.TrimSpace(s) == "":
		return faultf(hint, "must not be empty")
	case strings.HasPrefix(s, "/"):
		return faultf(hint, "must not be an absolute path: %s", quote(s))
	case strings.HasPrefix(s, "-"):
		return faultf(hint, "must not begin with -: %s", quote(s))
	}
	_, _, f := gitDep(s)
	return f
}

func checkRemote(s string) *fault {
	if len(s) < 2 || s[0] != '/' {
		return faultf(`Give the absolute path of a Unix socket ("/run/cells/echo.sock") or a multiaddr ("/ip4/...").`,
			"is neither an absolute path nor a multiaddr: %s", quote(s))
	}
	return nil
}

// checkStatic takes a multiaddr, a URL, or a path: relative ones begin at the cell's directory.
func checkStatic(s string) *fault {
	const hint = `Give a multiaddr that ends in /p2p/PEER, or the URL or path of an advert file (cache/advert.json of a cell).`
	switch {
	case strings.TrimSpace(s) == "":
		return faultf(hint, "must not be empty")
	case strings.Contains(s, "://") && !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://"):
		return faultf(hint, "is not an http or https URL: %s", quote(s))
	}
	return nil
}

// checkMultiaddr looks at the shape only: this package links no multiaddr, the host parses it.
func checkMultiaddr(s string) *fault {
	if len(s) < 2 || s[0] != '/' || strings.Contains(s, "//") || strings.ContainsAny(s, " ,") {
		return faultf(`A multiaddr begins with a slash: "/ip4/0.0.0.0/tcp/0".`, "is not a multiaddr: %s", quote(s))
	}
	return nil
}
