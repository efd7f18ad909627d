package gen

import "github.com/celldnet/celld/cellproto"

// Client is a client as it is written to disk.
type Client struct {
	Dir  string // below the output directory; "": there itself
	File string
	Code []byte
}

// Language is one that clients are written in.
type Language struct {
	Name     string // on the command line
	Generate func(s *cellproto.Schema) (Client, error)
}

// Languages are all there are.
var Languages = []Language{
	{"go", func(s *cellproto.Schema) (Client, error) {
		pkg, code, err := Go(s)
		return Client{Dir: pkg, File: pkg + ".go", Code: code}, err
	}},
	{"python", func(s *cellproto.Schema) (Client, error) {
		code, err := Python(s)
		return Client{File: module(s.Cell) + ".py", Code: code}, err
	}},
	{"typescript", func(s *cellproto.Schema) (Client, error) {
		code, err := TypeScript(s)
		return Client{File: s.Cell + ".ts", Code: code}, err
	}},
}

// module makes the name of a module of that of a cell.
func module(cell string) string { return snake(cell, names{}) }
