package node

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger/gossip"
)

// family is a metric, as Prometheus has it.
type family struct {
	name, help, kind string
	samples          []sample
}

type sample struct {
	labels string // with their braces, or ""
	value  float64
}

func (n *nucleus) ctlPrometheus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := expose(w, n.metrics()); err != nil {
		n.log.Debug("control caller left", zap.Error(err))
	}
}

// expose writes metrics in the text format of Prometheus.
func expose(w io.Writer, m ctl.Metrics) error {
	var b strings.Builder
	for _, f := range append(cellFamilies(&m), ledgerFamilies(m.Ledger)...) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		for _, s := range f.samples {
			fmt.Fprintf(&b, "%s%s %v\n", f.name, s.labels, s.value)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func one[T uint64 | int64 | int](name, kind, help string, v T) family {
	return family{name, help, kind, []sample{{"", float64(v)}}}
}

func label(name, value string) string { return fmt.Sprintf("{%s=%q}", name, value) }

const (
	counter = "counter"
	gauge   = "gauge"
)

func cellFamilies(m *ctl.Metrics) []family {
	cpu := family{"celld_process_cpu_seconds_total", "Processor time of the cell's processes.", counter, nil}
	rss := family{"celld_process_resident_memory_bytes", "Memory of the cell's processes.", gauge, nil}
	for _, p := range []struct {
		name string
		ctl.Process
	}{{"nucleus", m.Nucleus}, {"program", m.Program}} {
		cpu.samples = append(cpu.samples, sample{label("process", p.name), float64(p.CPUMS) / 1000})
		rss.samples = append(rss.samples, sample{label("process", p.name), float64(p.RSS)})
	}
	return []family{
		one("celld_uptime_seconds", gauge, "Time since the nucleus started.", m.TimeMS/1000),
		one("celld_calls_served_total", counter, "Calls that were answered.", m.Served),
		one("celld_calls_in_flight", gauge, "Calls that are being answered.", m.InFlight),
		one("celld_calls_waiting", gauge, "Calls that wait for the program to start.", m.Waiting),
		one("celld_calls_refused_total", counter, "Calls that were one too many for the program.", m.Refused),
		one("celld_program_starts_total", counter, "Times that the program was started.", m.Starts),
		one("celld_program_crashes_total", counter, "Times that the program has ended by itself.", m.Crashes),
		cpu, rss,
	}
}

func ledgerFamilies(l *ctl.LedgerMetrics) []family {
	if l == nil {
		return nil
	}
	refused := family{"celld_ledger_refused_total", "What peers have sent for the ledger and was not taken.", counter, nil}
	for _, kind := range gossip.Kinds {
		refused.samples = append(refused.samples, sample{label("kind", kind), float64(l.Refused[kind])})
	}
	fails := uint64(0)
	if l.DiskFails {
		fails = 1
	}
	return []family{
		refused,
		one("celld_ledger_entries_taken_total", counter, "Entries of peers that were new.", l.Taken),
		one("celld_ledger_entries_regained_total", counter, "Entries that this host had signed, had lost, and got back from others.", l.Regained),
		one("celld_ledger_receipts_signed_total", counter, "Receipts that this host has signed for what it has used.", l.Signed),
		one("celld_ledger_receipts_got_total", counter, "Receipts that callers have signed for what this host has done.", l.Paid),
		{"celld_ledger_bills_refused_total", "Bills that were not signed: those of others by this host, and its own by callers.", counter, []sample{
			{label("by", "here"), float64(l.BillsRefused)}, {label("by", "caller"), float64(l.BillsUnsigned)},
		}},
		one("celld_ledger_segments_damaged_total", counter, "Segments of the ledger in which bytes had changed.", l.SegmentsDamaged),
		one("celld_ledger_segments_healed_total", counter, "Damaged segments that are put aside, and whose good records are written anew.", l.SegmentsHealed),
		one("celld_ledger_records_dropped_total", counter, "Records that found no room in memory while the ledger could not be written.", l.RecordsDropped),
		one("celld_ledger_disk_fails", gauge, "1 while the ledger cannot be written, and is kept in memory.", fails),
		{"celld_ledger_gossip_bytes_total", "Bytes of the ledger's protocol.", counter, []sample{
			{label("direction", "in"), float64(l.GossipIn)}, {label("direction", "out"), float64(l.GossipOut)},
		}},
	}
}
