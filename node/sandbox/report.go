package sandbox

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// MaxReportLine bounds, in bytes, a line that ParseReport takes.
const MaxReportLine = 16 << 10

// Event says what a Report is about.
type Event string

// The events, in their order; EventUsage comes any number of times. After EventFailed nothing comes.
const (
	EventStart  Event = "start"  // the program runs, confined
	EventUsage  Event = "usage"  // what it has used so far
	EventEnd    Event = "end"    // it has ended; the totals
	EventFailed Event = "failed" // it was not started; Error says why
)

// Usage is what a program has used since it was started. All fields are totals but RSSKiB and Threads.
type Usage struct {
	// CPU and Wall are nanoseconds: of all its threads, and of the clock.
	CPU  int64 `json:"cpu_ns"`
	Wall int64 `json:"wall_ns"`
	// RSSKiB is its resident memory now, PeakKiB the most that was seen, both in KiB.
	RSSKiB  int64 `json:"rss_kib"`
	PeakKiB int64 `json:"rss_peak_kib"`
	// RSSKiBSeconds is the resident memory integrated over time, in KiB times seconds.
	RSSKiBSeconds float64 `json:"rss_kib_s"`
	// Read and Written are bytes that storage had to deliver and to take.
	Read    int64 `json:"read_bytes"`
	Written int64 `json:"written_bytes"`
	// Received and Sent are bytes that went through the calls read and write on any descriptor: as it
	// has no disk to write to, all that it sent went to those that it inherited. What goes through recv
	// and send on a socket the kernel does not count; the owner of the other end does, as a nucleus with
	// what its program receives and sends (program.Usage).
	Received int64 `json:"received_bytes"`
	Sent     int64 `json:"sent_bytes"`
	// LogDropped is how many bytes of its log were dropped because they came too fast.
	LogDropped int64 `json:"log_dropped_bytes"`
	// Threads is how many it has now.
	Threads int64 `json:"threads"`
}

// Report is one line of what cellbox says about a program. Fields that an event does not have are zero.
type Report struct {
	Event Event `json:"event"`
	// Tier is what the program is confined by; PID is its number here.
	Tier Tier `json:"tier"`
	PID  int  `json:"pid,omitempty"`
	// What holds the limits: "cgroup v1", "cgroup v2", "duty cycle", "watchdog" or "rlimit".
	CPUBy     string `json:"cpu_by,omitempty"`
	MemoryBy  string `json:"memory_by,omitempty"`
	ThreadsBy string `json:"threads_by,omitempty"`
	Usage
	// Exit is the program's status, with EventEnd, unless it was ended by Signal.
	Exit   int    `json:"exit"`
	Signal string `json:"signal,omitempty"`
	// Why is set when the program did not end by itself: one of the reasons below.
	Why string `json:"why,omitempty"`
	// Weaker says why stronger tiers than Tier were not used; "" if the strongest was. At most 1 KiB.
	Weaker string `json:"weaker,omitempty"`
	// Error, Kind and Hint are those of the error, with EventFailed, and with WhyOutput.
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// maxText bounds, in bytes, the texts of a report, so that its line can be read.
const maxText = 1 << 10

// FailedReport says that a program was not started.
func FailedReport(t Tier, err error) Report {
	return Report{
		Event: EventFailed, Tier: t, Error: cut(err.Error()), Kind: cellproto.KindOf(err).String(), Hint: cut(cellproto.HintOf(err)),
	}
}

// Err gives the error that a report carries, or nil.
func (r Report) Err() error {
	if r.Error == "" {
		return nil
	}
	err := cellproto.Errorf("", cellproto.ParseKind(r.Kind), "%s", r.Error)
	if r.Hint != "" {
		return err.WithHint("%s", r.Hint)
	}
	return err
}

// cut shortens s to maxText, at the end of a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText-3], "") + "..."
}

// Reasons in Report.Why.
const (
	WhyMemory  = "memory"  // it took more than Config.Memory
	WhyThreads = "threads" // it made more than Config.Threads
	WhyStopped = "stopped" // Stop or Kill was called, or Run's context ended
	WhyTimeout = "timeout" // a build took longer than Build.Timeout
	WhyOutput  = "output"  // a build ended well and left no proper output; Error says which
	WhyGuard   = "guard"   // a process that guards it was killed
	WhyUnseen  = "unseen"  // nothing of it could be seen, and nobody else holds its limits
)

// WriteReport writes r as one line of JSON.
func WriteReport(w io.Writer, r Report) error {
	line, err := json.Marshal(r)
	if err != nil {
		return cellproto.Errorf("write report", cellproto.Failed, "%w", err)
	}
	if _, err = w.Write(append(line, '\n')); err != nil {
		return cellproto.Errorf("write report", cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// ParseReport reads one line, with or without its end. It refuses, with kind BadInput or TooLarge,
// what WriteReport cannot have written; fields that it does not know it skips.
func ParseReport(line []byte) (Report, error) {
	const op = "read report"
	if len(line) > MaxReportLine {
		return Report{}, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes are more than %d", len(line), MaxReportLine)
	}
	var r Report
	if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
		return Report{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	switch r.Event {
	case EventStart, EventUsage, EventEnd, EventFailed:
	default:
		return Report{}, cellproto.Errorf(op, cellproto.BadInput, "there is no event %.20q", string(r.Event))
	}
	u := r.Usage
	for _, n := range []int64{u.CPU, u.Wall, u.RSSKiB, u.PeakKiB, u.Read, u.Written, u.Received, u.Sent, u.LogDropped, u.Threads, int64(r.PID)} {
		if n < 0 {
			return Report{}, cellproto.Errorf(op, cellproto.BadInput, "a count is negative")
		}
	}
	if u.RSSKiBSeconds < 0 {
		return Report{}, cellproto.Errorf(op, cellproto.BadInput, "a count is negative")
	}
	return r, nil
}

// sample is what one look at the program gives.
type sample struct {
	CPU, Written, Read, Received, Sent, RSSKiB, Threads int64
	TablesKiB                                           int64 // of page tables; 0 if nobody asks
}

// meter adds samples up. It is pure: time is passed in, counted from the program's start.
type meter struct {
	usage Usage
	last  time.Duration
}

// add takes in what was seen at the time now. Totals never fall: a look that found nothing, because
// the program has just ended, changes none.
func (m *meter) add(now time.Duration, s sample) {
	u := &m.usage
	if dt := now - m.last; dt > 0 {
		u.RSSKiBSeconds += float64(u.RSSKiB+s.RSSKiB) / 2 * dt.Seconds()
		m.last = now
	}
	u.Wall = max(u.Wall, int64(now))
	u.CPU = max(u.CPU, s.CPU)
	u.Read, u.Written = max(u.Read, s.Read), max(u.Written, s.Written)
	u.Received, u.Sent = max(u.Received, s.Received), max(u.Sent, s.Sent)
	u.RSSKiB, u.Threads = s.RSSKiB, s.Threads
	u.PeakKiB = max(u.PeakKiB, s.RSSKiB)
}

// snapshot gives the totals, rounded to what they are worth.
func (m *meter) snapshot() Usage {
	u := m.usage
	u.RSSKiBSeconds = float64(int64(u.RSSKiBSeconds*1000)) / 1000
	return u
}
