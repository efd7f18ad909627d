package give

import "time"

// Rates is what the hosted cells use now.
type Rates struct {
	CPUPercent float64 // of the machine
	RSS        int64
	DiskBPS    int64
}

// meter makes rates of totals. It is pure.
type meter struct {
	at    time.Time
	total Usage
	rates Rates
}

// meterLeast is the shortest time that a rate is measured over.
const meterLeast = time.Second

// add takes in what was used up to now, and gives the rates since the time before.
func (m *meter) add(now time.Time, total Usage, cores int) Rates {
	span := now.Sub(m.at)
	m.rates.RSS = total.RSS
	switch {
	case m.at.IsZero() || total.CPU < m.total.CPU || total.Disk < m.total.Disk: // what held the limits was made anew
		m.rates.CPUPercent, m.rates.DiskBPS = 0, 0
	case span < meterLeast:
		return m.rates
	default:
		m.rates.CPUPercent = 100 * (total.CPU - m.total.CPU).Seconds() / span.Seconds() / float64(max(cores, 1))
		m.rates.DiskBPS = int64(float64(total.Disk-m.total.Disk) / span.Seconds())
	}
	m.at, m.total = now, total
	return m.rates
}
