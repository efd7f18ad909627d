package gossip

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// What others send keeps this host from looking at more of it, and not from receipts with those whom it has called; who
// floods is heard neither way.
func TestOwnReceiptsDoNotWait(t *testing.T) {
	w := newTown(t)
	w.travel.limit.rate = 1e-9 // nothing comes back
	now := time.Now()
	w.travel.limit.Spent(now, time.Hour)
	if err := w.travel.Ingest("somebody", signedReceipt(t, 5, 6, 1000)); cellproto.KindOf(err) != cellproto.Overloaded {
		t.Errorf("one of many others: %v", err)
	}
	if err := w.travel.IngestOwn("counterparty", signedReceipt(t, 5, 6, 1000)); err != nil || w.registers() != 1 {
		t.Errorf("one of those whom it has called: %v", err)
	}
	w.travel.limit.Answered(now, "counterparty", entryBurst*answerUnit)
	if err := w.travel.IngestOwn("counterparty", signedReceipt(t, 5, 6, 2000)); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("of who floods: %v", err)
	}
}

// Who asks for everything again and again is sent a few megabytes, charged, and cut off.
func TestAnswersAreBounded(t *testing.T) {
	w := newTown(t)
	w.host.SetStreamHandler(cellproto.ProtocolLedger, func(s network.Stream) {
		err := w.travel.Serve(s, refuser{})
		w.charge(s.Conn().RemotePeer(), err)
		s.Reset()
	})
	for i := range 2000 {
		w.travel.Publish(ledger.Hash{byte(i), byte(i >> 8)}, make([]byte, 300), false)
	}
	asks := newHost(t)
	connect(t, asks, w.host)
	sent, pulls := 0, 0
	for ; pulls < entryBurst && asks.Network().Connectedness(w.host.ID()) == network.Connected; pulls++ {
		list, _, _ := Pull(t.Context(), asks, w.host.ID(), 0)
		sent += size(list)
	}
	t.Logf("%d pulls were answered with %d bytes", pulls, sent)
	if pulls == entryBurst || sent < 8*maxPull/2 {
		t.Errorf("after %d pulls and %d bytes", pulls, sent)
	}
}
