//go:build !linux

package sandbox

import "github.com/celldnet/celld/cellproto"

// Pool holds limits. Here there is none.
type Pool struct{}

// OpenPool fails: only Linux has control groups.
func OpenPool(string) (*Pool, error) {
	return nil, cellproto.Errorf("make a control group for what is hosted", cellproto.Unsupported, "%s", onlyLinux())
}

// Groups gives nothing.
func (p *Pool) Groups() map[string]string { return nil }

// By gives nothing.
func (p *Pool) By() string { return "" }

// Set fails.
func (p *Pool) Set(PoolLimits) error {
	return cellproto.Errorf("limit what is hosted", cellproto.Unsupported, "%s", onlyLinux())
}

// GiveWay does nothing.
func (p *Pool) GiveWay(bool) {}

// Used gives nothing.
func (p *Pool) Used() PoolUsage { return PoolUsage{} }

// Close does nothing.
func (p *Pool) Close() {}

// EnterPool fails.
func EnterPool(map[string]string, string) (string, error) {
	return "", cellproto.Errorf("enter the control group for what is hosted", cellproto.Unsupported, "%s", onlyLinux())
}

// LeavePool does nothing.
func LeavePool(map[string]string, string) {}
