package main

import (
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

const sdkPath = "github.com/celldnet/celld/cellproto/cell"

// commented is what was found in the files of one package.
type commented struct {
	pkg       string
	declared  map[string][]string          // what is said of functions and methods, by name: one may be that of several types
	functions map[string]string            // what the cell's functions are called in Go, by their names in the cell
	fields    map[string]map[string]string // by struct and field
}

// scanDocs reads the Go files of a directory, but for tests and docsFile, and gives what docsFile is to be. Which of them
// are built on which system makes no difference. BadInput: one is no Go, or there is none.
func scanDocs(dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.go"))
	if err != nil {
		return nil, err
	}
	c := commented{declared: map[string][]string{}, functions: map[string]string{}, fields: map[string]map[string]string{}}
	for _, file := range files {
		if name := filepath.Base(file); strings.HasSuffix(name, "_test.go") || name == docsFile {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, cellproto.Errorf("", cellproto.BadInput, "%w", err)
		}
		c.pkg = f.Name.Name
		c.file(f)
	}
	if c.pkg == "" {
		return nil, cellproto.Errorf("", cellproto.BadInput, "there is no program in Go in %s", dir)
	}
	said := map[string]string{}
	for name, goName := range c.functions {
		if docs := c.declared[goName]; len(docs) == 1 {
			if doc := sentence(goName, docs[0]); doc != "" {
				said[name] = doc
			}
		}
	}
	return format.Source(docsCode(c.pkg, said, c.fields))
}

// escapeGlob has what is special in patterns stand for itself.
func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (c *commented) file(f *ast.File) {
	sdk := ""
	for _, i := range f.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil && path == sdkPath {
			if sdk = "cell"; i.Name != nil {
				sdk = i.Name.Name
			}
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			c.declared[d.Name.Name] = append(c.declared[d.Name.Name], d.Doc.Text())
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok {
					c.structure(t)
				}
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && sdk != "" {
			c.call(sdk, call)
		}
		return true
	})
}

// structure takes what is said of the fields of a struct: above them, or behind them on the same line.
func (c *commented) structure(t *ast.TypeSpec) {
	s, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		doc := oneLine(f.Doc.Text())
		if doc == "" {
			doc = oneLine(f.Comment.Text())
		}
		for _, name := range f.Names {
			if doc != "" && name.IsExported() {
				if c.fields[t.Name.Name] == nil {
					c.fields[t.Name.Name] = map[string]string{}
				}
				c.fields[t.Name.Name][name.Name] = doc
			}
		}
	}
}

// call takes note of cell.Func("name", function) and the like.
func (c *commented) call(sdk string, call *ast.CallExpr) {
	fun := call.Fun
	switch generic := fun.(type) { // with the types of arguments and result
	case *ast.IndexExpr:
		fun = generic.X
	case *ast.IndexListExpr:
		fun = generic.X
	}
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) != 2 {
		return
	}
	if x, ok := sel.X.(*ast.Ident); !ok || x.Name != sdk {
		return
	}
	switch sel.Sel.Name {
	case "Func", "FuncBody", "FuncRaw":
	default:
		return
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return
	}
	name, err := strconv.Unquote(lit.Value)
	if err != nil {
		return
	}
	switch fn := call.Args[1].(type) {
	case *ast.Ident:
		c.functions[name] = fn.Name
	case *ast.SelectorExpr:
		c.functions[name] = fn.Sel.Name
	}
}

// sentence gives the first sentence of what is said of a function, without its name: "Add gives ..." becomes "Gives ...".
func sentence(name, doc string) string {
	text := oneLine(doc)
	if end := strings.Index(text, ". "); end >= 0 {
		text = text[:end+1]
	}
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		r, size := utf8.DecodeRuneInString(rest)
		text = string(unicode.ToUpper(r)) + rest[size:]
	}
	return text
}

const maxDoc = 400 // bytes of what is said of one thing

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= maxDoc {
		return text
	}
	cut := strings.LastIndexByte(text[:maxDoc], ' ')
	return strings.ToValidUTF8(text[:max(cut, 0)], "") + " ..."
}
