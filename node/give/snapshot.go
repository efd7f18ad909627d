package give

import "time"

// Reading is what a sensor says to a yes-or-no question.
type Reading string

// The readings. What cannot be read is Unknown, and the safe choice is taken; what is known not to be
// there, such as the lid of a server, is Absent.
const (
	Unknown Reading = "unknown"
	Absent  Reading = "absent"
	No      Reading = "no"
	Yes     Reading = "yes"
)

// Snapshot is what the sensors saw at one moment.
type Snapshot struct {
	At        time.Time
	Input     Input
	LidClosed Reading // Absent: no lid
	OnBattery Reading // Absent: no battery, so mains
	Battery   float64 // percent, if there is one; negative: unknown
	Metered   Reading // Absent: nobody here knows of metered networks
	Load      Load
	Sensors   []Sensor
}

// Input is whether somebody is at the machine.
type Input struct {
	// State is Absent if there is nothing to give input by, Unknown if there is and nobody can watch
	// it; else Last is when there was input last, or when the watching began.
	State Reading
	Last  time.Time
	// Why is what says so, for people: what there was input of at Last, or what is in the way of knowing it:
	// "event3: read: no such device".
	Why string
	// Unseen is that there may have been input up to Last, which nobody has seen.
	Unseen bool
}

// says gives, for people, what was seen of input at a moment.
func (in *Input) says(at time.Time) string {
	switch {
	case in.State != Yes:
		return string(in.State) + colon(in.Why)
	case in.Unseen:
		return "none for " + at.Sub(in.Last).Round(time.Second).String() + colon(in.Why)
	}
	return "none for " + at.Sub(in.Last).Round(time.Second).String() + ", after " + in.Why
}

// Load is what the machine does, since the look before. Its zero value is unknown.
type Load struct {
	Known    bool
	Cores    int     // that the machine has
	Others   float64 // percent of the machine's processors that others than the hosted cells use
	Total    int64   // bytes of memory
	Free     int64   // bytes of memory that could be used without swapping, hosted cells aside
	Ours     int64   // bytes of memory that hosted cells have
	DiskBusy float64 // percent of the time in which the busiest disk was
	DiskBPS  int64   // bytes a second that others read and wrote
	DiskOurs int64   // that hosted cells did
}

// Sensor is one of the things that are looked at, for people: "input" by "i8042 interrupts".
type Sensor struct {
	Of   string `json:"of"`   // input, lid, battery, network, load
	By   string `json:"by"`   // which source was used; "": none
	Says string `json:"says"` // what it said
}
