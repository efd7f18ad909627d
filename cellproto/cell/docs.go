package cell

import (
	"reflect"
	"strings"
)

// Docs are what the comments of a program say, for its schema. "cellctl docs" writes them into a file of the program
// (cell_docs.go): they are part of the schema, and so have to be the same wherever the program is built.
type Docs struct {
	// Functions has a sentence for each function, by its name in the cell. What Function.Doc sets comes before it.
	Functions map[string]string
	// Fields has what is said of the fields of structs: by the struct, "main.Pair", then by the field's name in Go. A
	// field's doc tag comes before it.
	Fields map[string]map[string]string
}

// field gives what is said of a field of t; "": nothing.
func (d Docs) field(t reflect.Type, f reflect.StructField) string {
	if doc := f.Tag.Get("doc"); doc != "" || t.Name() == "" {
		return doc
	}
	name, _, _ := strings.Cut(t.Name(), "[") // of a generic type
	return d.Fields[t.PkgPath()+"."+name][f.Name]
}
