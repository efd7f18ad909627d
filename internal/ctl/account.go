package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

// Routes of the account: what its key signs. All but RouteEntries are answered by the home cell alone.
const (
	// GET log: the account's key log from this entry on, and its cheques. With own=1 those to it, too, and what
	// consumers have signed of registers of its hosts. Items Exported, one entry each; result null.
	RouteEntries  = "/v1/account/entries"
	RouteDelegate = "/v1/account/delegate" // POST, the body is a Delegation; items Exported: the key log; result null
	RouteRevoke   = "/v1/account/revoke"   // POST host (a peer ID, or the name of a cell); result WalletHost
	// POST to (a peer ID or the name of a pool), uwh, purpose, and from, a pool, if it is not the account; result Donated.
	RouteDonate = "/v1/account/donate"
	RouteJoin   = "/v1/account/join"   // POST account, a peer ID or self; result Joined. In force with the next nucleus
	RouteAdmit  = "/v1/account/admit"  // POST host, a peer ID of another computer; result []WalletHost
	RouteRotate = "/v1/account/rotate" // POST force; result Rotated
	// POST accept, force, donation; result Recovery: what is missing of the account's key log. With accept what is here is all; with donation,
	// a peer ID, the one in Unproven to that receiver was made.
	RouteRecover = "/v1/account/recover"
)

// Delegation is what a nucleus asks of that of the home cell: that its host becomes the account's. Limits
// are those of the ledger's entries.
type Delegation struct {
	Host     string `json:"host"` // peer ID
	Cell     string `json:"cell"` // its name
	Dir      string `json:"dir"`  // absolute
	NotAfter int64  `json:"not_after_ms"`
	Consent  []byte `json:"consent"` // signature of the host
}

// MaxDelegation bounds, in bytes, the text of a Delegation.
const MaxDelegation = 8 << 10

// WalletHost is a host of an account.
type WalletHost struct {
	Peer     string `json:"peer"`
	Cell     string `json:"cell"`
	Until    int64  `json:"until_ms"` // ms since 1970
	Revoked  bool   `json:"revoked"`
	GivenUWH uint64 `json:"given_uwh"`
	TakenUWH uint64 `json:"taken_uwh"`
}

// Rotated is an account whose key was replaced. All but the file are peer IDs.
type Rotated struct {
	Account  string `json:"account"`   // as before
	Before   string `json:"before"`    // the key that was replaced
	Key      string `json:"key"`       // that in force
	NextFile string `json:"next_file"` // where the one is that comes next
	// Pools are those, by their names here, that know the account by the key that was replaced.
	Pools []string `json:"pools,omitempty"`
}

// Recovery is how much of the account's key log is here, after entries of it were lost.
type Recovery struct {
	Account string   `json:"account"`  // peer ID
	Doubt   bool     `json:"doubt"`    // nothing is signed until it is known that this is all
	Entries uint64   `json:"entries"`  // that are here
	AtLeast uint64   `json:"at_least"` // that there were
	Agree   int      `json:"agree"`    // who was asked and knows as much
	Wait    []string `json:"wait"`     // peer IDs of those who have or had it, and have not said that they know as much
	Others  bool     `json:"others"`   // so have others, or it is not known who
	// Unproven are donations that others have and this ledger does not know, signed by a key of the account that was replaced.
	Unproven []DonationRow `json:"unproven,omitempty"`
}

// Joined says which account the cells of a computer belong to from the next start of their nuclei on.
type Joined struct {
	Account string   `json:"account"` // peer ID
	Host    string   `json:"host"`    // of the home cell, which the computer with the account's key has to admit
	Changed bool     `json:"changed"` // the nucleus of the home cell has to be restarted
	Cells   []string `json:"cells"`   // directories of others that have to be, if they run
}

// Donated is a donation that was made.
type Donated struct {
	From     string `json:"from"` // peer ID of the account or pool
	To       string `json:"to"`
	UWH      uint64 `json:"uwh"`
	TotalUWH uint64 `json:"total_uwh"` // of all donations from the one to the other
	Times    uint64 `json:"donations"`
	Purpose  string `json:"purpose"`
	// Covered says that the donor has, as far as is known here, given at least as much as it has taken, this
	// included. What is beyond that is worth something only to those whom the donor serves itself.
	Covered bool `json:"covered"`
	// Left is, of a pool, what its runner may still spend.
	Left uint64 `json:"left_uwh,omitempty"`
}

// DonationRow is the total of what one account or pool has donated to another.
type DonationRow struct {
	From    string `json:"from"`
	To      string `json:"to"`
	UWH     uint64 `json:"uwh"`
	Times   uint64 `json:"donations"`
	Purpose string `json:"purpose"` // of the last one
	At      int64  `json:"at_ms"`   // of the last one, by the donor's clock
	// Void is what was given besides, and is not in UWH: it was signed before and after a backup was restored, and waits to be
	// signed anew.
	Void uint64 `json:"void_uwh,omitempty"`
}

// Recover asks how much of the account's key log is here; with accept it is all that there is, with force even if more is known. donation
// is whom one of Unproven was given to, or "".
func (c *Client) Recover(ctx context.Context, accept, force bool, donation string) (Recovery, error) {
	q := url.Values{}
	if donation != "" {
		q.Set("donation", donation)
	}
	for name, set := range map[string]bool{"accept": accept, "force": force} {
		if set {
			q.Set(name, "1")
		}
	}
	return result[Recovery](ctx, c, "POST", RouteRecover, withTimeout(ctx, q))
}

// Delegate asks for a delegation, and calls each for each entry of the account's key log.
func (c *Client) Delegate(ctx context.Context, d Delegation, each func(entry []byte) error) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("cannot write the delegation: %w", err)
	}
	return c.exported(ctx, "POST", RouteDelegate, withTimeout(ctx, nil), body, each)
}

// Entries calls each for each entry of the account's key log from one on, for its cheques, and with own for
// what it was given, and its hosts have given and taken.
func (c *Client) Entries(ctx context.Context, log uint64, own bool, each func(entry []byte) error) error {
	q := url.Values{"log": {strconv.FormatUint(log, 10)}}
	if own {
		q.Set("own", "1")
	}
	return c.exported(ctx, "GET", RouteEntries, withTimeout(ctx, q), nil, each)
}

// exported makes a request whose items are Exported. body may be nil.
func (c *Client) exported(ctx context.Context, method, route string, q url.Values, body []byte, each func([]byte) error) error {
	_, err := c.exchange(ctx, method, route, q, body, func(item json.RawMessage) error {
		var e Exported
		if err := json.Unmarshal(item, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return each(e.Bytes)
	})
	return err
}

// exchange makes a request with a body, which may be nil.
func (c *Client) exchange(ctx context.Context, method, route string, q url.Values, body []byte, item func(json.RawMessage) error) (json.RawMessage, error) {
	var a *answer
	var err error
	if body == nil {
		a, err = c.ask(ctx, method, route, q, nil)
	} else {
		a, err = c.ask(ctx, method, route, q, bytes.NewReader(body))
	}
	if err != nil {
		return nil, err
	}
	defer a.close()
	raw, err := a.result(c.Progress, item)
	return raw, a.cause(ctx, err)
}

// resultOf is result for a request with a body.
func resultOf[T any](ctx context.Context, c *Client, route string, q url.Values, body []byte) (T, error) {
	var v T
	raw, err := c.exchange(ctx, "POST", route, withTimeout(ctx, q), body, nil)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return v, nil
}

// Revoke ends the delegation of a host, for good.
func (c *Client) Revoke(ctx context.Context, host string) (WalletHost, error) {
	return result[WalletHost](ctx, c, "POST", RouteRevoke, withTimeout(ctx, url.Values{"host": {host}}))
}

// Donate gives what others owe the account, or with from a pool that it is the runner of, to somebody else.
func (c *Client) Donate(ctx context.Context, from, to string, uwh uint64, purpose string) (Donated, error) {
	q := url.Values{"to": {to}, "uwh": {strconv.FormatUint(uwh, 10)}, "purpose": {purpose}}
	if from != "" {
		q.Set("from", from)
	}
	return result[Donated](ctx, c, "POST", RouteDonate, withTimeout(ctx, q))
}

// Rotate replaces the account's key; with force also if a pool stands still then.
func (c *Client) Rotate(ctx context.Context, force bool) (Rotated, error) {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	return result[Rotated](ctx, c, "POST", RouteRotate, withTimeout(ctx, q))
}

// Join has the cells of this computer belong to an account whose key is on another one, or, with self, to their own.
func (c *Client) Join(ctx context.Context, account string) (Joined, error) {
	return result[Joined](ctx, c, "POST", RouteJoin, withTimeout(ctx, url.Values{"account": {account}}))
}

// Admit makes the hosts of another computer that want to be the account's, and gives them.
func (c *Client) Admit(ctx context.Context, host string) ([]WalletHost, error) {
	return result[[]WalletHost](ctx, c, "POST", RouteAdmit, withTimeout(ctx, url.Values{"host": {host}}))
}
