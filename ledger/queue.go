package ledger

import (
	"cmp"
	"slices"
)

// The shares of a busy host that its owner leaves.
const (
	earnedShare   = 95
	strangerShare = 5
	// A group of strangers gets at most this fraction of what one of the earned gets on average: where
	// strangers are many, all of 5 % shared among them would be more than a tenth.
	strangerPart = 12
)

// Request is one call that waits, as the queue sees it.
type Request struct {
	ID      uint64
	Caller  Key // account, if it has one
	Class   Class
	Weight  uint64 // in its class
	Group   string // of strangers: address prefix, and who introduced them; they share one place
	Cost    uint64 // µWh, as it is expected
	account *flow
	group   *flow
}

// Queue decides who is next on a busy host: the owner; then, 95 to 5, those who have earned it and all
// strangers together. Shares are of cost, not of calls, by start-time fair queueing (Goyal, Vin and
// Cheng, 1996): whoever was idle saves nothing up, and what nobody of one class wants another gets.
// Among the earned the weight decides; among strangers groups take turns, and in them callers, so that
// many identities behind one address are one. It has no lock and no clock.
type Queue struct {
	owner   []*Request
	classes fair // its flows are the two classes
	earned  fair // flows: callers
	groups  fair // flows: groups, each with a fair of callers
	inner   map[string]*fair
	running map[uint64]*Request
	n       int
}

// flow is one who takes part in a share.
type flow struct {
	key    string
	weight float64
	finish float64 // virtual time at which what it has had would have ended
	wait   []*Request
	n      int // requests below it, when they are not in wait
}

// fair shares among flows.
type fair struct {
	now   float64 // virtual time: the start of what was served last
	flows map[string]*flow
}

// maxFlows bounds the memory of who has had what.
const maxFlows = 1024

func (f *fair) flow(key string, weight float64) *flow {
	fl := f.flows[key]
	if fl == nil {
		if f.flows == nil {
			f.flows = map[string]*flow{}
		}
		if len(f.flows) >= maxFlows {
			f.forget()
		}
		fl = &flow{key: key, finish: f.now}
		f.flows[key] = fl
	}
	fl.weight = weight
	return fl
}

// forget drops those who wait for nothing: first all who have nothing to make up for, else the half
// that has least.
func (f *fair) forget() {
	var idle []*flow
	for key, fl := range f.flows {
		switch {
		case len(fl.wait) > 0 || fl.n > 0:
		case fl.finish <= f.now:
			delete(f.flows, key)
		default:
			idle = append(idle, fl)
		}
	}
	if len(f.flows) < maxFlows {
		return
	}
	slices.SortFunc(idle, func(a, b *flow) int { return cmp.Or(cmp.Compare(a.finish, b.finish), cmp.Compare(a.key, b.key)) })
	for _, fl := range idle[:(len(idle)+1)/2] {
		delete(f.flows, fl.key)
	}
}

// next gives the flow whose turn it is.
func (f *fair) next() *flow {
	var best *flow
	for _, fl := range f.flows {
		if len(fl.wait) == 0 && fl.n == 0 {
			continue
		}
		if best == nil || max(fl.finish, f.now) < max(best.finish, f.now) ||
			max(fl.finish, f.now) == max(best.finish, f.now) && fl.key < best.key {
			best = fl
		}
	}
	return best
}

// serve has a flow pay for a request.
func (f *fair) serve(fl *flow, cost uint64) {
	f.now = max(fl.finish, f.now)
	fl.finish = f.now + float64(max(cost, 1))/fl.weight
}

// Push adds a request.
func (q *Queue) Push(r Request) {
	if q.inner == nil {
		q.inner, q.running = map[string]*fair{}, map[uint64]*Request{}
	}
	q.n++
	p := &r
	r.Weight = max(r.Weight, 1)
	caller := string(r.Caller[:])
	switch r.Class {
	case ClassOwner:
		q.owner = append(q.owner, p)
		return
	case ClassEarned:
		r.account = q.earned.flow(caller, float64(r.Weight))
		q.classes.flow(ClassEarned.String(), earnedShare).n++
	default:
		r.Class = ClassStranger
		in := q.inner[r.Group]
		if in == nil {
			in = &fair{}
			q.inner[r.Group] = in
		}
		r.group = q.groups.flow(r.Group, 1)
		r.group.n++
		r.account = in.flow(caller, 1)
		q.classes.flow(ClassStranger.String(), strangerShare).n++
	}
	r.account.wait = append(r.account.wait, p)
}

// Pop gives the request that is next, or false if none waits. Done is called when it has ended.
func (q *Queue) Pop() (Request, bool) {
	if q.n == 0 {
		return Request{}, false
	}
	q.n--
	var r *Request
	if len(q.owner) > 0 {
		r, q.owner = q.owner[0], q.owner[1:]
		q.running[r.ID] = r
		return *r, true
	}
	q.share()
	class := q.classes.next()
	class.n--
	if class.key == ClassEarned.String() {
		r = q.earned.take()
	} else {
		group := q.groups.next()
		group.n--
		r = q.inner[group.key].take()
		q.groups.serve(group, r.Cost)
	}
	q.classes.serve(class, r.Cost)
	q.running[r.ID] = r
	q.tidy(r)
	return *r, true
}

// share sets the weight of strangers by how many wait. Identities do not count, only groups, and more
// of them than the share is worth gain nothing.
func (q *Queue) share() {
	s := q.classes.flows[ClassStranger.String()]
	if s == nil || s.n == 0 {
		return
	}
	earned := q.earned.waiting()
	s.weight = strangerShare
	if earned > 0 {
		s.weight = min(s.weight, earnedShare*float64(q.groups.waiting())/float64(strangerPart*earned))
	}
}

func (f *fair) waiting() (n int) {
	for _, fl := range f.flows {
		if len(fl.wait) > 0 || fl.n > 0 {
			n++
		}
	}
	return n
}

// take gives the next request of the next flow.
func (f *fair) take() *Request {
	fl := f.next()
	r := fl.wait[0]
	fl.wait = fl.wait[1:]
	f.serve(fl, r.Cost)
	return r
}

// tidy forgets the callers of a group that nobody waits in.
func (q *Queue) tidy(r *Request) {
	if r.group != nil && r.group.n == 0 {
		delete(q.inner, r.Group)
	}
}

// Done says what a request has cost in the end. Its caller, its group and its class make up for the
// difference.
func (q *Queue) Done(id, cost uint64) {
	r := q.running[id]
	if r == nil {
		return
	}
	delete(q.running, id)
	if r.Class == ClassOwner {
		return
	}
	diff := float64(max(cost, 1)) - float64(max(r.Cost, 1))
	r.account.finish += diff / r.account.weight
	if r.group != nil {
		r.group.finish += diff
	}
	class := q.classes.flows[r.Class.String()]
	class.finish += diff / class.weight
}

// Drop takes a request out that nobody waits for any more, as when its deadline has passed.
func (q *Queue) Drop(id uint64) bool {
	is := func(r *Request) bool { return r.ID == id }
	if i := slices.IndexFunc(q.owner, is); i >= 0 {
		q.owner = slices.Delete(q.owner, i, i+1)
		q.n--
		return true
	}
	lists := []*fair{&q.earned}
	for _, in := range q.inner {
		lists = append(lists, in)
	}
	for _, f := range lists {
		for _, fl := range f.flows {
			i := slices.IndexFunc(fl.wait, is)
			if i < 0 {
				continue
			}
			r := fl.wait[i]
			fl.wait = slices.Delete(fl.wait, i, i+1)
			q.n--
			q.classes.flows[r.Class.String()].n--
			if r.group != nil {
				r.group.n--
				q.tidy(r)
			}
			return true
		}
	}
	return false
}

// Len gives how many wait.
func (q *Queue) Len() int { return q.n }
