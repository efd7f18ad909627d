// Package race decides which of several providers of a cell a caller should use, and when to look
// again.
//
// It owns the score of a candidate, the state machine of one race (Race), the policy for the cached
// winner (Cached), what is remembered of peers (Reputation), the latency histogram that both ends
// fill (Latency), and the JSON forms of all of these. It owns no clock, goroutine, lock, socket or
// file: the caller, node/call, passes the time in, does what Ready asks for, and stores the JSON. So
// the same events at the same times give the same decision, and testdata holds such runs as
// transcripts.
//
// A race is driven like this:
//
//	r, err := race.New(race.Config{}, seed, now)
//	r.Join(now, candidate, book.Observed(now, candidate.Peer)) // also later, while it runs
//	for {
//		ready := r.Ready()
//		... start each of ready.Actions in the background ...
//		if ready.Decision != nil { break }
//		... wait for an answer, a new candidate or ready.Deadline ...
//		r.AdvertArrived(now, peer, claim) // or AdvertFailed, PingArrived, Failed, Close, Tick
//	}
//
// Nothing in this package is safe for concurrent use; each type belongs to one goroutine or lock.
package race
