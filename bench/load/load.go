// Package load makes closed-loop callers: each begins its next call when the last one was answered.
// It also is the language in which the driver and the client processes of a benchmark speak: one
// line of JSON for each round, one for its outcome. What is called is not its business, so that
// ours and every peer are driven by the same loop.
package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// PayloadSize is the size of the argument and the reply of each call, in bytes.
const PayloadSize = 200

// Round is what a client process is asked to do.
type Round struct {
	Callers int           `json:"callers"`
	For     time.Duration `json:"for"`
}

// Outcome is what became of a round. Latencies are in ns.
type Outcome struct {
	Calls int           `json:"calls"`
	Took  time.Duration `json:"took"`
	P50   time.Duration `json:"p50"`
	P99   time.Duration `json:"p99"`
	Max   time.Duration `json:"max"` // the longest that a caller stood still
	Error string        `json:"error,omitempty"`
}

// PerSecond is the throughput.
func (o Outcome) PerSecond() float64 { return float64(o.Calls) / o.Took.Seconds() }

// Call makes one call and waits for its answer. It is used by one goroutine at a time.
type Call func() error

// Run makes calls for as long as the round says. newCall is asked once for each caller. The first
// error ends the round.
func Run(r Round, newCall func() (Call, error)) (Outcome, error) {
	calls := make([]Call, r.Callers)
	for i := range calls {
		var err error
		if calls[i], err = newCall(); err != nil {
			return Outcome{}, err
		}
	}
	took := make([]caller, r.Callers)
	errs := make([]error, r.Callers)
	begin := time.Now()
	end := begin.Add(r.For)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() { errs[i] = took[i].repeat(calls[i], end) })
	}
	wg.Wait()
	out := Outcome{Took: time.Since(begin)}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	var all []time.Duration
	for i := range took {
		all = append(all, took[i].took...)
		out.Calls += took[i].calls
		out.Max = max(out.Max, took[i].longest)
	}
	slices.Sort(all)
	if len(all) > 0 {
		out.P50, out.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return out, nil
}

// caller is what one caller has seen.
type caller struct {
	calls int
	took  []time.Duration // of the last maxKept calls

	longest time.Duration // of all
}

const maxKept = 1 << 16 // a round can go on for an hour

func (c *caller) repeat(call Call, end time.Time) error {
	c.took = make([]time.Duration, 0, 1<<12)
	for now := time.Now(); now.Before(end); c.calls++ {
		if err := call(); err != nil {
			return err
		}
		next := time.Now()
		took := next.Sub(now)
		if len(c.took) < maxKept {
			c.took = append(c.took, took)
		} else {
			c.took[c.calls%maxKept] = took
		}
		c.longest = max(c.longest, took)
		now = next
	}
	return nil
}

// Worker is the whole of a client process: it says that it is ready, then runs each round that its
// standard input asks for, until that ends.
func Worker(newCall func() (Call, error)) error {
	out := json.NewEncoder(os.Stdout)
	Ready("")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var r Round
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return fmt.Errorf("cannot read the round: %w", err)
		}
		o, err := Run(r, newCall)
		if err != nil {
			o.Error = err.Error()
		}
		if err := out.Encode(o); err != nil {
			return err
		}
	}
	return in.Err()
}

// Ready tells the driver that this process serves, and where.
func Ready(where string) { fmt.Printf("ready %s\n", where) }

// UntilEOF returns when the driver has closed this process's standard input: the end of a server.
func UntilEOF() { _, _ = io.Copy(io.Discard, os.Stdin) } // a broken input is an end too

// Payload is the argument of the calls: not all zero, so that nothing can compress it away.
func Payload() []byte {
	p := make([]byte, PayloadSize)
	for i := range p {
		p[i] = byte(i*7 + 1)
	}
	return p
}

// Check says whether a reply is the echo of the payload, by its length and its ends.
func Check(sent, got []byte) error {
	if len(got) != len(sent) || got[0] != sent[0] || got[len(got)-1] != sent[len(sent)-1] {
		return fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(sent))
	}
	return nil
}

// Fail ends the process with an error.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
