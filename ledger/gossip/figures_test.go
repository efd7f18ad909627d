package gossip

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// cpuTime is what this process has had of the processors.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// consumer signs as a nucleus does.
type consumer struct {
	w     *town
	acked *ledger.Signed
}

func (c *consumer) Sign(_ ledger.Key, bill, _ []byte) ([]byte, error) {
	r, _, err := ledger.DecodeReceipt(bill)
	if err == nil {
		err = Check(&r.Receipt, c.acked, &ledger.Receipt{}, Seen{Wall: 1e18, Sent: 1e9, Got: 1e9})
	}
	if err == nil {
		err = c.w.travel.Ingest("provider", bill)
	}
	if err != nil {
		return nil, err
	}
	if c.acked, err = c.w.led.SignTotal(time.Now(), r.Receipt, ledger.RoleConsumer, c.w.key); err != nil {
		return nil, err
	}
	return c.acked.Encode()
}

// What it takes to have a total signed, both hosts together, over a real connection and with the disk; and of one
// processor, when 50 pairs are active and each signs every ten seconds.
func TestBillFigure(t *testing.T) {
	const bills, pairs, every = 300, 50, 10.0
	provider, w := newTown(t), newTown(t)
	c := &consumer{w: w}
	w.host.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
		if err := w.travel.Serve(s, c); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	w.travel.limit.rate = 1e6
	connect(t, provider.host, w.host)
	r := ledger.Receipt{Net: testNet, Consumer: ledger.KeyOf(w.key), Provider: ledger.KeyOf(provider.key), Est: ledger.EstTable}
	begin := cpuTime(t)
	for range bills {
		r.N++
		r.Meter = Plus(r.Meter, ledger.Meter{CPU: 5e9, Wall: 6e9, In: 100, Out: 100})
		bill, err := Next(r, c.acked, prices(t))
		if err != nil {
			t.Fatal(err)
		}
		s, err := provider.led.SignTotal(time.Now(), bill, ledger.RoleProvider, provider.key)
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := Bill(t.Context(), provider.host, w.host.ID(), data, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res := provider.led.Ingest(time.Now(), receipt); res.Verdict != ledger.Stored {
			t.Fatal(res.Verdict, res.Err)
		}
	}
	each := (cpuTime(t) - begin) / bills
	share := 100 * each.Seconds() * pairs / every
	t.Logf("a bill takes %v, both hosts together; %d pairs, each every %v s: %.3f %% of a processor, on one of the two hosts half of it", each, pairs, every, share)
	if limit := 2.0; share > limit && os.Getenv("CELL_LONG") != "" {
		t.Errorf("more than %v", limit)
	}
}
