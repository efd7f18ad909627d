package gossip

import (
	"math"
	"math/bits"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// What goes into a bill, and whether to sign one. Both are pure.

// Next gives the total of a register when meter and calls are what was used in all: what follows acked, the
// newest receipt that the consumer has signed, or nil. The running hash has one record for each signed
// total, not for each call: what a single call used of a program that works for several at once is not
// known but as a share of a longer time.
func Next(r ledger.Receipt, acked *ledger.Signed, prices *ledger.PriceTable) (ledger.Receipt, error) {
	credit, err := prices.Credit(&r.Meter)
	if err != nil {
		return r, err
	}
	r.Credit, r.MeterV = credit, prices.Version
	r.Log, err = chain(&r, acked)
	return r, err
}

// chain gives the running hash of r, which follows acked.
func chain(r *ledger.Receipt, acked *ledger.Signed) (ledger.Hash, error) {
	var before ledger.Receipt
	if acked != nil {
		before = acked.Receipt
	}
	return ledger.LogHash(before.Log, &ledger.Call{N: r.N, Meter: Less(r.Meter, before.Meter), Credit: r.Credit - min(before.Credit, r.Credit)})
}

// Plus and Less add and subtract each number of two meters; what would be below nothing is nothing.
func Plus(a, b ledger.Meter) ledger.Meter {
	return ledger.Meter{
		CPU: a.CPU + b.CPU, Wall: a.Wall + b.Wall, GPU: a.GPU + b.GPU, RAM: a.RAM + b.RAM, In: a.In + b.In, Out: a.Out + b.Out, Energy: a.Energy + b.Energy,
	}
}

// Less is described with Plus.
func Less(a, b ledger.Meter) ledger.Meter {
	return ledger.Meter{
		CPU: a.CPU - min(a.CPU, b.CPU), Wall: a.Wall - min(a.Wall, b.Wall), GPU: a.GPU - min(a.GPU, b.GPU), RAM: a.RAM - min(a.RAM, b.RAM),
		In: a.In - min(a.In, b.In), Out: a.Out - min(a.Out, b.Out), Energy: a.Energy - min(a.Energy, b.Energy),
	}
}

// Seen is what a consumer knows of its own calls to a provider.
type Seen struct {
	Wall uint64 // ns for which its calls were on their way
	Sent uint64 // bytes to the provider
	Got  uint64 // and from it
	// Elsewhere is what was signed for since in other registers of the provider: it chooses the register of a bill, by
	// beneficiary and epoch, and what was seen is there once for all of them.
	Elsewhere ledger.Meter
}

// MaxRegisters is how many registers one provider may bill in, in the life of a consumer's nucleus: it chooses them, by beneficiary and
// epoch, and needs one, and another where one has ended.
const MaxRegisters = 16

// What a consumer takes a provider's word for.
const (
	maxCores  = 64       // that one call may keep busy
	maxMemory = 64 << 20 // KiB that it may hold
	slackTime = 50e6     // ns, for clocks that go differently
	slackRate = 50       // and a fiftieth of the time
	slackSize = 64 << 10 // bytes on their way
)

// Check says whether a consumer signs a bill. before is what it had signed when it began to count, seen what it
// has seen since; acked the newest receipt that it has signed. What nobody but the provider can measure
// (processor time, memory) is bounded by the time that the calls took. A bill may be above that by one
// window: what was used in the moment before a crash, and not written down. Who was not called since gets no
// more than was signed for before at most: nobody signs for a stranger, not even for nothing. Kinds: Denied, BadInput,
// Unsupported.
func Check(r *ledger.Receipt, acked *ledger.Signed, before *ledger.Receipt, seen Seen) error {
	const op = "check bill"
	bad := func(kind cellproto.Kind, format string, args ...any) error {
		return cellproto.Errorf(op, kind, format, args...)
	}
	if seen.Wall == 0 && before.Credit == 0 {
		return bad(cellproto.Denied, "its provider was not called")
	}
	prices, err := ledger.LoadPrices(r.MeterV)
	if err != nil {
		return err
	}
	credit, err := prices.Credit(&r.Meter)
	if err != nil {
		return err
	}
	if credit != r.Credit {
		return bad(cellproto.BadInput, "by price table %d the meter is worth %d µWh, not %d", r.MeterV, credit, r.Credit)
	}
	if want, err := chain(r, acked); err != nil || want != r.Log {
		return bad(cellproto.Denied, "it does not follow the receipt that was signed last")
	}
	used := Plus(Less(r.Meter, before.Meter), seen.Elsewhere)
	used.CPU = min(used.CPU, times(seen.time(), maxCores))
	used.RAM = min(used.RAM, times(seen.time()/1e6, maxMemory/1000))
	used.In, used.Out = min(used.In, seen.bytes(seen.Sent)), min(used.Out, seen.bytes(seen.Got))
	used.GPU = min(used.GPU, times(seen.time(), maxCores))
	total, billed := Plus(before.Meter, used), Plus(r.Meter, seen.Elsewhere)
	most, err := prices.Credit(&total)
	if err != nil {
		return err
	}
	all, err := prices.Credit(&billed)
	if err != nil {
		return err
	}
	late := ledger.Window(before.Credit)
	if seen.Wall == 0 {
		late = min(late, before.Credit)
	}
	if over := all - min(most, all); over > late {
		return bad(cellproto.Denied, "it is %d µWh above what calls that took %d ms can have used", over, seen.Wall/1e6)
	}
	return nil
}

// times multiplies without turning over: past the end it stays there.
func times(a, b uint64) uint64 {
	if hi, lo := bits.Mul64(a, b); hi == 0 {
		return lo
	}
	return math.MaxUint64
}

func (s Seen) time() uint64 {
	if s.Wall == 0 {
		return 0
	}
	return s.Wall + s.Wall/slackRate + slackTime
}

func (s Seen) bytes(n uint64) uint64 {
	if s.Wall == 0 {
		return 0
	}
	return n + slackSize
}
