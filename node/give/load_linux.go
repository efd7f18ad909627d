package give

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
)

// processors are what the kernel has counted of all processors' time up to a moment.
type processors struct {
	at          time.Time
	cores       int
	busy, total float64 // seconds
	ours        time.Duration
}

// disks are what it has counted of disks.
type disks struct {
	at    time.Time
	bytes int64 // that all of them have read and written
	ticks map[string]uint64
	ours  int64
}

// What a measurement takes.
const (
	measureFirst = 250 * time.Millisecond // with none before it
	measureLeast = LoadEvery * 9 / 10     // shorter ones say little: a moment's work is no load
	measureMost  = 2 * LookEvery          // longer ones are of another time
	sectorBytes  = 512
)

// load measures what others have used, of processors since the look or glance before, else since the look
// before. The first look has none before it and takes measureFirst.
func (m *machine) load(ctx context.Context, ours Usage) (l Load) {
	if since := m.now().Sub(m.cpu.at); since < 0 || since > measureMost {
		if m.cpu, l.Known = m.countProcessors(ours.CPU); !l.Known {
			return Load{}
		}
		m.disk, m.others = m.countDisks(ours.Disk), -1
		select {
		case <-time.After(measureFirst):
		case <-ctx.Done():
			return Load{}
		}
	}
	var ok bool
	if l.Others, ok = m.othersUse(ours.CPU); !ok {
		return Load{}
	}
	l.Cores = m.cpu.cores
	now := m.countDisks(ours.Disk)
	l.DiskBusy, l.DiskBPS, l.DiskOurs = diskLoad(m.disk, now)
	m.disk = now
	l.Known = m.memory(&l, ours)
	return l
}

// othersUse gives what others have used of the processors, in percent, since it was asked last, or as it said
// then if that is too short a time ago.
func (m *machine) othersUse(ours time.Duration) (percent float64, ok bool) {
	if m.others >= 0 && m.now().Sub(m.cpu.at) < measureLeast {
		return m.others, true
	}
	now, ok := m.countProcessors(ours)
	if !ok {
		return 0, false
	}
	m.others = processorLoad(m.cpu, now)
	m.cpu = now
	return m.others, true
}

// measureDue says that othersUse would measure.
func (m *machine) measureDue() bool {
	since := m.now().Sub(m.cpu.at)
	return since < 0 || since >= measureLeast
}

func (m *machine) countProcessors(ours time.Duration) (c processors, ok bool) {
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
	c.cores = len(stat.CPU)
	return c, c.cores > 0
}

// processorLoad gives what others have used between two moments, in percent.
func processorLoad(a, b processors) float64 {
	total := b.total - a.total
	if total <= 0 {
		return 0
	}
	others := b.busy - a.busy - max(b.ours-a.ours, 0).Seconds() // what has ended may count no more
	return min(max(100*others/total, 0), 100)
}

// countDisks counts what real disks do: what is made of them would be counted twice. Machines without any
// are no failure.
func (m *machine) countDisks(ours int64) disks {
	d := disks{at: m.now(), ticks: map[string]uint64{}, ours: ours}
	fs, err := blockdevice.NewFS(m.proc, m.sys)
	if err != nil {
		return d
	}
	stats, err := fs.ProcDiskstats()
	if err != nil {
		return d
	}
	for _, s := range stats {
		if _, err := os.Stat(filepath.Join(m.sys, "block", s.DeviceName, "device")); err != nil {
			continue
		}
		d.bytes += int64(s.ReadSectors+s.WriteSectors) * sectorBytes
		d.ticks[s.DeviceName] = s.IOsTotalTicks
	}
	return d
}

// diskLoad gives, of the time between two moments, how busy the busiest disk was, in percent, and what others, and
// what hosted cells have read and written, in bytes a second.
func diskLoad(a, b disks) (busy float64, bps, ours int64) {
	span := b.at.Sub(a.at).Seconds()
	if span <= 0 {
		return 0, 0, 0
	}
	mine := max(b.ours-a.ours, 0) // what has ended may count no more
	bps, ours = max(int64(float64(b.bytes-a.bytes-mine)/span), 0), int64(float64(mine)/span)
	for name, now := range b.ticks {
		if was, ok := a.ticks[name]; ok && now >= was {
			busy = max(busy, min(float64(now-was)/10/span, 100)) // ms to percent
		}
	}
	return busy, bps, ours
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
