package ctl

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// Routes of the nucleus of a mirror that is hosted for others, for the home cell.
const (
	// POST why: it gives the machine back, within 2 s; result Yielded.
	RouteYield = "/v1/yield"
	// POST lease_ms: it runs, for that long from now; result Status.
	RouteReturn = "/v1/return"
)

// MaxLease is how long a hosted mirror may be allowed to run at a time.
const MaxLease = time.Hour

// Yielded is a hosted mirror of whose program nothing runs.
type Yielded struct {
	Cut int `json:"cut"` // calls that did not end in time
}

// Yield has a hosted mirror give the machine back.
func (c *Client) Yield(ctx context.Context, why string) (Yielded, error) {
	return result[Yielded](ctx, c, "POST", RouteYield, withTimeout(ctx, url.Values{"why": {why}}))
}

// Return lets a hosted mirror run, for as long as the lease is. It may do so again before that is over.
func (c *Client) Return(ctx context.Context, lease time.Duration) (Status, error) {
	q := url.Values{"lease_ms": {strconv.FormatInt(lease.Milliseconds(), 10)}}
	return result[Status](ctx, c, "POST", RouteReturn, withTimeout(ctx, q))
}

// ParseLease reads lease_ms: 1 ms to MaxLease.
func ParseLease(q url.Values) (time.Duration, error) {
	ms, err := strconv.ParseInt(q.Get("lease_ms"), 10, 64)
	if err != nil || ms < 1 || ms > MaxLease.Milliseconds() {
		return 0, fmt.Errorf("lease_ms is %q, allowed are 1 to %d", q.Get("lease_ms"), MaxLease.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// What became of a copy that a caller's objective asks for.
const (
	PlacementNone   = "none"   // there is none; Why says why
	PlacementMaking = "making" // Step says how far it is
	PlacementHere   = "here"   // on this machine
	PlacementThere  = "donor"  // at Donor
)

// Placement is a cell of which a copy near by is wanted, should its providers miss the caller's objective.
type Placement struct {
	CID    string    `json:"cid"`
	Name   string    `json:"name"`
	State  string    `json:"state"`
	Why    string    `json:"why"`
	Step   string    `json:"step,omitempty"`
	Donor  string    `json:"donor,omitempty"`  // peer ID
	Mirror string    `json:"mirror,omitempty"` // peer ID of the copy at the donor
	Since  time.Time `json:"since,omitzero"`
}

// String gives it in a line.
func (p Placement) String() string {
	switch p.State {
	case PlacementMaking:
		return "a copy is being made: " + p.Step
	case PlacementHere:
		return "there is a copy on this machine"
	case PlacementThere:
		return "the donor " + p.Donor + " has a copy, " + p.Mirror
	}
	return "no copy: " + p.Why
}
