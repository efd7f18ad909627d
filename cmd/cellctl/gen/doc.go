// Package gen writes typed clients from schemas: in Go, Python and TypeScript. It owns the model of a
// schema that the languages share (model.go), and what is written for each. It is pure: where a schema
// comes from and where a client goes is cellctl's.
//
// A schema is a stranger's text. Nothing of it becomes code but names that are made of checked letters, and
// text that is quoted by the language's own rules.
package gen
