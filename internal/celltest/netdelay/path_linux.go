package netdelay

import (
	"container/heap"
	"net/netip"
	"time"
)

// Path is the way between two machines, the same in both directions.
type Path struct {
	Delay time.Duration // one way
	Loss  float64       // 0 to 1: the share of packets that do not arrive
	Cut   bool          // nothing arrives
}

// MTU is what a packet has at most, as on Ethernet.
const MTU = 1500

const (
	headerLen  = 20       // of IPv4
	maxWaiting = 16 << 10 // packets on their way in the whole network; what comes then is dropped, as by a router
)

// destination gives where an IPv4 packet goes.
func destination(packet []byte) (netip.Addr, bool) {
	if len(packet) < headerLen || packet[0]>>4 != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(packet[16:20])), true
}

// parcel is a packet on its way.
type parcel struct {
	due      time.Time
	seq      uint64 // of those that are due at once the first goes first
	from, to *Machine
	data     []byte
}

// road is a heap of what is on its way, the first due first.
type road []parcel

func (r road) Len() int { return len(r) }
func (r road) Less(i, j int) bool {
	if r[i].due.Equal(r[j].due) {
		return r[i].seq < r[j].seq
	}
	return r[i].due.Before(r[j].due)
}
func (r road) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r *road) Push(x any)   { *r = append(*r, x.(parcel)) }
func (r *road) Pop() any {
	last := (*r)[len(*r)-1]
	(*r)[len(*r)-1] = parcel{}
	*r = (*r)[:len(*r)-1]
	return last
}

var _ heap.Interface = (*road)(nil)
