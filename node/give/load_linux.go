package give

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
)

// counters are what the kernel has counted up to a moment.
type counters struct {
	at          time.Time
	cores       int
	busy, total float64 // seconds of all processors
	disk        int64   // bytes that all disks have read and written
	ticks       map[string]uint64
	ours        Usage
}

// What a measurement takes.
const (
	measureLeast = 250 * time.Millisecond // shorter ones say nothing: the kernel counts in hundredths of a second
	measureMost  = 5 * time.Minute        // longer ones are of another time
	sectorBytes  = 512
)

// load measures what others have used since the look before. The first look has none before it and takes
// measureLeast.
func (m *machine) load(ctx context.Context, ours Usage) Load {
	if since := m.now().Sub(m.before.at); since < measureLeast || since > measureMost {
		before, ok := m.count(ours)
		if !ok {
			return Load{}
		}
		m.before = before
		select {
		case <-time.After(measureLeast):
		case <-ctx.Done():
			return Load{}
		}
	}
	now, ok := m.count(ours)
	if !ok {
		return Load{}
	}
	before := m.before
	m.before = now
	l := between(before, now)
	l.Known = m.memory(&l, ours)
	return l
}

func (m *machine) count(ours Usage) (c counters, ok bool) {
	fs, err := procfs.NewFS(m.proc)
	if err != nil {
		return c, false
	}
	stat, err := fs.Stat()
	if err != nil {
		return c, false
	}
	cpu := stat.CPUTotal
	c.at, c.ours = m.now(), ours
	c.busy = cpu.User + cpu.Nice + cpu.System + cpu.IRQ + cpu.SoftIRQ // guests are among the users
	c.total = c.busy + cpu.Idle + cpu.Iowait + cpu.Steal
	m.countDisks(&c)
	c.cores = len(stat.CPU)
	return c, c.cores > 0
}

// countDisks counts what real disks do: what is made of them would be counted twice. Machines without any
// are no failure.
func (m *machine) countDisks(c *counters) {
	c.ticks = map[string]uint64{}
	fs, err := blockdevice.NewFS(m.proc, m.sys)
	if err != nil {
		return
	}
	stats, err := fs.ProcDiskstats()
	if err != nil {
		return
	}
	for _, d := range stats {
		if _, err := os.Stat(filepath.Join(m.sys, "block", d.DeviceName, "device")); err != nil {
			continue
		}
		c.disk += int64(d.ReadSectors+d.WriteSectors) * sectorBytes
		c.ticks[d.DeviceName] = d.IOsTotalTicks
	}
}

// between gives the load between two moments, without memory.
func between(a, b counters) (l Load) {
	span := b.at.Sub(a.at).Seconds()
	l.Cores = b.cores
	if total := b.total - a.total; total > 0 {
		others := b.busy - a.busy - max(b.ours.CPU-a.ours.CPU, 0).Seconds() // what has ended may count no more
		l.Others = min(max(100*others/total, 0), 100)
	}
	if span <= 0 {
		return l
	}
	l.DiskBPS = max(int64(float64(b.disk-a.disk-max(b.ours.Disk-a.ours.Disk, 0))/span), 0)
	for name, now := range b.ticks {
		if was, ok := a.ticks[name]; ok && now >= was {
			l.DiskBusy = max(l.DiskBusy, min(float64(now-was)/10/span, 100)) // ms to percent
		}
	}
	return l
}

func (m *machine) memory(l *Load, ours Usage) bool {
	fs, err := procfs.NewFS(m.proc)
	if err != nil {
		return false
	}
	info, err := fs.Meminfo()
	if err != nil || info.MemTotalBytes == nil || info.MemAvailableBytes == nil {
		return false
	}
	l.Total, l.Ours = int64(*info.MemTotalBytes), ours.RSS
	l.Free = min(int64(*info.MemAvailableBytes)+ours.RSS, l.Total)
	return true
}
