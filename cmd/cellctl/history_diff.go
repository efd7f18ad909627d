package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// versionDiff is what cellctl history --diff prints.
type versionDiff struct {
	From     ctl.HistoryRow        `json:"from"`
	To       ctl.HistoryRow        `json:"to"`
	Manifest []manifestChange      `json:"manifest"`
	Schema   *cellproto.Comparison `json:"schema,omitempty"` // nil: one of them has none
}

// manifestChange is one field of a manifest that differs.
type manifestChange struct {
	Field string          `json:"field"`
	From  json.RawMessage `json:"from,omitempty"`
	To    json.RawMessage `json:"to,omitempty"`
}

// compareVersions shows what differs between two versions of a cell.
func (a *app) compareVersions(q question, spec string) error {
	from, to, ok := strings.Cut(spec, "..")
	if !ok || from == "" || to == "" {
		return usageError{cellproto.Errorf("compare versions", cellproto.BadInput, "%.80q is not A..B", spec).
			WithHint("cellctl history --diff=1.0.0..1.1.0, or --diff alone for the last two.")}
	}
	var versions [2]ctl.VersionDetail
	var schemas [2]*cellproto.Schema
	for i, name := range []string{from, to} {
		v, err := q.client.Version(q.ctx, q.target.text, name)
		if err != nil {
			return q.failed(err)
		}
		versions[i] = v
		if len(v.Full) > 0 {
			if schemas[i], err = cellproto.ParseSchema(v.Full); err != nil {
				return err
			}
		}
	}
	q.progress.done()
	d := versionDiff{From: versions[0].HistoryRow, To: versions[1].HistoryRow}
	var err error
	if d.Manifest, err = manifestChanges(versions[0].Manifest, versions[1].Manifest); err != nil {
		return err
	}
	if schemas[0] != nil && schemas[1] != nil {
		c := cellproto.Compare(schemas[0], schemas[1])
		d.Schema = &c
	}
	if a.json {
		return a.printJSON(d)
	}
	return a.print(d.text())
}

// manifestChanges compares two manifests field by field.
func manifestChanges(from, to json.RawMessage) ([]manifestChange, error) {
	changes := []manifestChange{}
	var before, after map[string]json.RawMessage
	for raw, into := range map[*json.RawMessage]*map[string]json.RawMessage{&from: &before, &to: &after} {
		if err := json.Unmarshal(*raw, into); err != nil {
			return nil, cellproto.Errorf("compare versions", cellproto.Corrupt, "a manifest cannot be read: %w", err)
		}
	}
	fields := maps.Clone(before)
	maps.Copy(fields, after)
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !bytes.Equal(before[field], after[field]) {
			changes = append(changes, manifestChange{field, before[field], after[field]})
		}
	}
	return changes, nil
}

func (d *versionDiff) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\n%s %s\n", safe(d.From.Version), safe(d.From.CID), safe(d.To.Version), safe(d.To.CID))
	for _, c := range d.Manifest {
		fmt.Fprintf(&b, "%s: %s -> %s\n", safe(c.Field), short(c.From), short(c.To))
	}
	if d.Schema == nil {
		b.WriteString("functions: one of them has no schema\n")
		return b.Bytes()
	}
	fmt.Fprintf(&b, "functions: %s\n", d.Schema.Verdict)
	for _, c := range d.Schema.Breaks {
		fmt.Fprintf(&b, "  - %s\n", safe(c.String()))
	}
	for _, c := range d.Schema.Adds {
		fmt.Fprintf(&b, "  + before: %s\n", safe(c.String()))
	}
	return b.Bytes()
}

// short shows a value of a manifest in a line.
func short(raw json.RawMessage) string {
	const most = 120
	text := string(raw)
	if text == "" {
		return "nothing"
	}
	if len(text) > most {
		text = text[:most] + "…"
	}
	return safe(text)
}
