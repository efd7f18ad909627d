package celltoml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

func TestGood(t *testing.T) {
	want := map[string]func(*Config){
		"minimal.toml": func(c *Config) { c.Cell.Name = "a" },
		"headless.toml": func(c *Config) {
			c.Cell.Name, c.Cell.Version = "router", "2.0.0-rc.1+build.007"
			c.Network = Network{
				Name:      "home",
				Listen:    []string{},
				Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC"},
				PSK:       "keys/home.psk",
			}
		},
		"full.toml": func(c *Config) {
			*c = Config{
				Cell: Cell{Name: "calculator", Version: "1.2.3", Binary: "bin/calculator", Speaks: JSONL, State: StateKept,
					Build: "go generate .\ngo build -o bin/calculator .\n"},
				LifeCycle: LifeCycle{FreezeAfter: 45 * time.Second, IdleTimeout: 90 * time.Minute, NucleusTimeout: 500 * time.Millisecond, RetireAfter: 3 * time.Hour, AutoCleanup: true},
				Auth: Auth{Challenge: ChallengeSig, TokenTTL: time.Minute,
					AllowedKeys: []string{"ann.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI/example ann@example.org"}},
				Resources: Resources{CPU: 2, Memory: 2 << 20, Disk: 3 << 20, Concurrency: 512},
				Caller:    Caller{SpotCheck: 0.25},
				Artefact: Artefact{Type: ArtefactBinary, Repo: "https://example.org/calculator.git", Ref: "v1.2.3",
					BLAKE3: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
				Deps: map[string]string{"mathlib": "../mathlib",
					"far": "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"},
				RemoteCells: map[string]string{"echo": "/run/cells/echo.sock"},
				Patch:       Patch{TrustedKeys: []string{"owner.pub"}},
				Network: Network{Name: "lab", Listen: []string{"/ip6/::/tcp/4001"}, Bootstrap: []string{}, Static: []string{"../calculator/cache/advert.json"}, MDNS: true,
					PSK: "keys/lab.psk"},
				Privacy: Privacy{Placement: PlacementFriends},
				Sandbox: Sandbox{Tier: SandboxAuto},
			}
		},
	}
	for _, name := range glob(t, "testdata/good/*.toml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			change := want[filepath.Base(name)]
			if change == nil {
				t.Fatal("the test does not say what this file means")
			}
			exp := Default()
			change(exp)
			data := readFile(t, name)
			for _, text := range []string{string(data), strings.ReplaceAll(string(data), "\n", "\r\n")} {
				got, err := Parse([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, exp) {
					t.Errorf("got  %+v\nwant %+v", got, exp)
				}
			}
		})
	}
}

// TestBad reads every file that must fail; its first line says how.
func TestBad(t *testing.T) {
	for _, name := range glob(t, "testdata/bad/*.toml") {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".toml"), func(t *testing.T) {
			data := readFile(t, name)
			first, _, _ := strings.Cut(string(data), "\n")
			want, ok := strings.CutPrefix(first, "# error: ")
			if !ok {
				t.Fatalf("the first line is not a comment that states the error: %q", first)
			}
			mustFail(t, data, strings.TrimSpace(want), cellproto.BadInput)
		})
	}
}

func mustFail(t *testing.T, data []byte, want string, kind cellproto.Kind) {
	t.Helper()
	c, err := Parse(data)
	if err == nil {
		t.Fatalf("no error, but %+v", c)
	}
	var e *cellproto.Error
	if !errors.As(err, &e) || c != nil {
		t.Fatalf("not a *cellproto.Error alone: %T, %v", err, c)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if !strings.HasPrefix(e.Op, "read cell.toml") || e.Kind != kind {
		t.Errorf("op %q, kind %v", e.Op, e.Kind)
	}
	if !strings.HasSuffix(e.Hint, ".") && !strings.HasSuffix(e.Hint, "?") {
		t.Errorf("the hint is not a sentence: %q", e.Hint)
	}
}

// TestLimits makes the files that are too big to keep.
func TestLimits(t *testing.T) {
	const head = "[cell]\nname = \"a\"\n"
	pad := func(n int) []byte { return []byte(head + strings.Repeat("#", n-len(head))) }
	if _, err := Parse(pad(cellproto.MaxCellToml)); err != nil {
		t.Errorf("a file of exactly the limit: %v", err)
	}
	mustFail(t, pad(cellproto.MaxCellToml+1), "read cell.toml: 65537 bytes, the limit is 65536", cellproto.TooLarge)
	mustFail(t, []byte(head+"x = "+strings.Repeat("[", 20000)), "cell.toml:3: ", cellproto.BadInput)

	var many strings.Builder
	many.WriteString(head + "[deps]\n")
	for i := range maxNames {
		fmt.Fprintf(&many, "d%d = \"x\"\n", i)
	}
	if _, err := Parse([]byte(many.String())); err != nil {
		t.Errorf("as many entries as allowed: %v", err)
	}
	mustFail(t, []byte(many.String()+"more = \"x\"\n"), "cell.toml:3: deps has 257 entries, the limit is 256", cellproto.BadInput)
	mustFail(t, []byte(head+strings.Repeat("k", 10000)+" = 1"), `kkkkkkkk"... in [cell]`, cellproto.BadInput)
}

// TestTooBigIsNotRead shows that the size is checked before anything else looks at the text.
func TestTooBigIsNotRead(t *testing.T) {
	data := []byte(strings.Repeat("x", 1<<20))
	if n := testing.AllocsPerRun(10, func() { _, _ = Parse(data) }); n > 20 {
		t.Errorf("%v allocations to refuse a large file", n)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	c, err := Parse(readFile(t, "testdata/good/full.toml"))
	if err != nil {
		t.Fatal(err)
	}
	def := Default()
	same := map[string]bool{"resources.gpu": true, "artefact.url": true, "artefact.signature": true, "network.bootstrap": true, "network.mdns": true}
	for i := range keys {
		k := &keys[i]
		if !same[k.path] && reflect.DeepEqual(k.at(c), k.at(def)) {
			t.Errorf("full.toml leaves %s at its default", k.path)
		}
	}
}

func TestKeysAreInOrder(t *testing.T) {
	seen := map[string]bool{}
	for i := range keys {
		k := &keys[i]
		if seen[k.path] || find(k.path) != k {
			t.Errorf("%s is there twice", k.path)
		}
		seen[k.path] = true
		if got, want := reflect.TypeOf(k.at(Default())).String(), map[kind]string{
			text: "*string", flag: "*bool", integer: "*int", number: "*float64", duration: "*time.Duration",
			size: "*int64", list: "*[]string", names: "*map[string]string",
		}[k.kind]; got != want {
			t.Errorf("%s goes to %s, its kind needs %s", k.path, got, want)
		}
		if k.kind >= integer && k.kind <= names && k.max == 0 {
			t.Errorf("%s has no limit", k.path)
		}
	}
}

func TestDefaultLacksOnlyTheName(t *testing.T) {
	c := Default()
	err := c.Validate()
	if err == nil || err.Error() != "check cell.toml: cell.name is missing" {
		t.Fatalf("got %v", err)
	}
	c.Cell.Name = "a"
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c.Deps = map[string]string{"b": "\x1b[2J", "a": "\x00"}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "deps.a contains the control character U+0000") {
		t.Fatalf("got %v", err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"nmae", "name", 1},
		{"kitten", "sitting", 3}, {"idle_timout", "idle_timeout", 1}, {"ab", "ba", 1}, {"abcd", "badc", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, v := range []string{"0.0.0", "1.2.3", "10.20.30", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-0.3.7", "1.0.0-x-y-z.--",
		"1.0.0+20130313144700", "1.0.0-beta+exp.sha.5114f85", "1.0.0+21AF26D3----117B344092BD", "1.0.0-0A.is.legal", "1.0.0+0.build.1-rc.10000aaa-kk-0.1"} {
		if f := checkVersion(v); f != nil {
			t.Errorf("%s: %s", v, f.msg)
		}
	}
	for _, v := range []string{"", "1", "1.2", "a.b.c", "1.2.3.4", "1.2.3-", "1.2.3+", "1.2.3-0123", "1.2.3-0123.0123", "1.2.3+.",
		"1.1.2+.123", "1.0.0-alpha_beta", "1.0.0-alpha..", "01.1.1", "1.01.1", "1.1.01", "1.2-SNAPSHOT", "-1.0.3-gamma+b7718", "+justmeta",
		"1.1.1+a+b", "1.0.0 ", "1.0.0-" + strings.Repeat("a", 200)} {
		if f := checkVersion(v); f == nil {
			t.Errorf("%q is taken", v)
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0B": 0, "1B": 1, "2KiB": 2048, "256MiB": 256 << 20, "4GiB": 4 << 30, "8589934591GiB": 8589934591 << 30} {
		if got, f := parseSize(s); f != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, f)
		}
	}
	for _, s := range []string{"", "B", "1", "1KB", "1 KiB", "1.0KiB", "8589934592GiB", "0x10B", "1_0B", "-0B", "1KiBB"} {
		if got, f := parseSize(s); f == nil {
			t.Errorf("%q is taken as %d", s, got)
		}
	}
}

func TestURLsAndRefs(t *testing.T) {
	for _, s := range []string{"https://example.org/a.git", "file:///srv/a.git", "https://example.org/@scope/a"} {
		if f := checkURL(s); f != nil {
			t.Errorf("%s: %s", s, f.msg)
		}
	}
	for _, s := range []string{"http://example.org/a", "https://", "-u", "ssh://git@example.org/a", "https://a b", "HTTPS://example.org/a"} {
		if f := checkURL(s); f == nil {
			t.Errorf("%s is taken", s)
		}
	}
	for _, s := range []string{"v1.0.0", "main", "feature/x", "refs/tags/v1", "0123456789abcdef0123456789abcdef01234567"} {
		if f := checkRef(s); f != nil {
			t.Errorf("%s: %s", s, f.msg)
		}
	}
	for _, s := range []string{"-v", "a..b", "a b", "/a", "a/", "a//b", "a.lock", "a@{1}", "a^", "a:b", "a."} {
		if f := checkRef(s); f == nil {
			t.Errorf("%s is taken", s)
		}
	}
}

var opLine = regexp.MustCompile(`^read cell\.toml(?::([0-9]+))?$`)

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.toml", "testdata/bad/*.toml"} {
		for _, name := range glob(f, pattern) {
			f.Add(readFile(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := string(data)
		c, err := Parse(data)
		again, err2 := Parse(data)
		if string(data) != before {
			t.Fatal("Parse changed its input")
		}
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Fatalf("parsed, but not valid: %v", err)
			}
			if !reflect.DeepEqual(c, again) {
				t.Fatalf("two answers: %+v, %+v", c, again)
			}
			return
		}
		if c != nil || err2 == nil || err.Error() != err2.Error() {
			t.Fatalf("two answers: %v, %v", err, err2)
		}
		var e *cellproto.Error
		if !errors.As(err, &e) || e.Kind != cellproto.BadInput && e.Kind != cellproto.TooLarge || e.Hint == "" {
			t.Fatalf("not an error for a person: %#v", err)
		}
		if strings.Contains(err.Error(), "runtime error") || strings.Contains(err.Error(), "not a slice of") {
			t.Fatalf("a panic that Parse caught: %v", err)
		}
		m := opLine.FindStringSubmatch(e.Op)
		if m == nil {
			t.Fatalf("op %q", e.Op)
		}
		if n, _ := strconv.Atoi(m[1]); n > strings.Count(before, "\n")+1 {
			t.Fatalf("line %d of a shorter file", n)
		}
		if len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Fatalf("not for a terminal: %q", err.Error())
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data := readFile(b, "testdata/good/full.toml")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
