package mirror

import (
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

func TestParseObjective(t *testing.T) {
	m := &signed.Manifest{SLO: signed.SLO{MaxP99Ms: 150, MinBandwidthMbps: 100}}
	for text, want := range map[string]Objective{
		"":                             {MaxP99: 150 * time.Millisecond, MinBandwidth: 100}, // nobody asked for a copy
		`{}`:                           {MaxP99: 150 * time.Millisecond, MinBandwidth: 100},
		`{"clone_on_violation": true}`: {MaxP99: 150 * time.Millisecond, MinBandwidth: 100, Clone: true},
		`{"max_p99_ms": 20, "clone_on_violation": true}`:                {MaxP99: 20 * time.Millisecond, MinBandwidth: 100, Clone: true},
		`{"max_p99_ms": 0, "min_bandwidth_mbps": 7}`:                    {MinBandwidth: 7},
		"{\"max_p99_ms\": 20,\n\"min_bandwidth_mbps\": 1000000}\n\t\n ": {MaxP99: 20 * time.Millisecond, MinBandwidth: 1000000},
	} {
		if got, err := ParseObjective([]byte(text), m); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, kind := range map[string]cellproto.Kind{
		`{"max_p99_ms": -1}`:                     cellproto.BadInput,
		`{"max_p99_ms": 3600001}`:                cellproto.BadInput,
		`{"max_p99_ms": 1.5}`:                    cellproto.BadInput,
		`{"max_p99": 100}`:                       cellproto.BadInput,
		`{"clone_on_violation": "yes"}`:          cellproto.BadInput,
		`{} {}`:                                  cellproto.BadInput,
		`[]`:                                     cellproto.BadInput,
		`{`:                                      cellproto.BadInput,
		`{}` + strings.Repeat(" ", maxObjective): cellproto.TooLarge,
	} {
		if got, err := ParseObjective([]byte(text), m); cellproto.KindOf(err) != kind || got != (Objective{}) {
			t.Errorf("%.40s: %+v, %v", text, got, err)
		}
	}
}

func FuzzParseObjective(f *testing.F) {
	f.Add([]byte(`{"max_p99_ms": 150, "clone_on_violation": true}`))
	f.Add([]byte(`{"min_bandwidth_mbps": 100}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseObjective(data, &signed.Manifest{SLO: signed.SLO{MaxP99Ms: 1 << 50, MinBandwidthMbps: 1 << 50}})
		if err == nil && (o.MaxP99 < 0 || o.MaxP99 > time.Hour || o.MinBandwidth < 0 || o.MinBandwidth > maxBandwidth) {
			t.Fatalf("%q gives %+v", data, o)
		}
	})
}
