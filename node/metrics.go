package node

import (
	"os"
	"time"

	"github.com/prometheus/procfs"

	"github.com/celldnet/celld/internal/ctl"
)

// metrics tells what the cell does and costs at the moment.
func (n *nucleus) metrics() ctl.Metrics {
	s, load := n.status(), n.server.Load()
	m := ctl.Metrics{
		Name: s.Name, Version: s.Version, State: s.State, Dir: s.Dir, TimeMS: time.Since(n.begun).Milliseconds(),
		Served: s.Served, InFlight: s.InFlight, P50US: int64(load.P50), P99US: int64(load.P99), Nucleus: usage(os.Getpid()),
	}
	if n.program != nil {
		st := n.program.State()
		m.Waiting, m.Refused, m.Starts, m.Crashes, m.LastError = st.Waiting, st.Counters.Refused, st.Starts, st.Crashes, st.LastError
		m.Program = usage(st.PID)
		if st.PID != 0 {
			u := n.program.Usage()
			m.Program.Received, m.Program.Sent = int64(u.Received), int64(u.Sent)
		}
	}
	m.Ledger = n.accounts.metrics()
	return m
}

// metrics gives what the ledger has counted, or nil.
func (a *accounts) metrics() *ctl.LedgerMetrics {
	if a == nil || a.travel == nil {
		return nil
	}
	t := a.travel.Metrics()
	m := &ctl.LedgerMetrics{
		Taken: t.Taken, Regained: t.Regained, Refused: t.Refused, Signed: a.signed.Load(), Paid: a.paid.Load(), BillsRefused: t.Bills,
		BillsUnsigned: a.unpaidBills.Load(), GossipIn: t.In, GossipOut: t.Out, DiskFails: a.trouble() != nil,
	}
	h := a.led.Harm()
	m.SegmentsDamaged, m.SegmentsHealed, m.RecordsDropped = h.Damaged, h.Healed, h.Dropped
	return m
}

// usage gives what a process has used, as far as the system tells.
func usage(pid int) ctl.Process {
	if pid == 0 {
		return ctl.Process{}
	}
	u := ctl.Process{PID: pid}
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return u // no procfs, or it has just ended
	}
	if stat, err := proc.Stat(); err == nil {
		u.CPUMS, u.RSS = int64(stat.CPUTime()*1000), int64(stat.ResidentMemory())
	}
	return u
}
