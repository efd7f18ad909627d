package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
)

// Routes of the ledger.
const (
	RouteWallet = "/v1/wallet" // GET; result Wallet
	// GET root: a peer ID, or "" for this host; result []DonorRow, the largest debt first.
	RouteDonors = "/v1/donors"

	RouteWalletExport = "/v1/wallet/export" // GET; items Exported, result null
)

// Wallet is what was given and taken, as the nucleus of one cell knows it.
type Wallet struct {
	Account string `json:"account"` // peer ID of the person's account
	Key     string `json:"key"`     // that signs for it now; another one since it was rotated
	// Elsewhere says that the account's key is on another computer of this person.
	Elsewhere bool `json:"elsewhere"`
	// Of the account, with all its hosts, and of this host.
	GivenUWH   uint64 `json:"given_uwh"`
	TakenUWH   uint64 `json:"taken_uwh"`
	Priority   string `json:"priority"`   // earned: more was given than taken, so others owe something; else newcomer
	Neighbours int    `json:"neighbours"` // peers whose news is heard

	Hosts      []WalletHost  `json:"hosts"`      // of the account, revoked ones too
	Delegation string        `json:"delegation"` // whether this host is the account's, for people
	Donations  []DonationRow `json:"donations"`  // by the account and to it

	Host      string      `json:"host"`      // peer ID of this cell's nucleus, whose ledger this is
	Networks  int         `json:"networks"`  // different networks (/16, /32) that the neighbours are in
	Energy    string      `json:"energy"`    // how energy is estimated: RAPL, TDP or table
	Registers []WalletRow `json:"registers"` // those of this host
	// PublicGood is the list of public goods that the owner of this machine has chosen, for people; "": none.
	PublicGood string `json:"public_good,omitempty"`
	// Error says what is wrong with the disk; "": nothing.
	Error   string            `json:"error,omitempty"`
	Dropped map[string]uint64 `json:"verdicts,omitempty"` // as LedgerEntries of Status
}

// WalletRow is what two hosts have to do with each other.
type WalletRow struct {
	Peer     string `json:"peer"`
	Gave     bool   `json:"gave"` // this host served the peer; else the peer served this host
	Calls    uint64 `json:"calls"`
	UWH      uint64 `json:"uwh"`          // that the consumer has signed for
	Unsigned uint64 `json:"unsigned_uwh"` // of what was given, what it has not
	CPUNS    uint64 `json:"cpu_ns"`
	WallNS   uint64 `json:"wall_ns"`
	RAM      uint64 `json:"ram_kib_s"`
	In       uint64 `json:"in_bytes"`
	Out      uint64 `json:"out_bytes"`
	Energy   uint64 `json:"energy_uwh"`
	Signed   int64  `json:"signed_ms"`         // when, ms since 1970, by the provider's clock; 0: never
	Class    string `json:"class,omitempty"`   // of who was given to: the queue that it waits in when this host is busy
	Refused  string `json:"refused,omitempty"` // why the last bill was not signed
}

// DonorRow is somebody who has given, as it looks from one host.
type DonorRow struct {
	Peer  string `json:"peer"`      // peer ID of a host, an account or a pool
	Owed  uint64 `json:"owed_uwh"`  // what the root still owes it, directly or over two others at most
	Given uint64 `json:"given_uwh"` // by all receipts that this host knows, whoever signed them
}

// Exported is a piece of an export.
type Exported struct {
	Bytes []byte `json:"bytes"`
}

// Wallet asks what was given and taken.
func (c *Client) Wallet(ctx context.Context) (Wallet, error) {
	return result[Wallet](ctx, c, "GET", RouteWallet, nil)
}

// Donors asks who has given, as seen from root ("": this host).
func (c *Client) Donors(ctx context.Context, root string) ([]DonorRow, error) {
	return result[[]DonorRow](ctx, c, "GET", RouteDonors, url.Values{"root": {root}})
}

// WalletExport writes all entries that the ledger has to w.
func (c *Client) WalletExport(ctx context.Context, w io.Writer) error {
	a, err := c.ask(ctx, "GET", RouteWalletExport, nil, nil)
	if err != nil {
		return err
	}
	defer a.close()
	_, err = a.result(c.Progress, func(item json.RawMessage) error {
		var e Exported
		if err := json.Unmarshal(item, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		_, err := w.Write(e.Bytes)
		return err
	})
	return a.cause(ctx, err)
}
