// Package arch holds what may import what, as a test. It owns the table below and a few habits that a
// compiler does not check; it has no code of its own. What each package is for is said in its package
// comment and in docs/architecture.md.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/celldnet/celld"

// line says what a package may import. Tests may import what they need.
type line struct {
	level  int    // imports go down
	pkg    string // below the module's root; with /... for everything under it
	ours   string // packages of ours: a number is a whole level, a name is one package
	others string // of other modules: path prefixes, free or everything
}

const (
	none       = ""
	free       = "free"       // all but what is reserved for others
	everything = "everything" // what is reserved too
)

// table has one line a package.
var table = []line{
	{0, "cellproto", none, "github.com/fxamacker/cbor/v2 lukechampine.com/blake3 golang.org/x"},
	{0, "cellproto/cell", "cellproto cellproto/wire", "github.com/fxamacker/cbor/v2"},
	{0, "cellproto/celllock", "cellproto", none},
	{0, "cellproto/celltoml", "cellproto", "github.com/pelletier/go-toml/v2"},
	{0, "cellproto/patch", "cellproto", "github.com/fxamacker/cbor/v2 github.com/mr-tron/base58"},
	{0, "cellproto/patch/delta", "cellproto cellproto/patch", "github.com/klauspost/compress/zstd"},
	{0, "cellproto/wire", "cellproto", none},
	{0, "cellproto/signed", "cellproto", "github.com/fxamacker/cbor/v2 github.com/ipfs/go-cid github.com/libp2p/go-libp2p/core github.com/multiformats"},
	{0, "internal/addrgroup", none, "github.com/multiformats/go-multiaddr"},
	{0, "internal/ctl", none, none},
	{0, "internal/rawtcp", "cellproto", "github.com/libp2p/go-libp2p/core github.com/libp2p/go-libp2p/p2p/transport github.com/multiformats"},

	{1, "dht", "0", free},
	{1, "dht/content", "0", free},
	{1, "ledger", "cellproto", "github.com/fxamacker/cbor/v2 github.com/hdevalence/ed25519consensus golang.org/x/sys"}, // cellctl may link it
	{1, "node/sandbox", "0", free},
	{1, "node/program", "0 node/sandbox", free},
	{1, "node/patcher", "0", free},
	{1, "node/state", "cellproto", free},

	{2, "ledger/gossip", "cellproto ledger", free},
	{2, "node/race", "cellproto", none},          // pure
	{2, "node/call", "0 node/race ledger", free}, // ledger: the queue of a busy host
	{2, "mirror", "0", free},                     // bytes come in through an interface
	{2, "mirror/offer", "0", free},
	{2, "node/give", "0", free},

	{3, "node", "0 1 2", free},

	{4, "cmd/celld", "0 node/program node", free}, // node/program: the log file
	{4, "cmd/cellbox/...", "cellproto node/sandbox", free},
	{4, "cmd/cellctl", "cellproto cellproto/celllock cellproto/celltoml cellproto/patch internal/ctl cmd/cellctl/gen ledger", free},
	{4, "cmd/cellctl/gen", "cellproto cellproto/wire", none}, // pure

	{5, "examples/...", "cellproto cellproto/cell", free},
	{5, "bench/...", "0 1 2 3 bench/load cmd/cellctl/gen internal/celltest/netdelay", everything},
	{5, "internal/celltest/...", "0 1 2 3", everything},
	{5, "internal/arch", none, none},
}

// reserved are packages of other modules, with all below them, that only those of ours import that
// are named: whoever wants to replace one has a single place to look at. The longest path counts.
var reserved = map[string]string{
	"github.com/libp2p/go-libp2p":         "node", // its root alone; see reservedFor
	"github.com/libp2p/go-libp2p/config":  "node",
	"github.com/libp2p/go-libp2p-kad-dht": "dht",
	"github.com/ipfs/boxo":                "dht/content",
	"github.com/ipfs/boxo/ipns":           "dht", // the format of a record
	"github.com/ipfs/go-ds-flatfs":        "dht/content",
	"github.com/ipfs/go-ds-leveldb":       "node",
	"github.com/pelletier/go-toml/v2":     "cellproto/celltoml",
	"go.etcd.io/bbolt":                    "node/state",
	"github.com/spf13":                    "cmd/cellctl",
	"charm.land":                          "cmd/cellctl",
	"google.golang.org/grpc":              none, // a peer in benchmarks, which have a module of their own
	"github.com/nats-io":                  none,
}

// notLinked is what a program is kept free of, however deep, because it would start slower by it:
// the commands a person types and the programs of cells start in a few milliseconds.
var notLinked = map[string]string{
	"cellproto/cell": "net net/http text/template html/template github.com/libp2p github.com/ipfs github.com/multiformats github.com/pelletier go.uber.org",
	"cmd/cellbox":    "net net/http github.com/libp2p github.com/ipfs github.com/multiformats github.com/pelletier github.com/quic-go go.uber.org lukechampine.com",
	"cmd/cellctl":    "github.com/klauspost lukechampine.com github.com/libp2p github.com/ipfs github.com/multiformats github.com/quic-go go.uber.org",
}

// mayExit are the packages besides main that end the process: the SDK's Main is a program's main,
// and the load of the benchmarks is all that their programs do.
var mayExit = []string{"cellproto/cell", "bench/load"}

const advice = "change the import, or the table in internal/arch/arch_test.go and docs/architecture.md with it"

func TestEveryPackageHasALine(t *testing.T) {
	tree := load(t)
	for _, p := range tree {
		if _, ok := lineOf(p.path); !ok {
			t.Errorf("package %s has no line in the table: add one to internal/arch/arch_test.go that says its level and what it may import, and describe the package in docs/architecture.md", p.path)
		}
	}
	for _, l := range table {
		known := slices.ContainsFunc(tree, func(p *pkg) bool { return p.path == l.pkg })
		if !known && !strings.HasSuffix(l.pkg, "/...") && l.pkg != "internal/arch" {
			t.Errorf("there is no package %s any more: remove its line from internal/arch/arch_test.go", l.pkg)
		}
	}
}

// The table itself keeps the rule that imports go down.
func TestTable(t *testing.T) {
	for _, l := range table {
		for _, word := range strings.Fields(l.ours) {
			if level, err := strconv.Atoi(word); err == nil {
				if level >= l.level {
					t.Errorf("%s is on level %d and may not import all of level %d: name the packages", l.pkg, l.level, level)
				}
				continue
			}
			if target, ok := lineOf(word); !ok || target.level > l.level {
				t.Errorf("%s is on level %d and names %s, which is above or unknown", l.pkg, l.level, word)
			}
		}
	}
}

func TestImports(t *testing.T) {
	for _, p := range load(t) {
		l, ok := lineOf(p.path)
		if !ok {
			continue // TestEveryPackageHasALine says so
		}
		for imported, where := range p.imports {
			if why := refused(l, p.path, imported); why != "" {
				t.Errorf("%s: %s imports %s: %s; %s", where, p.path, imported, why, advice)
			}
		}
	}
}

func TestLinked(t *testing.T) {
	for name, banned := range notLinked {
		cmd := exec.Command("go", "list", "-deps", "./"+name)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, b := range strings.Fields(banned) {
				if dep == b || strings.Contains(b, ".") && under(dep, b) {
					t.Errorf("%s links %s; go list -deps says through what", name, dep)
				}
			}
		}
	}
}

// No work before main, no logger that nobody passed, and only main ends the process.
func TestHabits(t *testing.T) {
	for _, p := range load(t) {
		if p.name == "main" {
			continue
		}
		for _, f := range p.files {
			habits(p, f, func(pos token.Pos, format string, args ...any) {
				t.Errorf("%s: %s", p.fset.Position(pos), fmt.Sprintf(format, args...))
			})
		}
	}
}

// What the test refuses, so that it does not pass for want of looking.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		ok             bool
	}{
		{"cellproto", "net/netip", true},
		{"cellproto", "github.com/fxamacker/cbor/v2", true},
		{"cellproto", "github.com/ipfs/go-cid", false},
		{"cellproto", module + "/cellproto/celltoml", false},
		{"cellproto/cell", module + "/cellproto", true},
		{"cellproto/signed", "github.com/libp2p/go-libp2p/core/peer", true},
		{"cellproto/signed", "github.com/libp2p/go-libp2p/p2p/host/autorelay", false},
		{"internal/ctl", "golang.org/x/sys/unix", false},
		{"dht", "github.com/libp2p/go-libp2p-kad-dht/dual", true},
		{"dht", "github.com/ipfs/boxo/ipns", true},
		{"dht", "github.com/ipfs/boxo/bitswap", false},
		{"dht", "github.com/libp2p/go-libp2p", false},
		{"dht", module + "/dht/content", false},
		{"dht/content", "github.com/ipfs/boxo/bitswap", true},
		{"dht/content", "github.com/ipfs/boxo/ipns", false},
		{"node/call", module + "/node/race", true},
		{"node/call", module + "/dht", false},
		{"node", "github.com/libp2p/go-libp2p", true},
		{"node", module + "/dht/content", true},
		{"node", "github.com/libp2p/go-libp2p-kad-dht", false},
		{"cmd/cellctl", module + "/node", false},
		{"cmd/celld", module + "/node", true},
		{"examples/calculator", module + "/cellproto/cell", true},
		{"examples/calculator", module + "/node", false},
		{"bench/driver", "github.com/libp2p/go-libp2p", true},
	} {
		l, known := lineOf(c.from)
		if why := refused(l, c.from, c.imported); !known || (why == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.from, c.imported, why)
		}
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", badHabits, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	habits(&pkg{path: "p"}, f, func(pos token.Pos, _ string, _ ...any) { lines = append(lines, fset.Position(pos).Line) })
	if slices.Sort(lines); !slices.Equal(lines, []int{2, 3, 4, 5, 6}) {
		t.Errorf("bad habits are seen on lines %v", lines)
	}
}

const badHabits = `package p; import ("os"; "go.uber.org/zap"; z "go.uber.org/zap")
import "log"
var logger = zap.NewNop()
func init() {}
func f() { os.Exit(1) }
func g() { z.L().Info("") }
func (t) init() { log.Print(); zap.NewNop() }
var fine = func() { zap.NewNop() }
`

// refused says why a package may not import another, or "".
func refused(l line, from, imported string) string {
	if imported == module || strings.HasPrefix(imported, module+"/") {
		target := strings.TrimPrefix(imported, module+"/")
		to, ok := lineOf(target)
		if !ok || allowsOurs(l, to, target) {
			return ""
		}
		return fmt.Sprintf("of ours it may import: %q", l.ours)
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") || l.others == everything {
		return "" // the standard library, or no rule
	}
	if only, ok := reservedFor(imported); ok && !slices.Contains(strings.Fields(only), from) {
		if only == none {
			return "no package of this module does"
		}
		return "only " + only + " does"
	}
	if l.others == free || slices.ContainsFunc(strings.Fields(l.others), func(prefix string) bool { return under(imported, prefix) }) {
		return ""
	}
	return fmt.Sprintf("of others it may import: %q", l.others)
}

func allowsOurs(l, to line, target string) bool {
	for _, word := range strings.Fields(l.ours) {
		if word == target || word == strconv.Itoa(to.level) {
			return true
		}
	}
	return false
}

// reservedFor gives the packages that alone import this one, if it is reserved.
func reservedFor(imported string) (only string, ok bool) {
	for p := imported; p != "."; p = path.Dir(p) {
		if only, ok = reserved[p]; ok {
			// Everybody speaks the types of go-libp2p, in its packages; only its root makes a host.
			return only, p != "github.com/libp2p/go-libp2p" || imported == p
		}
	}
	return "", false
}

func under(name, prefix string) bool { return name == prefix || strings.HasPrefix(name, prefix+"/") }

func lineOf(pkg string) (line, bool) {
	for _, l := range table {
		if tree, ok := strings.CutSuffix(l.pkg, "/..."); l.pkg == pkg || ok && under(pkg, tree) {
			return l, true
		}
	}
	return line{}, false
}

// habits reports what a file of a package that is not main does and should not.
func habits(p *pkg, f *ast.File, report func(token.Pos, string, ...any)) {
	names := importNames(f)
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d.Pos(), "init() runs before main and cannot fail: do it where it is needed")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && isLogger(names[identName(sel.X)]) {
					report(d.Pos(), "a package-level logger: pass a *zap.Logger in Deps")
				}
				_, isFunc := n.(*ast.FuncLit) // makes one for its caller
				return !isFunc
			})
		}
	}
	for _, imp := range f.Imports {
		if name := importPath(imp); name == "log" || name == "log/slog" {
			report(imp.Pos(), "%s logs for the whole process: pass a *zap.Logger in Deps", name)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch from, what := names[identName(sel.X)], sel.Sel.Name; {
		case from == "os" && what == "Exit" || from == "syscall" && what == "Exit":
			if !slices.Contains(mayExit, p.path) {
				report(sel.Pos(), "only main ends the process: return the error")
			}
		case from == "go.uber.org/zap" && (what == "L" || what == "S" || what == "ReplaceGlobals"):
			report(sel.Pos(), "zap.%s is the logger of the whole process: pass a *zap.Logger in Deps", what)
		}
		return true
	})
}

func isLogger(importPath string) bool {
	return importPath == "go.uber.org/zap" || importPath == "log" || importPath == "log/slog" || under(importPath, "github.com/ipfs/go-log")
}

func identName(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// importNames gives the path of each import by the name that the file knows it by.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, imp := range f.Imports {
		p := importPath(imp)
		name := path.Base(p)
		if imp.Name != nil {
			name = imp.Name.Name
		}
		names[name] = p
	}
	return names
}

func importPath(imp *ast.ImportSpec) string {
	p, _ := strconv.Unquote(imp.Path.Value) // the parser has checked it
	return p
}

// pkg is the code of one directory that goes into programs, whatever system it is for.
type pkg struct {
	path    string // below the module's root
	name    string
	fset    *token.FileSet
	files   []*ast.File
	imports map[string]token.Position // path -> one place that imports it
}

const root = "../.."

// load parses all packages of the module. It asks no build system: the files of other platforms are
// held to the table too.
func load(t *testing.T) []*pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(file, d.Name())
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		file, err = filepath.Rel(root, file) // as people name it
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, file, src, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(file))
		p := byDir[dir]
		if p == nil {
			p = &pkg{path: dir, name: f.Name.Name, fset: fset, imports: map[string]token.Position{}}
			byDir[dir] = p
		}
		p.files = append(p.files, f)
		for _, imp := range f.Imports {
			p.imports[importPath(imp)] = fset.Position(imp.Pos())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*pkg, 0, len(byDir))
	for _, p := range byDir {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.path, b.path) })
	return all
}

// skipDir leaves out what the go command leaves out of ./... too.
func skipDir(dir, name string) error {
	if dir == root {
		return nil
	}
	if name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_' {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir // another module
	}
	return nil
}
