package ctl

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// Routes of pools, answered by the home cell alone.
const (
	RoutePools      = "/v1/pools"        // GET pool (a peer ID or a name; "": all); result []PoolRow
	RoutePoolCreate = "/v1/pools/create" // POST name, threshold, member (any number); result PoolFile
	// POST pool, runner, uwh, until (ms since 1970): proposes a budget, signed by this account; result PoolFile.
	RoutePoolBudget = "/v1/pools/budget"
	// POST name, sign; the body is a file of a pool: takes in what is in force, and with sign=1 adds this account's
	// signature to what is not yet; result PoolFile.
	RoutePoolTake = "/v1/pools/take"
	// POST pool, add and remove (any number), threshold (0: as before, if that can be): proposes other members, signed by
	// this account; result PoolFile.
	RoutePoolMembers = "/v1/pools/members"
)

// MaxPoolFile bounds, in bytes, what is known of a pool's key log, as members hand it to each other.
const MaxPoolFile = 256 << 10

// PoolRow is a pool.
type PoolRow struct {
	Pool      string   `json:"pool"` // peer ID
	Name      string   `json:"name"` // what it is called here
	Members   []string `json:"members"`
	Threshold int      `json:"threshold"` // how many of them sign together
	Entries   uint64   `json:"entries"`   // of its key log
	// Given is what was donated to the pool, or credited to it; Spent what its cheques add up to.
	Given uint64 `json:"given_uwh"`
	Spent uint64 `json:"spent_uwh"`
	// Runner may spend until all cheques of the pool add up to Budget; "": nobody may.
	Runner    string         `json:"runner"`
	Budget    uint64         `json:"budget_uwh"`
	Until     int64          `json:"until_ms"` // ms since 1970
	Left      uint64         `json:"left_uwh"` // of the budget; 0 once it has ended
	Banned    bool           `json:"banned"`   // two entries of its log contradict each other
	Donations []DonationRow  `json:"donations"`
	Proposals []PoolProposal `json:"proposals"` // that this account has signed and not enough others
}

// PoolProposal is an entry of a pool's log that not enough members have signed yet.
type PoolProposal struct {
	Entry  uint64 `json:"entry"` // its place in the log
	Runner string `json:"runner"`
	Budget uint64 `json:"budget_uwh"`
	Until  int64  `json:"until_ms"`
	// Members and Threshold are, of other members, who they are and how many sign together.
	Members   []string `json:"members,omitempty"`
	Threshold int      `json:"threshold,omitempty"`
	Signed    []string `json:"signed"` // members
	Missing   int      `json:"missing"`
}

// PoolFile is what members hand to each other.
type PoolFile struct {
	Pool     PoolRow       `json:"pool"`
	Proposal *PoolProposal `json:"proposal,omitempty"` // that is at the end of the file
	Done     bool          `json:"done"`               // what was proposed is in force now
	Bytes    []byte        `json:"bytes,omitempty"`    // the file: a sequence of CBOR items
}

// Pools lists the pools of the account: all, or the one named.
func (c *Client) Pools(ctx context.Context, pool string) ([]PoolRow, error) {
	q := url.Values{}
	if pool != "" {
		q.Set("pool", pool)
	}
	return result[[]PoolRow](ctx, c, "GET", RoutePools, withTimeout(ctx, q))
}

// CreatePool makes a pool of this account and members, threshold of whom sign together.
func (c *Client) CreatePool(ctx context.Context, name string, threshold int, members []string) (PoolFile, error) {
	q := url.Values{"name": {name}, "threshold": {strconv.Itoa(threshold)}, "member": members}
	return result[PoolFile](ctx, c, "POST", RoutePoolCreate, withTimeout(ctx, q))
}

// ProposeBudget proposes that runner may spend until all cheques of the pool add up to uwh.
func (c *Client) ProposeBudget(ctx context.Context, pool, runner string, uwh uint64, until time.Time) (PoolFile, error) {
	q := url.Values{"pool": {pool}, "runner": {runner}, "uwh": {strconv.FormatUint(uwh, 10)}, "until": {strconv.FormatInt(until.UnixMilli(), 10)}}
	return result[PoolFile](ctx, c, "POST", RoutePoolBudget, withTimeout(ctx, q))
}

// ProposeMembers proposes that a pool has other members, threshold of whom sign together.
func (c *Client) ProposeMembers(ctx context.Context, pool string, add, remove []string, threshold int) (PoolFile, error) {
	q := url.Values{"pool": {pool}, "add": add, "remove": remove, "threshold": {strconv.Itoa(threshold)}}
	return result[PoolFile](ctx, c, "POST", RoutePoolMembers, withTimeout(ctx, q))
}

// TakePool takes in a pool's file, and signs what is proposed at its end if sign is set; other members only
// if members is, too.
func (c *Client) TakePool(ctx context.Context, file []byte, name string, sign, members bool) (PoolFile, error) {
	q := url.Values{"name": {name}}
	if sign {
		q.Set("sign", "1")
	}
	if members {
		q.Set("members", "1")
	}
	return resultOf[PoolFile](ctx, c, RoutePoolTake, q, file)
}
