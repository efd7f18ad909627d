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
	CPU       float64 // cores; 0: whatever there is
	Memory    int64   // bytes; 0: whatever there is
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
	State      string    `json:"state"`     // taking up, running, paused, ...
	Since      time.Time `json:"since"`
	CPUPercent float64   `json:"cpu_percent"` // of the machine
	RSS        int64     `json:"rss"`         // bytes
	DiskBPS    int64     `json:"disk_bps"`
	Error      string    `json:"error,omitempty"`

	Idle time.Duration `json:"-"` // for how long it could have been called, and was not
}

// Answer is what an offer gets: yes, or no with the reason. When is after how long it may be asked again; 0
// with a no: never.
type Answer struct {
	OK      bool
	Why     string
	When    time.Duration
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
func admit(now time.Time, set Settings, d Decision, rows []Row, n Need) Answer {
	never := func(format string, args ...any) Answer { return Answer{Why: fmt.Sprintf(format, args...)} }
	p := set.Policy
	switch {
	case slices.Contains(p.Deny, n.CID):
		return never("the owner of this machine does not want this cell")
	case len(p.Allow) > 0 && !slices.Contains(p.Allow, n.Publisher):
		return never("the owner of this machine allows certain publishers only")
	case n.GPU && !p.GPU:
		return never("this machine does not give a GPU")
	case n.Source && !p.BuildFromSource:
		return never("there is no program for this machine, and it does not build from source")
	case !set.On:
		return Answer{Why: "this machine gives nothing now", When: whenOff}
	case !d.Run: // why is nobody else's affair
		return Answer{Why: "this machine is in use", When: max(d.Again.Sub(now), time.Second)}
	}
	instead := ""
	if len(rows) >= p.Hosts {
		idlest := slices.MaxFunc(rows, func(a, b Row) int { return cmp.Compare(a.Idle, b.Idle) })
		if left := IdleRoom - idlest.Idle; left > 0 {
			return Answer{Why: "this machine hosts as many cells as it may", When: max(left, whenFull)}
		}
		instead = idlest.CID
	}
	if share := d.Caps.share(p.Hosts); n.Memory > share.Memory {
		return never("%d MiB of memory are more than the %d MiB that a cell gets here", n.Memory>>20, share.Memory>>20)
	}
	return Answer{OK: true, Instead: instead}
}

// share is the part of one cell where nothing holds the caps of all together: with it the sum is right,
// however many there are.
func (c Caps) share(hosts int) Caps {
	n := float64(max(hosts, 1))
	return Caps{CPU: c.CPU / n, Memory: int64(float64(c.Memory) / n), Disk: int64(float64(c.Disk) / n)}
}
