package give

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Need is what a cell that is offered wants.
type Need struct {
	CID       string  // of its manifest
	Publisher string  // peer ID of the account that signed it
	ForWhom   string  // peer ID of who asks for it
	Network   string  // that the request comes from; "": not known
	CPU       float64 // cores; 0: whatever there is
	Memory    int64   // bytes; 0: not said
	GPU       bool
	Source    bool // there is no program for this machine: it has to be built
}

// Row is a cell that is hosted, or is just being taken up.
type Row struct {
	CID        string    `json:"cid"`
	Name       string    `json:"name"`
	Version    string    `json:"version"`
	Dir        string    `json:"dir"`
	Publisher  string    `json:"publisher"` // peer ID
	ForWhom    string    `json:"for"`       // peer ID of who asked for it
	Network    string    `json:"-"`         // that the request came from; "": not known any more
	State      string    `json:"state"`     // taking up, running, paused, ...
	Since      time.Time `json:"since"`
	CPUPercent float64   `json:"cpu_percent"` // of the machine
	RSS        int64     `json:"rss"`         // bytes
	DiskBPS    int64     `json:"disk_bps"`
	Memory     int64     `json:"memory"` // bytes that its program may use
	Used       time.Time `json:"used"`   // when it was called last, as far as that was seen
	Error      string    `json:"error,omitempty"`

	Idle    time.Duration `json:"-"` // for how long it could have been called, and was not
	Leaving bool          `json:"-"` // it goes once another is there that is being taken up
}

// Answer is what an offer gets: yes, or no with the reason. When is after how long it may be asked again; 0
// with a no: never.
type Answer struct {
	OK      bool
	Why     string
	When    time.Duration
	Memory  int64  // bytes that the program may use, with a yes
	Instead string // with a yes: the CID of what makes room for it; ""
}

// Answers that come again.
const (
	whenFull = time.Minute // at the least
	whenOff  = time.Hour
)

// IdleRoom is for how long nobody has called what makes room for a cell that is offered. Without that, whoever had
// cells taken up that nobody wants would hold all places for a day.
const IdleRoom = 10 * time.Minute

// admit answers an offer. It is pure; rows are those that are hosted already.
func admit(now time.Time, set Settings, d Decision, l Load, rows []Row, n Need) Answer {
	never := func(format string, args ...any) Answer { return Answer{Why: fmt.Sprintf(format, args...)} }
	p := set.Policy
	switch {
	case slices.Contains(p.Deny, n.CID) || slices.Contains(p.Deny, n.Publisher):
		return never("the owner of this machine does not want this cell")
	case len(p.Allow) > 0 && !slices.Contains(p.Allow, n.Publisher):
		return never("the owner of this machine allows certain publishers only")
	case n.GPU: // whatever an earlier version has let the owner set
		return never("no GPU is given: a program in a sandbox sees none")
	case n.Source && !p.BuildFromSource:
		return never("there is no program for this machine, and it does not build from source")
	case !set.On:
		return Answer{Why: "this machine gives nothing now", When: whenOff}
	case !d.Run: // why is nobody else's affair
		return Answer{Why: "this machine is in use", When: max(d.Again.Sub(now), d.Least.Sub(now), time.Second)}
	}
	rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Leaving })
	a, full := beside(set, d, l, rows, n)
	if !full || len(rows) == 0 {
		return a
	}
	idlest := slices.MaxFunc(rows, func(a, b Row) int { return cmp.Compare(a.Idle, b.Idle) })
	if left := IdleRoom - idlest.Idle; left > 0 {
		a.When = max(left, whenFull)
		return a
	}
	a, _ = beside(set, d, l, slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.CID == idlest.CID }), n)
	if a.OK {
		a.Instead = idlest.CID
	}
	return a
}

// beside answers an offer by the room that others leave. full says that there is none, which is otherwise when one of
// them goes.
func beside(set Settings, d Decision, l Load, rows []Row, n Need) (a Answer, full bool) {
	p := set.Policy
	most, now := largest(mostMemory(set, l), p.Hosts), largest(d.Caps.Memory, p.Hosts)
	switch {
	case len(rows) >= p.Hosts:
		return Answer{Why: "this machine hosts as many cells as it may"}, true
	case n.Memory > most:
		return Answer{Why: tooLarge(n.Memory, most)}, false
	case n.Memory > now: // others need it just now
		return Answer{Why: tooLarge(n.Memory, now) + " now", When: whenFull}, false
	}
	bytes, ok := grant(d.Caps.Memory, p.Hosts, rows, n.Memory)
	switch {
	case greedy(p, rows, n, d.Caps.Memory, bytes):
		return Answer{Why: "this machine hosts as much as it may for one peer, one network, or of one publisher", When: whenFull}, false
	case !ok:
		return Answer{Why: "the cells that this machine hosts leave no memory for it"}, true
	}
	return Answer{OK: true, Memory: bytes}, false
}

// greedy says that half of the places, or of the memory, would be taken by more than one cell for who asks, its network
// or the publisher, unless the owner has named whose cells are wanted. Whoever fills a machine with cells that are called
// once a day would keep it.
func greedy(p Policy, rows []Row, n Need, memory, bytes int64) bool {
	for _, same := range []func(*Row) bool{
		func(r *Row) bool { return r.ForWhom == n.ForWhom },
		func(r *Row) bool { return r.Network == n.Network && n.Network != "" },
		func(r *Row) bool { return r.Publisher == n.Publisher && len(p.Allow) == 0 },
	} {
		var theirs []Row
		for i := range rows {
			if same(&rows[i]) {
				theirs = append(theirs, rows[i])
			}
		}
		if len(theirs) >= (p.Hosts+1)/2 || len(theirs) > 0 && taken(theirs)+bytes+nucleusMemory > memory/2 {
			return true
		}
	}
	return false
}

// share is the part of one cell where nothing holds the caps of all together: with it the sum is right,
// however many there are.
func (c Caps) share(hosts int) Caps {
	n := float64(max(hosts, 1))
	return Caps{CPU: c.CPU / n, Memory: int64(float64(c.Memory) / n), Disk: int64(float64(c.Disk) / n)}
}
