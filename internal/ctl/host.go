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
