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

	Idle time.Duration `json:"-"` // for how long it could have been called, and was not
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
	instead := ""
	if len(rows) >= p.Hosts {
		idlest := slices.MaxFunc(rows, func(a, b Row) int { return cmp.Compare(a.Idle, b.Idle) })
		if left := IdleRoom - idlest.Idle; left > 0 {
			return Answer{Why: "this machine hosts as many cells as it may", When: max(left, whenFull)}
		}
		instead = idlest.CID
		rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.CID == instead })
	}
	if greedy(p, rows, n) {
		return Answer{Why: "this machine hosts as many cells as it may for one peer, one network, or of one publisher", When: whenFull}
	}
	if most := largest(mostMemory(set, l), p.Hosts); n.Memory > most {
		return never("%s", tooLarge(n.Memory, most))
	}
	if n.Memory > largest(d.Caps.Memory, p.Hosts) { // others need it just now
		return Answer{Why: tooLarge(n.Memory, largest(d.Caps.Memory, p.Hosts)) + " now", When: whenFull}
	}
	bytes, ok := grant(d.Caps.Memory, p.Hosts, rows, n.Memory)
	if !ok {
		return Answer{Why: "the cells that this machine hosts leave no memory for it", When: whenFull}
	}
	return Answer{OK: true, Memory: bytes, Instead: instead}
}

// greedy says that half of the places are taken by who asks already, or by the publisher, unless the owner has named
// whose cells are wanted. Whoever fills a machine with cells that are called once a day would keep it.
func greedy(p Policy, rows []Row, n Need) bool {
	most, asked, network, published := (p.Hosts+1)/2, 0, 0, 0
	for i := range rows {
		r := &rows[i]
		if r.ForWhom == n.ForWhom {
			asked++
		}
		if r.Network == n.Network && n.Network != "" {
			network++
		}
		if r.Publisher == n.Publisher && len(p.Allow) == 0 {
			published++
		}
	}
	return max(asked, network, published) >= most
}

// share is the part of one cell where nothing holds the caps of all together: with it the sum is right,
// however many there are.
func (c Caps) share(hosts int) Caps {
	n := float64(max(hosts, 1))
	return Caps{CPU: c.CPU / n, Memory: int64(float64(c.Memory) / n), Disk: int64(float64(c.Disk) / n)}
}
