package sandbox

import "time"

// A Pool is one bound around many sandboxes, and around the daemons that start them: a control group of
// its own, below which theirs are made. What a sandbox is given itself counts inside of it.

// PoolLimits bound all that is in a pool together.
type PoolLimits struct {
	CPU    float64 // cores
	Memory int64   // bytes
	Disk   int64   // bytes a second that are read, and as many that are written; 0: no bound
}

// PoolUsage is what all that is in a pool has used: CPU and Disk in all so far, RSS now.
type PoolUsage struct {
	CPU  time.Duration
	RSS  int64 // bytes, without what is only cached
	Disk int64 // bytes read from and written to disks
}
