package mirror

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// ObjectiveFile is where a caller says what it wants of a cell: in the cell's directory below its
// .cell-cache, or in .cell-cache itself for all cells.
const ObjectiveFile = "slo.json"

const (
	maxObjective = 4 << 10  // bytes of it
	maxP99       = 3600_000 // ms, as in cell.toml
	maxBandwidth = 1_000_000
)

// sloFile is what it says. A key that is missing is the cell's own promise, which its manifest has; only
// the caller can want a copy.
type sloFile struct {
	MaxP99Ms         *int64 `json:"max_p99_ms"`
	MinBandwidthMbps *int64 `json:"min_bandwidth_mbps"`
	CloneOnViolation bool   `json:"clone_on_violation"`
}

// ParseObjective reads a caller's slo.json for a cell with the manifest m, which may be nil. Without data
// the objective is the cell's promise, and no copy is wanted. BadInput, TooLarge: what it says cannot be
// meant.
func ParseObjective(data []byte, m *signed.Manifest) (Objective, error) {
	const op = "read " + ObjectiveFile
	var f sloFile
	if len(data) > maxObjective {
		return Objective{}, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxObjective)
	}
	if len(data) > 0 {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		err := dec.Decode(&f)
		if err == nil && dec.More() {
			err = cellproto.Errorf(op, cellproto.BadInput, "there is something behind it")
		}
		if err != nil {
			return Objective{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err).
				WithHint(`It looks like this: {"max_p99_ms": 150, "clone_on_violation": true}`)
		}
	}
	p99, bandwidth := int64(0), int64(0)
	if m != nil {
		p99, bandwidth = min(m.SLO.MaxP99Ms, maxP99), min(m.SLO.MinBandwidthMbps, maxBandwidth)
	}
	for _, v := range []struct {
		name string
		from *int64
		to   *int64
		most int64
	}{{"max_p99_ms", f.MaxP99Ms, &p99, maxP99}, {"min_bandwidth_mbps", f.MinBandwidthMbps, &bandwidth, maxBandwidth}} {
		if v.from == nil {
			continue
		}
		if *v.from < 0 || *v.from > v.most {
			return Objective{}, cellproto.Errorf(op, cellproto.BadInput, "%s is %d, not between 0 and %d", v.name, *v.from, v.most)
		}
		*v.to = *v.from
	}
	return Objective{MaxP99: time.Duration(p99) * time.Millisecond, MinBandwidth: bandwidth, Clone: f.CloneOnViolation}, nil
}
