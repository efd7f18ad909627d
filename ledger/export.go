package ledger

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
)

// Export writes everything that a book has, as a sequence of CBOR items (RFC 8742): key logs, cheques,
// receipts, fork proofs, in an order that does not depend on the one in which they came.
func (b *Book) Export(w io.Writer) error {
	const op = "export ledger"
	var groups [4][][]byte
	collect := func(group int, e interface{ Encode() ([]byte, error) }) error {
		data, err := e.Encode()
		groups[group] = append(groups[group], data)
		return err
	}
	var errs []error
	for _, l := range b.logs {
		for _, e := range l.entries {
			errs = append(errs, collect(0, e))
		}
	}
	for _, c := range b.cheques {
		errs = append(errs, collect(1, c))
	}
	for _, r := range b.regs {
		for _, s := range r.Entries() {
			errs = append(errs, collect(2, s))
		}
	}
	for _, p := range b.bans {
		errs = append(errs, collect(3, p))
	}
	if err := errors.Join(errs...); err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	for i, group := range groups {
		slices.SortFunc(group, func(x, y []byte) int {
			if i == 0 {
				return cmp.Or(cmp.Compare(seqOf(x), seqOf(y)), bytes.Compare(x, y))
			}
			return bytes.Compare(x, y)
		})
		for _, data := range group {
			if _, err := w.Write(data); err != nil {
				return cellproto.Errorf(op, cellproto.Failed, "%w", err)
			}
		}
	}
	return nil
}

func seqOf(data []byte) uint64 {
	e, err := DecodeKeyEntry(data)
	if err != nil {
		return 0
	}
	return e.Seq
}

// maxExport bounds what is read of a file, and so the memory that one item of it can take.
const maxExport = 256 << 20

// Finding is an entry of an export that was not taken.
type Finding struct {
	Entry   int // which of the file, from 1
	Verdict Verdict
	Err     error
}

// Check reads an export and checks every entry as if a peer had sent it, for which nothing else is
// needed. Without net it is that of the first entry. Prices are for Priced. It gives the book of what holds and the findings. now is in ms since 1970; with 0 no
// delegation or budget has ended, nor was a host revoked. Kinds: BadInput, with the entry, for a file that is none.
func Check(r io.Reader, net Net, nowMS uint64) (*Book, []Finding, error) {
	const op = "check ledger"
	b := NewBook(Config{Net: net, MaxForeign: 1 << 24, MaxLogs: 1 << 20, Claims: true})
	var findings []Finding
	dec := decMode.NewDecoder(io.LimitReader(r, maxExport))
	for n := 1; ; n++ {
		var raw cbor.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return b, findings, nil
		} else if err != nil {
			return b, findings, cellproto.Errorf(op, cellproto.BadInput, "entry %d: %w", n, err)
		}
		if b.cfg.Net == (Net{}) {
			b.cfg.Net = netIn(raw)
		}
		var res Result
		if isProof(raw) {
			res = b.IngestProof(raw)
		} else {
			res = b.Ingest(nowMS, raw)
		}
		if res.Verdict != Stored && res.Verdict != Forked {
			findings = append(findings, Finding{n, res.Verdict, res.Err})
		}
	}
}

// netIn gives the network of an entry that is a receipt, a cheque or of a key log, else none.
func netIn(data []byte) Net {
	if s, _, err := DecodeReceipt(data); err == nil {
		return s.Net
	}
	if s, _, err := DecodeCheque(data); err == nil {
		return s.Net
	}
	if e, err := DecodeKeyEntry(data); err == nil {
		return e.Net
	}
	return Net{}
}

// Priced says whether the credit of a receipt is what its price table makes of its meter. Kinds: BadInput,
// Unsupported.
func Priced(r *Receipt) error {
	t, err := LoadPrices(r.MeterV)
	if err != nil {
		return err
	}
	if credit, err := t.Credit(&r.Meter); err != nil || credit != r.Credit {
		return cellproto.Errorf("check receipt", cellproto.BadInput, "by price table %d the meter is worth %d µWh, the receipt says %d", r.MeterV, credit, r.Credit)
	}
	return nil
}
