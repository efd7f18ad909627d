package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
)

func (a *app) schemaCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "schema [TARGET]",
		Short:             "Show the functions of a cell",
		Args:              args(0, 1),
		ValidArgsFunction: completeTarget,
	}
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.askOwn(cmd, args, *timeout, func(q question) error {
			raw, err := q.client.Schema(q.ctx, q.target.text)
			q.progress.done()
			if err != nil {
				return q.failed(err)
			}
			schema, err := cellproto.ParseSchema(raw)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(json.RawMessage(raw))
			}
			return a.print(describe(schema))
		})
	}
	return cmd
}

// describe shows each function as it is called on a command line.
func describe(s *cellproto.Schema) []byte {
	var b bytes.Buffer
	b.WriteString(safe(s.Cell) + "\n")
	names := make([]string, 0, len(s.Functions))
	for name := range s.Functions {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := s.Functions[name]
		b.WriteString("  " + safe(f.Usage(name)))
		if gives := outputType(f); gives != "" {
			b.WriteString(" -> " + safe(gives))
		}
		if notes := notesOf(f); len(notes) > 0 {
			b.WriteString("    (" + strings.Join(notes, ", ") + ")")
		}
		b.WriteString("\n")
		if f.Doc != "" {
			b.WriteString("      " + safe(strings.ReplaceAll(f.Doc, "\n", " ")) + "\n")
		}
	}
	if len(names) == 0 {
		b.WriteString("  no functions\n")
	}
	return b.Bytes()
}

func notesOf(f cellproto.Function) []string {
	var notes []string
	for _, n := range []struct {
		set  bool
		word string
	}{
		{f.Pure, "pure"}, {f.Idempotent && !f.Pure, "idempotent"}, {f.Slow, "slow"},
		{f.BodyIn, "takes --input"}, {f.BodyOut, "gives a body"},
	} {
		if n.set {
			notes = append(notes, n.word)
		}
	}
	return notes
}

// outputType gives the JSON type of a function's reply, as far as its schema names one.
func outputType(f cellproto.Function) string {
	var output struct {
		Type json.RawMessage `json:"type"`
	}
	if f.Output == nil || json.Unmarshal(f.Output, &output) != nil {
		return ""
	}
	var one string
	if json.Unmarshal(output.Type, &one) == nil {
		return one
	}
	var many []string
	if json.Unmarshal(output.Type, &many) == nil {
		return strings.Join(many, "|")
	}
	return ""
}
