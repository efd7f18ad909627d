package give

import (
	"slices"
	"time"
)

// Refusal is an offer that was not taken, so that the owner sees why nothing is hosted.
type Refusal struct {
	At    time.Time // the last time
	CID   string
	Name  string
	Why   string
	Times int // that this was said of this cell
}

// maxRefused is how many are remembered: offers are strangers' to make.
const maxRefused = 8

// Refused notes that an offer was not taken. Any goroutine may call it.
func (g *Giver) Refused(cid, name, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = refuse(g.refused, Refusal{At: g.now(), CID: cid, Name: name, Why: why})
}

// refuse puts r before the others, the oldest of which are forgotten. It is pure.
func refuse(list []Refusal, r Refusal) []Refusal {
	r.Times = 1
	if i := slices.IndexFunc(list, func(o Refusal) bool { return o.CID == r.CID && o.Why == r.Why }); i >= 0 {
		r.Times += list[i].Times
		list = slices.Delete(slices.Clone(list), i, i+1)
	}
	list = append([]Refusal{r}, list...)
	return list[:min(len(list), maxRefused)]
}
