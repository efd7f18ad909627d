package content

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/celldnet/celld/cellproto"
)

// drip moves a byte at a time, far below the least rate, until step fails or the test ends.
func drip(step func() error) {
	for step() == nil {
		time.Sleep(20 * time.Millisecond) // the peer's own slowness
	}
}

// A peer that hardly reads loses its place; nobody waits for it for ever.
func TestSlowReceiverIsCutOff(t *testing.T) {
	for name, read := range map[string]bool{"does not read": false, "reads a byte now and then": true} {
		t.Run(name, func(t *testing.T) {
			a := newArtefact(t, 60, 24<<20) // more than the windows of a connection take
			h := newHost(t)
			ctx := deadline(t, 30*time.Second)
			if err := h.Connect(ctx, a.self()); err != nil {
				t.Fatal(err)
			}
			st, err := h.NewStream(ctx, a.self().ID, cellproto.ProtocolFetch)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Reset() //nolint:errcheck // it is reset already
			if _, err := st.Write(fetchRequest{sum: a.BLAKE3}.encode()); err != nil {
				t.Fatal(err)
			}
			var one [1]byte
			if _, err := st.Read(one[:]); err != nil {
				t.Fatal(err)
			}
			if read {
				go drip(func() error { _, err := st.Read(one[:]); return err })
			}
			until(t, ctx, "its place is free", func() bool { all, _ := a.slots.held(taker{}); return all == 0 })
		})
	}
}

// A peer that hardly sends costs the requester its patience once, and then another is asked.
func TestSlowSenderIsLeft(t *testing.T) {
	a := newArtefact(t, 61, artefactSize)
	h := newHost(t)
	h.SetStreamHandler(cellproto.ProtocolFetch, func(st network.Stream) {
		answer := a.answer(t, 0)
		i := 41 + 8 // the head and the size come at once
		if _, err := st.Write(answer[:i]); err != nil {
			return
		}
		drip(func() error { i++; _, err := st.Write(answer[i-1 : i]); return err })
	})
	got, err := fetchTo(t, a.File, false, infoOf(h), a.self())
	if err != nil || !bytes.Equal(got, a.data) {
		t.Fatal(err)
	}
	_, err = fetchTo(t, a.File, false, infoOf(h))
	wantKind(t, err, cellproto.Timeout)
}

// wantAll opens a bitswap stream to s, wants the blocks, and reads nothing of what it is sent.
func wantAll(t *testing.T, ctx context.Context, h host.Host, s *Store, cids []cid.Cid) {
	t.Helper()
	h.SetStreamHandler(protocolBitswap, func(network.Stream) {}) // takes the stream, and leaves it
	if err := h.Connect(ctx, s.self()); err != nil {
		t.Fatal(err)
	}
	st, err := h.NewStream(ctx, s.self().ID, protocolBitswap)
	if err != nil {
		t.Fatal(err)
	}
	msg := message.New(false)
	for _, c := range cids {
		msg.AddEntry(c, 1, pb.Message_Wantlist_Block, true)
	}
	if err := msg.ToNetV1(st); err != nil {
		t.Fatal(err)
	}
}

// Peers of one network that take what they want but read none of it do not have all places of the
// senders, and lose those that they have.
func TestSlowBitswapPeersLeaveRoom(t *testing.T) {
	s := newStore(t, Config{}, nil)
	s.timing.stall = 2 * time.Second
	ctx := deadline(t, 60*time.Second)
	var cids []cid.Cid
	for i := range 12 { // 24 MiB: more than the windows of a connection take
		data := noise(uint64(70+i), maxBlock)
		c := rawCID(t, data)
		if err := s.PutBlock(ctx, c, data); err != nil {
			t.Fatal(err)
		}
		cids = append(cids, c)
	}
	limit := s.x.slots.perGroup
	if limit >= maxSenders/2 {
		t.Fatalf("one group may have %d of %d places", limit, maxSenders)
	}
	s.x.slots.perGroup = 2 // they are all on loopback
	var slow []peer.ID
	for range 4 {
		h := newHost(t)
		wantAll(t, ctx, h, s, cids)
		slow = append(slow, h.ID())
	}
	until(t, ctx, "two of them have places and two wait", func() bool {
		s.x.slots.mu.Lock()
		defer s.x.slots.mu.Unlock()
		return s.x.slots.taken == 2 && len(s.x.slots.queue) == 2
	})
	until(t, ctx, "all have been cut off", func() bool {
		s.x.mu.Lock()
		defer s.x.mu.Unlock()
		for _, p := range slow {
			if s.x.queue[p] != nil {
				return false
			}
		}
		return true
	})
	if all, _ := s.x.slots.held(taker{}); all != 0 {
		t.Errorf("%d places were lost", all)
	}
	b := newStore(t, Config{}, nil)
	if _, err := b.Block(ctx, cids[0], maxBlock, b.know(s.self())); err != nil {
		t.Errorf("an honest peer is not served: %v", err)
	}
}

// Whatever a peer's stream ends with comes to Charge: malformed and oversized input with a kind that
// costs the peer something, and what did not arrive with one that does not.
func TestBreachesAreCharged(t *testing.T) {
	type charge struct {
		who  peer.ID
		kind cellproto.Kind
	}
	charges := make(chan charge, 1)
	s, err := New(Config{}, Deps{Host: newHost(t), Charge: func(p peer.ID, err error) { charges <- charge{p, cellproto.KindOf(err)} }})
	if err != nil {
		t.Fatal(err)
	}
	s.timing = fastTiming
	s.Start()
	t.Cleanup(s.Stop)
	h := newHost(t)
	ctx := deadline(t, 20*time.Second)
	if err := h.Connect(ctx, s.self()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		protocol string
		say      []byte
		then     func(network.Stream) error // nil: wait
		want     cellproto.Kind
	}{
		"garbage to fetch":           {cellproto.ProtocolFetch, []byte("\x00\x0aGET / HTTP/1.1\r\n"), nil, cellproto.BadInput},
		"an oversized fetch":         {cellproto.ProtocolFetch, []byte("\xff\xff"), nil, cellproto.TooLarge},
		"half a fetch":               {cellproto.ProtocolFetch, []byte("\x00\x29\x01"), network.Stream.CloseWrite, cellproto.Unavailable},
		"a fetch that never ends":    {cellproto.ProtocolFetch, []byte("\x00\x29\x01"), nil, cellproto.Timeout},
		"a file that is not here":    {cellproto.ProtocolFetch, fetchRequest{sum: [32]byte{1}}.encode(), nil, cellproto.NotFound},
		"garbage to bitswap":         {string(protocolBitswap), []byte("\x04\xff\xff\xff\xff"), nil, cellproto.BadInput},
		"an oversized message":       {string(protocolBitswap), []byte("\xff\xff\xff\x7f"), nil, cellproto.TooLarge},
		"a length without end":       {string(protocolBitswap), bytes.Repeat([]byte{0xff}, 10), nil, cellproto.BadInput},
		"a message that is cut":      {string(protocolBitswap), []byte("\x40\x0a"), network.Stream.CloseWrite, cellproto.Unavailable},
		"a message that never comes": {string(protocolBitswap), []byte("\x40\x0a"), nil, cellproto.Timeout},
	} {
		st, err := h.NewStream(ctx, s.self().ID, protocol.ID(c.protocol))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(c.say); err != nil {
			t.Fatal(err)
		}
		if c.then != nil {
			if err := c.then(st); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case got := <-charges:
			if got != (charge{h.ID(), c.want}) {
				t.Errorf("%s is charged as %q to %s, want %q", name, got.kind, got.who, c.want)
			}
		case <-ctx.Done():
			t.Fatalf("%s is not charged", name)
		}
		_, _ = io.Copy(io.Discard, st)
		_ = st.Reset()
	}
}
