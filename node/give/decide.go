package give

import (
	"fmt"
	"time"
)

// How often is looked, and the marks.
const (
	LookEvery  = 30 * time.Second       // at everything
	InputEvery = 500 * time.Millisecond // at input, while there is something to pause
	LoadEvery  = time.Second            // at what others use of the processors, lid, battery and network, likewise
	Quiet      = time.Minute            // without anything that speaks against giving, until it goes on

	lowBattery   = 20.0 // percent
	spareMemory  = 5.0  // percent of the memory that always stay free
	maxLeaves    = 5.0  // percent of the processors that Max leaves
	capStep      = 10.0 // percent of the processors by which there has to be less to give before caps fall between two looks
	forever      = 100 * 365 * 24 * time.Hour
	unlimitedBPS = 0
)

// Caps are what all hosted cells together may use.
type Caps struct {
	CPU    float64 `json:"cpu_percent"` // of the machine
	Memory int64   `json:"memory"`      // bytes
	Disk   int64   `json:"disk_bps"`    // bytes a second; 0: no limit
	// Firm is that hosted cells get this however busy others are; else they get what nobody else wants of it.
	Firm bool `json:"firm,omitempty"`
}

// always is the mark of an owner who does not want hosted cells paused for the load of others: it would be no favour
// to have them starve instead.
const always = 100.0

// State is what Decide has to know of what it decided before. Its zero value is the beginning.
type State struct {
	Running   bool
	Disturbed time.Time // when something spoke against giving last; zero: nothing has so far
	Because   string    // what it was
}

// Decision is what is to be done now.
type Decision struct {
	Run   bool      // hosted cells may run, and more may be taken up
	Over  bool      // the time to give has passed for good: it is turned off
	Why   string    // it does not run, or that it does: for people
	Caps  Caps      // with Run
	Again time.Time // when to look again at the latest
	// Least is when it can go on at the earliest, if that is known: offers need not come before.
	Least time.Time
	// Glance is how often to look meanwhile at what changes from one moment to the next, if something is hosted;
	// 0: that would change nothing.
	Glance time.Duration
	Next   State // for the next decision
}

// acts says whether d asks for something else than was decided before, so that it cannot wait for the next look
// at everything.
func (d *Decision) acts(before *Decision) bool {
	return d.Run != before.Run || d.Over || d.Run && d.Caps.CPU < before.Caps.CPU-capStep
}

// Decide says whether to give, and how much. It is pure: now's place gives the clock on the wall.
func Decide(now time.Time, set Settings, st State, snap Snapshot) Decision {
	d := Decision{Again: now.Add(LookEvery), Next: st}
	d.Next.Running = false
	in, change := set.Schedule.At(now)
	switch {
	case !set.On:
		d.Why, d.Again, d.Next = "giving is off", now.Add(forever), State{}
		return d
	case !set.Until.IsZero() && !now.Before(set.Until):
		d.Why, d.Over, d.Again, d.Next = "the time to give is over: until "+clockOf(set.Until, now), true, now.Add(forever), State{}
		return d
	case !in:
		d.Why, d.Again = "the schedule says: not before "+clockOf(change, now), earliest(change, now.Add(time.Hour))
		return d
	default:
		d.Again = earliest(d.Again, change, set.Until)
	}
	if because, at := against(now, snap, set); because != "" {
		d.Why, d.Next.Because = because, because
		if d.Next.Disturbed = at; at.Before(now) { // it is known since when it is quiet
			d.Least = at.Add(Quiet)
			d.Again = earliest(d.Again, d.Least)
		} else if crowded(snap.Load, set) { // that it is over nobody says later
			d.Glance = LoadEvery
		}
		return d
	}
	if left := st.Disturbed.Add(Quiet).Sub(now); !st.Disturbed.IsZero() && left > 0 {
		d.Why = fmt.Sprintf("waiting for a quiet minute: %s", st.Because)
		d.Least = now.Add(left)
		d.Again, d.Glance = earliest(d.Again, d.Least), LoadEvery
		return d
	}
	d.Run, d.Why, d.Caps, d.Glance, d.Next = true, "", capsOf(set, snap.Load), InputEvery, State{Running: true}
	return d
}

// crowded says that others need the processors.
func crowded(l Load, set Settings) bool { return l.Known && l.Others > set.Busy }

// against gives what speaks against giving now, and since when it last did.
func against(now time.Time, s Snapshot, set Settings) (string, time.Time) {
	because := ""
	switch l := s.Load; {
	case s.Input.State == Unknown:
		because = "nobody can say whether somebody is at this machine" + colon(s.Input.Why)
	case s.Input.State != Absent && now.Sub(s.Input.Last) < Quiet && s.Input.Unseen:
		return "somebody may be at this machine" + colon(s.Input.Why), s.Input.Last
	case s.Input.State != Absent && now.Sub(s.Input.Last) < Quiet:
		return "somebody is at this machine" + colon(s.Input.Why), s.Input.Last
	case s.LidClosed == Yes:
		because = "the lid is closed"
	case s.LidClosed == Unknown:
		because = "whether the lid is closed is unknown"
	case s.OnBattery == Yes:
		because = "the machine runs on its battery"
	case s.OnBattery == Unknown:
		because = "whether the machine runs on its battery is unknown"
	case s.OnBattery == No && s.Battery < 0:
		because = "how full the battery is is unknown"
	case s.OnBattery == No && s.Battery < lowBattery:
		because = fmt.Sprintf("the battery is at %.0f %%", s.Battery)
	case s.Metered == Yes:
		because = "the network is metered"
	case s.Metered == Unknown:
		because = "whether the network is metered is unknown"
	case !l.Known:
		because = "what others use is unknown"
	case crowded(l, set):
		because = fmt.Sprintf("others use %.0f %% of the processors", l.Others)
	case capsOf(set, l).Memory < leastMemory:
		because = "there is no memory to spare"
	case capsOf(set, l).Memory < l.Ours: // the kernel would end somebody's program, in the middle of a call
		because = "hosted cells have more memory than there is to spare now"
	case l.DiskBusy > set.Busy && l.DiskBPS > l.DiskOurs: // else what is hosted may be why
		because = fmt.Sprintf("others keep a disk busy for %.0f %% of the time", l.DiskBusy)
	}
	return because, now
}

// colon sets the reason of something behind it.
func colon(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// capsOf gives what may be used: what the owner allows, and never what others need.
func capsOf(set Settings, l Load) Caps {
	free := l.Free - int64(float64(l.Total)*spareMemory/100)
	if set.Max {
		return Caps{CPU: max(100-l.Others-maxLeaves, minPercent), Memory: max(free, 0), Disk: unlimitedBPS, Firm: set.Busy >= always}
	}
	return Caps{
		CPU:    set.CPU,
		Memory: max(min(int64(float64(l.Total)*set.RAM/100), free), 0),
		Disk:   set.Disk,
		Firm:   set.Busy >= always,
	}
}

func earliest(t time.Time, others ...time.Time) time.Time {
	for _, o := range others {
		if !o.IsZero() && o.Before(t) {
			t = o
		}
	}
	return t
}

// clockOf gives a time for people, as short as it is clear.
func clockOf(t, now time.Time) string {
	t = t.In(now.Location())
	switch {
	case t.IsZero():
		return "ever"
	case t.Sub(now).Abs() < 20*time.Hour:
		return t.Format("15:04")
	}
	return t.Format("Mon 2 Jan 15:04")
}
