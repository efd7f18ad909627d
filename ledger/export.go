package ledger

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// An export is a text: the line exportHead, then an entry a line, in base64 (standard, padded): key logs from
// their beginnings, then cheques, then receipts. Whoever has it can check it without anything else.

const exportHead = "cell-ledger-export 1"

// maxExport bounds the entries of an export that is checked.
const maxExport = 1 << 20

// Export gives the entries that the book has about itself: what this host and its account gave and took; with
// all, everything that is known.
func (b *Book) Export(all bool) (entries [][]byte) {
	take := func(e interface{ Encode() ([]byte, error) }) {
		if data, err := e.Encode(); err == nil { // it has been decoded
			entries = append(entries, data)
		}
	}
	own := func(keys ...Key) bool {
		for _, k := range keys {
			if all || k == b.cfg.Self || b.Owner(k) == b.Owner(b.cfg.Self) {
				return true
			}
		}
		return false
	}
	for _, id := range sortedKeys(b.logs) {
		if own(id) {
			for _, e := range b.Log(id, 0) {
				take(e)
			}
		}
	}
	for _, c := range b.cheques {
		if own(c.Donor, c.To) {
			take(c)
		}
	}
	var regs []*Signed
	for k, r := range b.regs {
		if own(k.Consumer, k.Provider, k.Beneficiary) {
			regs = append(regs, r.entries()...)
		}
	}
	slices.SortFunc(regs, func(x, y *Signed) int {
		return cmp.Or(slices.Compare(x.Consumer[:], y.Consumer[:]), slices.Compare(x.Provider[:], y.Provider[:]), cmp.Compare(x.Epoch, y.Epoch))
	})
	for _, s := range regs {
		take(s)
	}
	return entries
}

func sortedKeys[V any](m map[Key]V) []Key {
	keys := make([]Key, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int { return slices.Compare(a[:], b[:]) })
	return keys
}

// WriteExport writes entries as an export.
func WriteExport(w io.Writer, entries [][]byte) error {
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(exportHead + "\n") // Flush says what was wrong
	for _, e := range entries {
		_, _ = out.WriteString(base64.StdEncoding.EncodeToString(e) + "\n")
	}
	return out.Flush()
}

// Checked is what an export that is in order says.
type Checked struct {
	Entries, Receipts, Cheques, KeyEntries int
	Unacknowledged                         int // receipts that their provider alone has signed, which prove nothing
	Totals                                 []CheckedTotal
}

// CheckedTotal is one register by the consumer's word: its newest receipt.
type CheckedTotal struct {
	Consumer, Provider Key
	Beneficiary        *Key
	Epoch              uint32
	N, Credit          uint64
	Meter              Meter
	Both               bool // the provider has signed it too
}

// VerifyExport checks an export: the form of each entry, each signature, that credit is what the public price
// table makes of the meter, that no total falls, and that key logs follow from their beginnings. The first
// thing that is wrong is the error, with its line. Kinds: BadInput, Corrupt, TooLarge, Unsupported.
func VerifyExport(r io.Reader) (*Checked, error) {
	const op = "verify export"
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 4*cellproto.MaxLedgerEntry)
	if !lines.Scan() || lines.Text() != exportHead {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the first line is not %q", exportHead).
			WithHint("Exports are made by cellctl wallet export.")
	}
	v := exportCheck{regs: map[RegKey]Register{}, logs: map[Key]*KeyState{}, keys: map[Key][]Key{}, prices: map[uint16]*PriceTable{}}
	for n := 2; lines.Scan(); n++ {
		if n > maxExport {
			return nil, cellproto.Errorf(op, cellproto.TooLarge, "more than %d entries", maxExport)
		}
		data, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(lines.Text(), "\r"))
		if err == nil && len(data) > cellproto.MaxLedgerEntry {
			err = cellproto.Errorf("decode entry", cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxLedgerEntry)
		}
		if err == nil {
			err = v.entry(data)
		}
		if err != nil {
			kind := cellproto.BadInput
			if e := (*cellproto.Error)(nil); errors.As(err, &e) {
				kind = e.Kind
			}
			return nil, cellproto.Errorf(op, kind, "line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return v.done(), nil
}

type exportCheck struct {
	out    Checked
	regs   map[RegKey]Register
	logs   map[Key]*KeyState
	keys   map[Key][]Key // that have signed for an identity, one after the other
	prices map[uint16]*PriceTable
}

func (v *exportCheck) entry(data []byte) error {
	v.out.Entries++
	switch _, kind, _ := peek(data); kind {
	case kindCheque:
		return v.cheque(data)
	case kindKey:
		return v.key(data)
	}
	return v.receipt(data)
}

func (v *exportCheck) receipt(data []byte) error {
	const op = "verify receipt"
	s, body, err := DecodeReceipt(data)
	if err != nil {
		return err
	}
	if err := VerifyReceipt(s, body); err != nil {
		return err
	}
	t := v.prices[s.MeterV]
	if t == nil {
		if t, err = LoadPrices(s.MeterV); err != nil {
			return err
		}
		v.prices[s.MeterV] = t
	}
	credit, err := t.Credit(&s.Meter)
	if err != nil {
		return err
	}
	if credit != s.Credit {
		return cellproto.Errorf(op, cellproto.BadInput, "by price table %d the meter is worth %d µWh, the receipt says %d", s.MeterV, credit, s.Credit)
	}
	old := v.regs[s.RegKey()]
	if d := decreasing(op, s, old); d.Verdict == Decreasing {
		return d.Err
	}
	v.regs[s.RegKey()] = old.Merge(registerOf(s))
	v.out.Receipts++
	if s.ConsumerSig == nil {
		v.out.Unacknowledged++
	}
	return nil
}

func (v *exportCheck) key(data []byte) error {
	e, err := DecodeKeyEntry(data)
	if err != nil {
		return err
	}
	s := v.logs[e.ID]
	if s == nil {
		s = &KeyState{Net: e.Net, ID: e.ID}
	}
	next, err := s.Apply(e)
	if err != nil {
		return err
	}
	v.logs[e.ID] = next
	by := next.Key
	if next.Members != nil {
		by = next.Runner.Runner
	}
	if !slices.Contains(v.keys[e.ID], by) {
		v.keys[e.ID] = append(v.keys[e.ID], by)
	}
	v.out.KeyEntries++
	return nil
}

func (v *exportCheck) cheque(data []byte) error {
	s, body, err := DecodeCheque(data)
	if err != nil {
		return err
	}
	v.out.Cheques++
	for _, by := range v.keys[s.Donor] { // it may be from before a rotation
		if VerifyCheque(s, body, by) == nil {
			return nil
		}
	}
	return VerifyCheque(s, body, s.Donor)
}

func (v *exportCheck) done() *Checked {
	for k, r := range v.regs {
		if r.Ack == nil {
			continue
		}
		both := r.Ack.ProviderSig != nil || r.Claim != nil && r.Claim.same(&r.Ack.Receipt)
		v.out.Totals = append(v.out.Totals, CheckedTotal{
			k.Consumer, k.Provider, r.Ack.Beneficiary, k.Epoch, r.Ack.N, r.Ack.Credit, r.Ack.Meter, both,
		})
	}
	slices.SortFunc(v.out.Totals, func(x, y CheckedTotal) int {
		return cmp.Or(slices.Compare(x.Consumer[:], y.Consumer[:]), slices.Compare(x.Provider[:], y.Provider[:]), cmp.Compare(x.Epoch, y.Epoch))
	})
	return &v.out
}
