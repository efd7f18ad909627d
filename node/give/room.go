package give

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// How the memory that is given is divided. Who hosts nobody has measured what a program needs: its manifest may
// say it, and else it gets a share and has to do with that.

const (
	// nucleusMemory is what the daemon of a hosted cell is counted with, in bytes: it is within the caps, too, and
	// 40 to 60 MiB were seen.
	nucleusMemory = 64 << 20
	// usualMemory is what a program has at least that has not said what it needs, if that leaves more than one.
	usualMemory = 64 << 20
	// leastProgram is what one has at least that is alone.
	leastProgram = 16 << 20
	leastMemory  = nucleusMemory + leastProgram
)

// StateRunning is the State of a Row that runs, and so has its memory.
const StateRunning = "running"

// mostMemory is what the caps are while others need nothing of it.
func mostMemory(set Settings, l Load) int64 {
	if set.Max {
		return int64(float64(l.Total) * (100 - spareMemory) / 100)
	}
	return int64(float64(l.Total) * set.RAM / 100)
}

// places is for how many cells there is memory, at most as many as the owner wants.
func places(memory int64, hosts int) int {
	return int(min(max(memory/(nucleusMemory+usualMemory), 1), int64(hosts)))
}

// largest is what one program may say that it needs: half of what is given, so that others find room as well,
// or all of it where there is one place only.
func largest(memory int64, hosts int) int64 {
	return memory/int64(min(places(memory, hosts), 2)) - nucleusMemory
}

// share is what a program gets that has not said what it needs.
func share(memory int64, hosts int) int64 {
	return min(memory/int64(places(memory, hosts))-nucleusMemory, celltoml.DefaultMemory)
}

// grant gives what one more program may use, of what the others leave. It is pure.
func grant(memory int64, hosts int, rows []Row, need int64) (bytes int64, ok bool) {
	left := memory - taken(rows) - nucleusMemory
	if need > 0 {
		return need, need <= min(left, largest(memory, hosts))
	}
	bytes = share(memory, hosts)
	return min(bytes, left), left >= min(bytes, usualMemory)
}

// taken is what cells are counted with.
func taken(rows []Row) (bytes int64) {
	for i := range rows {
		bytes += rows[i].Memory + nucleusMemory
	}
	return bytes
}

// fits says whether one that has its place already may be started now. Of those that do not run either, the
// first ones do. It is pure.
func fits(memory int64, rows []Row, row Row) bool {
	for i := range rows {
		if r := &rows[i]; r.CID != row.CID && (r.State == StateRunning || r.CID < row.CID) {
			memory -= r.Memory + nucleusMemory
		}
	}
	return row.Memory+nucleusMemory <= memory
}

// surplus gives those that are more than the owner wants by now, or need more memory together, the least used
// first. It is pure.
func surplus(set Settings, l Load, rows []Row) (out []Row) {
	left := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Leaving })
	slices.SortFunc(left, func(a, b Row) int {
		return cmp.Or(a.Used.Compare(b.Used), b.Since.Compare(a.Since), cmp.Compare(a.CID, b.CID))
	})
	for len(left) > set.Policy.Hosts || len(left) > 0 && l.Known && taken(left) > mostMemory(set, l) {
		out, left = append(out, left[0]), left[1:]
	}
	return out
}

// Surplus gives the cells that are too many for what the owner of this machine wants by now.
func (r *Report) Surplus() []Row { return surplus(r.Settings, r.Snapshot.Load, r.Rows) }

// Places is for how many cells there is memory now, at most as many as the owner wants; 0: nothing is given now.
func (r *Report) Places() int {
	if !r.Decision.Run {
		return 0
	}
	return places(r.Decision.Caps.Memory, r.Settings.Policy.Hosts)
}

// Place says where a cell that is hosted runs, and what it may use: all that is given of the processors, if
// control groups hold that, else its share of it. The error says that there is no memory for it now.
func (g *Giver) Place(ctx context.Context, row Row) (*Placement, error) {
	rows := slices.DeleteFunc(slices.Clone(g.hosted.Rows(ctx)), func(r Row) bool { return r.Leaving && r.State != StateRunning }) // it made room
	g.mu.Lock()
	defer g.mu.Unlock()
	if !fits(g.decision.Caps.Memory, rows, row) {
		return nil, cellproto.Errorf("give it a place", cellproto.Overloaded, "there is no memory for its %d MiB now", row.Memory>>20)
	}
	return g.placement(len(rows), row.ForWhom, row.Memory), nil
}

// BuildPlace says where a cell is built that is taken up, and what the build may use: the memory that the cells
// which are hosted leave, while it runs.
func (g *Giver) BuildPlace(ctx context.Context) *Placement {
	rows := g.hosted.Rows(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.placement(len(rows), "", max(g.decision.Caps.Memory-taken(rows), 1))
}

// placement is for one of so many cells. g.mu is held.
func (g *Giver) placement(cells int, forWhom string, memory int64) *Placement {
	caps := g.decision.Caps
	part := caps.share(max(g.set.Policy.Hosts, cells))
	p := &Placement{Home: g.cfg.Dir, Groups: g.groups, For: forWhom, CreditTo: g.set.Policy.CreditTo, Memory: memory, Disk: part.Disk}
	if len(p.Groups) == 0 {
		caps = part
	}
	p.CPU = caps.CPU / 100 * float64(max(g.snapshot.Load.Cores, 1))
	return p
}

// Caps are what all that is hosted may use now; zero: nothing.
func (g *Giver) Caps() Caps { return g.lastDecision().Caps }

// tooLarge says why a program that says how much memory it needs gets none.
func tooLarge(need, most int64) string {
	return fmt.Sprintf("%d MiB of memory are more than the %d MiB that a cell gets here", need>>20, most>>20)
}
