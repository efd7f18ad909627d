package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

func (a *app) ledgerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ledger", Short: "Check what others have exported, and choose whose calls weigh more", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.ledgerVerifyCmd(), a.ledgerFavourCmd(), a.ledgerGoodCmd())
	return cmd
}

func (a *app) ledgerVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check an export, without a network or a nucleus",
		Long: "Check an export: each entry and signature, that credit is what the public price table makes of the meter, and that no\n" +
			"total falls. What it cannot say: whether the work was done (two who collude can sign what they like), and whether there\n" +
			"are newer totals.",
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			op := "verify " + args[0]
			f, err := os.Open(args[0])
			if err != nil {
				return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
			}
			defer f.Close()
			book, findings, err := ledger.Check(f, ledger.Net{}, 0)
			if err != nil {
				return err
			}
			c := checkedExport(args[0], book, findings)
			c.checkPrices(book)
			if a.json {
				err = a.printJSON(c)
			} else {
				err = a.table(c.rows())
			}
			if err == nil && !c.OK {
				err = cellproto.Errorf(op, cellproto.Corrupt, "%d entries do not hold; the first: %s", len(c.Bad), c.Bad[0].What)
			}
			return err
		},
	}
}

// exportJSON is what ledger verify --json prints.
type exportJSON struct {
	File   string            `json:"file"`
	OK     bool              `json:"ok"`
	Bad    []exportBadJSON   `json:"bad"`
	Totals []exportTotalJSON `json:"totals"`

	Donations  []exportDonationJSON `json:"donations"`
	Identities []exportIDJSON       `json:"identities"` // of whom the file has a key log
}

// exportDonationJSON is a total that a donor, or a pool's runner, has signed. Keys are in hex.
type exportDonationJSON struct {
	Donor   string `json:"donor"`
	To      string `json:"to"`
	Times   uint64 `json:"donations"`
	UWH     uint64 `json:"uwh"`
	Purpose string `json:"purpose"`
}

// exportIDJSON is an account or a pool after its key log.
type exportIDJSON struct {
	ID        string   `json:"id"` // in hex, as are the others
	Entries   uint64   `json:"entries"`
	Hosts     []string `json:"hosts"`   // that are not revoked
	Revoked   []string `json:"revoked"` //
	Members   []string `json:"members"` // of a pool
	Threshold int      `json:"threshold"`
	Runner    string   `json:"runner"` // of a pool; "": none
	BudgetUWH uint64   `json:"budget_uwh"`
	Banned    bool     `json:"banned"`
}

type exportBadJSON struct {
	Entry int    `json:"entry"` // from 1; 0: a receipt whose price is wrong
	What  string `json:"what"`
}

// exportTotalJSON is what a consumer has signed for, or, with 0 µWh, a provider alone has: that proves nothing.
type exportTotalJSON struct {
	Consumer string `json:"consumer"` // host keys, in hex
	Provider string `json:"provider"`
	Epoch    uint32 `json:"epoch"`
	Calls    uint64 `json:"calls"`
	UWH      uint64 `json:"uwh"`
	CPUNS    uint64 `json:"cpu_ns"`
	SignedBy string `json:"signed_by"` // both, consumer or provider
}

func checkedExport(file string, book *ledger.Book, findings []ledger.Finding) exportJSON {
	out := exportJSON{
		File: file, OK: len(findings) == 0, Bad: []exportBadJSON{}, Totals: []exportTotalJSON{},
		Donations: donationsIn(book), Identities: identitiesIn(book),
	}
	for _, f := range findings {
		out.Bad = append(out.Bad, exportBadJSON{f.Entry, fmt.Sprintf("entry %d is %s: %v", f.Entry, f.Verdict, f.Err)})
	}
	book.Registers(func(k ledger.RegKey, r ledger.Register) bool {
		t := exportTotalJSON{Consumer: k.Consumer.String(), Provider: k.Provider.String(), Epoch: k.Epoch, SignedBy: "provider"}
		if s := r.Ack; s != nil {
			t.Calls, t.UWH, t.CPUNS, t.SignedBy = s.N, s.Credit, s.Meter.CPU, "consumer"
			if s.ProviderSig != nil {
				t.SignedBy = "both"
			}
		}
		out.Totals = append(out.Totals, t)
		return true
	})
	slices.SortFunc(out.Totals, func(x, y exportTotalJSON) int {
		return cmp.Or(strings.Compare(x.Consumer, y.Consumer), strings.Compare(x.Provider, y.Provider), cmp.Compare(x.Epoch, y.Epoch))
	})
	return out
}

func donationsIn(book *ledger.Book) []exportDonationJSON {
	list := []exportDonationJSON{}
	book.Cheques(func(c *ledger.SignedCheque) bool {
		list = append(list, exportDonationJSON{c.Donor.String(), c.To.String(), c.N, c.Credit, c.Purpose})
		return true
	})
	slices.SortFunc(list, func(x, y exportDonationJSON) int {
		return cmp.Or(strings.Compare(x.Donor, y.Donor), strings.Compare(x.To, y.To))
	})
	return list
}

func identitiesIn(book *ledger.Book) []exportIDJSON {
	list := []exportIDJSON{}
	for _, id := range book.Identities() {
		s := book.State(id)
		x := exportIDJSON{
			ID: id.String(), Entries: s.Len, Hosts: []string{}, Revoked: []string{}, Members: []string{}, Threshold: int(s.T), BudgetUWH: s.Runner.Budget,
			Banned: book.Banned(id),
		}
		for host, d := range s.Hosts {
			if d.Revoked {
				x.Revoked = append(x.Revoked, host.String())
			} else {
				x.Hosts = append(x.Hosts, host.String())
			}
		}
		slices.Sort(x.Hosts)
		slices.Sort(x.Revoked)
		for _, m := range s.Members {
			x.Members = append(x.Members, m.String())
		}
		if s.Runner.Budget > 0 {
			x.Runner = s.Runner.Runner.String()
		}
		list = append(list, x)
	}
	return list
}

// checkPrices checks that credit is what the public table makes of the meter.
func (c *exportJSON) checkPrices(book *ledger.Book) {
	book.Registers(func(_ ledger.RegKey, r ledger.Register) bool {
		for _, s := range r.Entries() {
			if err := ledger.Priced(&s.Receipt); err != nil {
				c.OK = false
				c.Bad = append(c.Bad, exportBadJSON{0, fmt.Sprintf("receipt of %s for %s: %v", s.Provider, s.Consumer, err)})
			}
		}
		return true
	})
}

// text says what an identity is.
func (x exportIDJSON) text() string {
	text := fmt.Sprintf("account of %d hosts, %d revoked", len(x.Hosts), len(x.Revoked))
	if len(x.Members) > 0 {
		text = fmt.Sprintf("pool of %d members, %d sign together, budget %s", len(x.Members), x.Threshold, energyText(x.BudgetUWH))
	}
	if x.Banned {
		text += ", banned"
	}
	return text
}

func (c *exportJSON) rows() [][]string {
	rows := [][]string{{"CONSUMER", "PROVIDER", "CALLS", "CREDIT", "SIGNED BY"}}
	const short = 16 // digits of a key that tell it from others
	for _, t := range c.Totals {
		rows = append(rows, []string{t.Consumer[:short], t.Provider[:short], strconv.FormatUint(t.Calls, 10), energyText(t.UWH), t.SignedBy})
	}
	for _, d := range c.Donations {
		rows = append(rows, []string{d.To[:short], d.Donor[:short], strconv.FormatUint(d.Times, 10), energyText(d.UWH), "donor"})
	}
	for _, x := range c.Identities {
		rows = append(rows, []string{x.ID[:short], x.text()})
	}
	for _, b := range c.Bad {
		rows = append(rows, []string{"bad", b.What})
	}
	return rows
}
