package cell

import (
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// The owner's calls, on connections that were handed over, wait a little for a place if there is none. So do calls
// that the nucleus passes on: it has found a place for them, which the owner's have taken meanwhile.

// placePatience is for how long: there is nobody else whom the owner's call could go to.
const placePatience = 5 * time.Second

// owner says whether the calls counted here are the owner's.
func (by *counted) owner() bool { return by != nil && by.share == nil }

// waits says whether calls that are counted here wait for a place.
func (by *counted) waits() bool { return by == nil || by.owner() }

// acceptLater takes a call for which there is no place yet.
func (s *server) acceptLater(conn *cellproto.Conn, f *cellproto.Frame, fn *Function, by *counted) {
	place, err := s.flights.await(by.owner())
	if err != nil {
		s.refuse(conn, f, err)
		return
	}
	c := s.begin(conn, f)
	if c.by = by; by != nil {
		by.page.Begin()
	}
	c.accept()
	s.tasks.Go(func() {
		defer s.over(c)
		timer := time.NewTimer(placePatience)
		defer timer.Stop()
		select {
		case <-place:
		case <-timer.C:
			if s.flights.giveUp(place) {
				if by != nil {
					by.page.Refuse()
				}
				s.reply(c.end(), result{}, errBusy)
				s.flights.gone()
				return
			}
		}
		s.answer(c, fn, c.in.Header.Codec, c.in.Payload, c.in.Body())
	})
}

// await counts a call that waits for a place, before all others if it is the owner's. What it gives is closed once there
// is one; end is due in any case.
func (f *flights) await(owner bool) (chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errStopping
	}
	place := make(chan struct{})
	f.n++
	if owner {
		f.waits = slices.Insert(f.waits, f.owners, place)
		f.owners++
	} else {
		f.waits = append(f.waits, place)
	}
	f.admit() // one may have become free meanwhile
	return place, nil
}

// giveUp takes a call out that waits; false if it has a place.
func (f *flights) giveUp(place chan struct{}) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.waits, place)
	if i < 0 {
		return false
	}
	f.waits = slices.Delete(f.waits, i, i+1)
	if i < f.owners {
		f.owners--
	}
	f.over++
	return true
}

// gone is called before the end of a call that has given up.
func (f *flights) gone() {
	f.mu.Lock()
	f.over--
	f.mu.Unlock()
}

// running gives how many calls have a place. f.mu is held.
func (f *flights) running() int { return f.n - f.over - len(f.waits) }

// admit gives free places to those who wait. f.mu is held.
func (f *flights) admit() {
	for len(f.waits) > 0 && (f.limit == 0 || f.running() < f.limit) {
		close(f.waits[0])
		f.waits = f.waits[1:]
		f.owners = max(f.owners-1, 0)
	}
}
