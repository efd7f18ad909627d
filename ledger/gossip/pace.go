package gossip

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/ledger"
)

// How often a register of others is heard of. Both who use a register and who serve in it tell of it when it has grown by a tenth, by
// half of a window, or every ten minutes (ledger.PublishDue): what comes more often is put off, before its signatures are looked at, or
// two who sign for a µWh at a time had everybody check, write and pass on as many entries as they like.
const (
	smallBurst  = 4         // steps that are small
	smallRate   = 4.0 / 600 // a second: four in ten minutes
	othersBurst = 100       // of all registers past maxPaced together
	othersRate  = 1.0       // a second
	maxPaced    = 4096      // registers with small steps not long ago
	maxPutOff   = 1024      // entries that wait
)

// Early is what Counts has for entries that were put off.
const Early = "early"

// putOff names an entry that waits: of each register the newest of each neighbour, so that none can take the place of what
// another has said.
type putOff struct {
	from peer.ID
	slot ledger.Hash
}

// paces bounds the steps of registers. The zero value is ready. It has no lock.
type paces struct {
	regs   map[ledger.Hash]*bucket
	others bucket
	late   map[putOff][]byte
}

// bucket gives that of a step's register as it is now, and how much it holds; nil for a step that needs none.
func (p *paces) bucket(now time.Time, s ledger.Step) (b *bucket, burst float64) {
	if ledger.PublishDue(s.Before, s.Before+s.Gain, ledger.Window(s.Before), 0) {
		return nil, 0
	}
	b = p.regs[s.Slot]
	switch {
	case b != nil:
	case len(p.regs) >= maxPaced && !p.forget(now):
		p.others.drain(now, othersRate)
		return &p.others, othersBurst
	default:
		if p.regs == nil {
			p.regs = map[ledger.Hash]*bucket{}
		}
		b = &bucket{at: now}
		p.regs[s.Slot] = b
	}
	b.drain(now, smallRate)
	return b, smallBurst
}

// early says whether a step comes too soon after those that were taken.
func (p *paces) early(now time.Time, s ledger.Step) bool {
	b, burst := p.bucket(now, s)
	return b != nil && b.used > burst-1
}

// taken counts a step that was taken: what is forged takes nobody's place.
func (p *paces) taken(now time.Time, s ledger.Step) {
	if b, _ := p.bucket(now, s); b != nil {
		b.used++
	}
}

// forget drops registers that have been quiet, and says whether there is room now.
func (p *paces) forget(now time.Time) bool {
	for slot, b := range p.regs {
		if b.drain(now, smallRate); b.used == 0 {
			delete(p.regs, slot)
		}
	}
	return len(p.regs) < maxPaced
}

// put has an entry wait. Past maxPutOff it is dropped: it comes again when its register has grown, or all is read anew.
func (p *paces) put(from peer.ID, slot ledger.Hash, entry []byte) {
	k := putOff{from, slot}
	if _, ok := p.late[k]; !ok && len(p.late) >= maxPutOff {
		return
	}
	if p.late == nil {
		p.late = map[putOff][]byte{}
	}
	p.late[k] = entry
}

// early puts an entry off that comes too soon.
func (t *Travel) early(now time.Time, from peer.ID, s ledger.Step, entry []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paces.early(now, s) {
		return false
	}
	t.paces.put(from, s.Slot, entry)
	t.counts[Early]++
	t.refused[Early]++
	return true
}

// takeLate looks again at what was put off.
func (t *Travel) takeLate(now time.Time) {
	t.mu.Lock()
	late := t.paces.late
	t.paces.late = nil
	t.mu.Unlock()
	for k, entry := range late {
		if r, err := t.takeAt(now, k.from, entry); r.Verdict.Charged() {
			t.deps.Charge(k.from, err)
		}
	}
}
