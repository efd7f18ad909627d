package signed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
)

// Limits on single fields; the objects as a whole are bounded in cellproto.
const (
	maxVersion = 64
	maxURL     = 2048
	maxRef     = 255
	maxBuild   = 1024
	maxGPU     = 128
	maxLicense = 256
	maxSubject = 128 // also of a peer ID and of a cell's name or CID as text
)

// Digest is a BLAKE3-256. In CBOR it is 32 bytes, in JSON 64 hexadecimal digits.
type Digest [32]byte

// String gives lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of String; it takes lower-case digits only.
func (d *Digest) UnmarshalText(text []byte) error {
	h, err := cellproto.ParseSchemaHash(string(text))
	if err != nil {
		return cellproto.Errorf("parse digest", cellproto.BadInput, "%.80q is not 64 lower-case hexadecimal digits", text)
	}
	*d = Digest(h)
	return nil
}

// Validate says whether a manifest's fields keep their forms and bounds, as SealManifest and
// OpenManifest want it; the lists have to be in order. Kinds: BadInput, and TooLarge for more than
// MaxManifestEntries in all lists together.
func (m Manifest) Validate() error { return m.validate("check manifest") }

func (m Manifest) validate(op string) error {
	if n := len(m.Accepted) + len(m.Artefacts); n > cellproto.MaxManifestEntries {
		return cellproto.Errorf(op, cellproto.TooLarge, "%d list entries, the limit is %d", n, cellproto.MaxManifestEntries)
	}
	for _, f := range []struct {
		name string
		err  error
	}{
		{"v", checkV(m.V)},
		{"name", checkName(m.Name)},
		{"version", checkSemver(m.Version)},
		{"owner", checkPeer(string(m.Owner))},
		{"created", checkInt(m.Created, 1)},
		{"prev", optional(m.Prev, checkManifestCID)},
		{"schema", m.checkSchema()},
		{"accepted", checkAscending(m.Accepted)},
		{"artefacts", m.checkArtefacts()},
		{"source", m.Source.check()},
		{"speaks", checkSpeaks(m.Speaks)},
		{"challenge", checkChallenge(m.Challenge)},
		{"alone", checkAlone(m.Alone)},
		{"resources", m.Resources.check()},
		{"slo.max_p99_ms", checkInt(m.SLO.MaxP99Ms, 0)},
		{"slo.min_bandwidth_mbps", checkInt(m.SLO.MinBandwidthMbps, 0)},
		{"privacy", checkPlacement(m.Privacy)},
		{"license", checkLine(m.License, maxLicense)},
	} {
		if f.err != nil {
			return cellproto.Errorf(op, cellproto.BadInput, "%s: %w", f.name, f.err)
		}
	}
	return nil
}

// checkSchema allows a hash without a link: the schema of a cell that shows it to nobody.
func (m Manifest) checkSchema() error {
	if m.Schema.Defined() && m.SchemaHash.IsZero() {
		return errors.New("linked, but its hash is missing")
	}
	return optional(m.Schema, checkHash)
}

func (m Manifest) checkArtefacts() error {
	for i, a := range m.Artefacts {
		switch {
		case !validPlatform(a.OS) || !validPlatform(a.Arch):
			return fmt.Errorf("%.40q/%.40q is not an os and arch", a.OS, a.Arch)
		case i > 0 && compareArtefacts(m.Artefacts[i-1], a) >= 0:
			return fmt.Errorf("%s/%s: there is one for each os and arch, in ascending order", a.OS, a.Arch)
		case a.BLAKE3 == Digest{}:
			return fmt.Errorf("%s/%s: no blake3", a.OS, a.Arch)
		}
		if err := first(checkHash(a.CID.Cid), checkInt(a.Size, 1)); err != nil {
			return fmt.Errorf("%s/%s: %w", a.OS, a.Arch, err)
		}
	}
	return nil
}

func (s *Source) check() error {
	if s == nil {
		return nil
	}
	if err := checkRepo(s.Repo); err != nil {
		return err
	}
	if err := checkRef(s.Ref); err != nil {
		return err
	}
	if n := len(s.Commit); n != 0 && n != 40 && n != 64 || strings.Trim(s.Commit, "0123456789abcdef") != "" {
		return fmt.Errorf("%.80q is not a commit in 40 or 64 lower-case hexadecimal digits", s.Commit)
	}
	return checkLine(s.Build, maxBuild)
}

func (r Resources) check() error {
	return first(checkInt(r.CPUMilli, 0), checkInt(r.MemoryBytes, 0), checkInt(r.Concurrency, 0), checkLine(r.GPU, maxGPU))
}

// first gives the first error; errors.Join would break a message into lines.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkV(v uint64) error {
	if v != version {
		return fmt.Errorf("%d is not %d", v, version)
	}
	return nil
}

func checkName(s string) error {
	if !cellproto.ValidCellName(s) {
		return fmt.Errorf("%.80q is not the name of a cell", s)
	}
	return nil
}

func checkPeer(s string) error {
	_, err := parsePeer(s)
	return err
}

func checkInt(v, least int64) error {
	if v < least || v > maxInt {
		return fmt.Errorf("%d is not within %d and %d", v, least, maxInt)
	}
	return nil
}

func optional(l Link, check func(cid.Cid) error) error {
	if !l.Defined() {
		return nil
	}
	return check(l.Cid)
}

func checkAscending(hashes []cellproto.SchemaHash) error {
	for i, h := range hashes {
		if h.IsZero() || i > 0 && compareHashes(hashes[i-1], h) >= 0 {
			return errors.New("hashes are not zero, in ascending order, each once")
		}
	}
	return nil
}

// checkLine allows one line of text without control characters, perhaps an empty one.
func checkLine(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%d bytes, the limit is %d", len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return fmt.Errorf("%.80q is not one line of text", s)
	}
	return nil
}

// checkRepo allows URLs that git may be given. Other schemes start programs of the user's, and a
// password in a public object is a mistake.
func checkRepo(s string) error {
	if err := checkLine(s, maxURL); err != nil {
		return err
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	switch {
	case u.User != nil:
		return errors.New("a published URL with a user in it")
	case u.Scheme == "https" && u.Host != "", u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return nil
	}
	return fmt.Errorf("%.80q is neither an https nor a file URL", s)
}

// checkRef refuses what git would take for an option.
func checkRef(s string) error {
	if strings.HasPrefix(s, "-") || strings.ContainsAny(s, " ~^:?*[\\") || strings.Contains(s, "..") {
		return fmt.Errorf("%.80q is not the name of a ref", s)
	}
	return checkLine(s, maxRef)
}

func checkPlacement(s string) error {
	switch s {
	case "public", "friends", "local":
		return nil
	}
	return fmt.Errorf("%.80q is none of public, friends, local", s)
}

// checkSpeaks has one form for each way: frames is what is not said.
func checkSpeaks(s string) error {
	if s != "" && s != "jsonl" {
		return fmt.Errorf("%.80q is not jsonl", s)
	}
	return nil
}

// checkChallenge has one form for each, too: simple is what is not said.
func checkChallenge(s string) error {
	switch s {
	case "", cellproto.AuthNone, cellproto.AuthSig:
		return nil
	}
	return fmt.Errorf("%.80q is neither none nor sig", s)
}

func checkAlone(a Alone) error {
	switch a {
	case "", AloneOwner, AloneCalls, AloneState:
		return nil
	}
	return fmt.Errorf("%.80q is none of owner, calls, state", string(a))
}

func validPlatform(s string) bool {
	if len(s) < 1 || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '_' || c == '-')) {
			return false
		}
	}
	return true
}

// checkSemver checks the form of semver 2.0.0.
func checkSemver(s string) error {
	bad := fmt.Errorf("%.80q is not a version as 1.2.3 or 1.2.3-rc.1+build", s)
	if len(s) > maxVersion {
		return bad
	}
	rest, build, hasBuild := strings.Cut(s, "+")
	core, pre, hasPre := strings.Cut(rest, "-")
	if hasBuild && !identifiers(build, false) || hasPre && !identifiers(pre, true) {
		return bad
	}
	numbers := strings.Split(core, ".")
	for _, n := range numbers {
		if !digits(n) || len(n) > 1 && n[0] == '0' {
			return bad
		}
	}
	if len(numbers) != 3 {
		return bad
	}
	return nil
}

func identifiers(s string, numbersPlain bool) bool {
	for _, id := range strings.Split(s, ".") {
		for i := range len(id) {
			if c := id[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-') {
				return false
			}
		}
		if id == "" || numbersPlain && len(id) > 1 && id[0] == '0' && digits(id) {
			return false
		}
	}
	return true
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
