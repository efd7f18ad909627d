package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// What makes the owner's work slower on a machine that gives is told apart by doing it again and again, while the machine
// gives in ways that differ by one thing each, and by where the processors' time goes meanwhile.

const (
	// shortWork is compiled instead of what the promise is about: what a pause costs is as long, and easier to see beside it.
	shortWork = "strings"
	// shortSettle is what the load of the short work needs to be no reason any more not to give; see settle.
	shortSettle = 3 * time.Second
	// hold is for how long a machine is as it is to be before the work begins.
	hold = time.Second
)

// way is how a machine gives while its owner works.
type way struct {
	name  string
	busy  string // the owner's mark; "": it does not give
	hosts bool   // a stranger's cell
	fed   bool   // which is called
}

// ways are in an order in which each has one thing more than the one before it.
func (o options) ways() []way {
	all := []way{
		{name: "alone"},
		{name: "giving", busy: o.busy},
		{name: "hosting", busy: o.busy, hosts: true},
		{name: "eating", busy: o.busy, hosts: true, fed: true},
		{name: "unpaused", busy: "100%", hosts: true, fed: true},
	}
	wanted := strings.Split(o.inWays, ",")
	return slices.DeleteFunc(all, func(w way) bool { return w.name != "alone" && !slices.Contains(wanted, w.name) })
}

// spent is where the time went while the owner worked.
type spent struct {
	took time.Duration // on the clock
	work time.Duration // of processors, by the work itself; so are the others
	by   [len(spenders)]time.Duration
	rest time.Duration // by all others
	idle time.Duration // by nobody; waiting for disks included
	lost time.Duration // stolen by other machines on the same one
}

// spenders are who else uses processors.
var spenders = [...]string{"the hosted program", "its daemon", "the home daemon", "the original", "its daemon there", "this program"}

// compared does the owner's short work in each way, by turns and back, and prints how long it took and where the time went.
func (o options) compared() error {
	p, err := o.pair(loopback, loopback)
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := p.donor.ctl("give", "stop"); err != nil { // it runs in every way
		return err
	}
	if _, _, err := o.compile(shortWork); err != nil { // what it reads is in memory from now on
		return err
	}
	ways := o.ways()
	all := make([][]spent, len(ways)) // by way, by round
	for round := range o.rounds {
		for i := range ways {
			if round%2 == 1 {
				i = len(ways) - 1 - i // so that what changes steadily changes nothing
			}
			s, err := o.workAs(ways[i], p.donor, p.cell, p.what)
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			all[i] = append(all[i], s)
			fmt.Fprintf(os.Stderr, "round %d of %d, %s: %.2f s\n", round+1, o.rounds, ways[i].name, s.took.Seconds())
		}
	}
	printCompared(ways, all)
	return nil
}

// workAs does the owner's short work once while the machine gives in a way. original is the directory of the cell that is hosted.
func (o options) workAs(w way, donor *machine, original string, what offer.Offer) (s spent, err error) {
	time.Sleep(shortSettle)
	var dir string
	if w.busy != "" {
		here := *donor
		here.o.busy = w.busy
		if err := here.give(); err != nil {
			return s, err
		}
		defer func() {
			_, stopErr := donor.ctl("give", "stop")
			err = errors.Join(err, stopErr)
		}()
	}
	if w.hosts {
		if dir, err = donor.place(what); err != nil {
			return s, err
		}
	}
	if w.fed {
		defer feed(dir)()
		if err := donor.until("it eats", func(g ctl.Giving) bool { return g.Used.CPU > 100*share/2 }); err != nil {
			return s, err
		}
	}
	time.Sleep(hold)
	return o.accounted(shortWork, pidsOf(dir, donor.home(), original))
}

// pidsOf gives the numbers of the spenders' processes; 0: there is none.
func pidsOf(hosted, home, original string) (pids [len(spenders)]int) {
	pids = [...]int{0, daemonOf(hosted), daemonOf(home), 0, daemonOf(original), os.Getpid()}
	for i, dir := range map[int]string{0: hosted, 3: original} {
		if dir == "" {
			continue
		}
		if status, err := statusOf(dir); err == nil {
			pids[i] = status.ProgramPID
		}
	}
	return pids
}

func daemonOf(dir string) int {
	text, _ := os.ReadFile(filepath.Join(dir, "run", "pid")) // "": 0, there is none
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// accounted does work of the owner's and gives where the time went.
func (o options) accounted(what string, pids [len(spenders)]int) (s spent, err error) {
	before, cpu, err := usedNow(pids)
	if err != nil {
		return s, err
	}
	if s.took, s.work, err = o.compile(what); err != nil {
		return s, err
	}
	after, cpuAfter, err := usedNow(pids)
	if err != nil {
		return s, err
	}
	seconds := func(a, b float64) time.Duration { return time.Duration((b - a) * float64(time.Second)) }
	busy := func(c procfs.CPUStat) float64 { return c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ }
	s.rest = seconds(busy(cpu), busy(cpuAfter)) - s.work
	for i := range s.by {
		s.by[i] = max(after[i]-before[i], 0)
		s.rest -= s.by[i]
	}
	s.idle = seconds(cpu.Idle+cpu.Iowait, cpuAfter.Idle+cpuAfter.Iowait)
	s.lost = seconds(cpu.Steal, cpuAfter.Steal)
	return s, nil
}

// usedNow gives what processes have used of processors so far, and what all of the machine's have been used for.
func usedNow(pids [len(spenders)]int) (used [len(spenders)]time.Duration, cpu procfs.CPUStat, err error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return used, cpu, err
	}
	for i, pid := range pids {
		if pid == 0 {
			continue
		}
		if p, err := fs.Proc(pid); err == nil { // else it has ended
			if stat, err := p.Stat(); err == nil {
				used[i] = time.Duration(stat.CPUTime() * float64(time.Second))
			}
		}
	}
	stat, err := fs.Stat()
	return used, stat.CPUTotal, err
}

// printCompared prints, for each way, how much longer the work took than alone in the same round, and where the time went.
func printCompared(ways []way, all [][]spent) {
	fmt.Printf("%-15s%9s %26s   of processors: work", "s, medians", "took", "longer than alone, %")
	for _, name := range spenders {
		fmt.Printf(", %s", name)
	}
	fmt.Println("; others; idle; stolen")
	for i, w := range ways {
		var ratios []float64
		for r, s := range all[i] {
			ratios = append(ratios, 100*(s.took.Seconds()/all[0][r].took.Seconds()-1))
		}
		of := func(f func(spent) time.Duration) float64 {
			var list []float64
			for _, s := range all[i] {
				list = append(list, f(s).Seconds())
			}
			return middle(list)
		}
		fmt.Printf("%-15s%9.2f %+8.1f (%+6.1f to %+6.1f)   %6.2f", w.name, of(func(s spent) time.Duration { return s.took }),
			middle(ratios), slices.Min(ratios), slices.Max(ratios), of(func(s spent) time.Duration { return s.work }))
		for j := range spenders {
			fmt.Printf(", %.2f", of(func(s spent) time.Duration { return s.by[j] }))
		}
		fmt.Printf("; %.2f; %.2f; %.2f\n", of(func(s spent) time.Duration { return s.rest }),
			of(func(s spent) time.Duration { return s.idle }), of(func(s spent) time.Duration { return s.lost }))
	}
	var self []float64 // how much of that is the machine's own
	for r := range all[0][1:] {
		self = append(self, 100*math.Abs(all[0][r+1].took.Seconds()/all[0][r].took.Seconds()-1))
	}
	if len(self) > 0 {
		fmt.Printf("alone it differs from one time to the next by %.1f %%, at most %.1f %%\n", middle(self), slices.Max(self))
	}
}

// middle gives the median; of an even number the mean of the two in the middle.
func middle(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}
