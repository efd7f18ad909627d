package program

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
)

// suspended gives a connection's state as a handover has it.
func suspended(t testing.TB) []byte {
	t.Helper()
	hello := cellproto.Hello{Cell: "cell"}
	own, err := hello.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&cellproto.Suspended{Peer: own, Own: own, NextID: 7}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sample(t testing.TB) *Handover {
	return &Handover{
		Starts: 3, Crashes: 1, Served: 9, LastExit: "exit status 1", Swap: SwapDone, SwapSince: 5, Staged: 2,
		Run: &HandedRun{
			PID: 4711, StartTime: 12, Begun: 1, LastEnd: 2, Frozen: true, Path: "/c/bin/p", Conn: suspended(t), Line: []byte("half a "),
			Grants: &HandedGrants{NextID: 4, Ended: 3, Conns: []HandedConn{{ID: 2}, {ID: 4, Until: 99}}},
		},
	}
}

func TestHandoverCodec(t *testing.T) {
	h := sample(t)
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseHandover(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Marshal()
	if err != nil || !bytes.Equal(b, again) || got.Files() != 6 || got.Run.Grants.Conns[1].Until != 99 {
		t.Errorf("%+v, %v", got, err)
	}
	if n := (&Handover{}).Files(); n != 0 {
		t.Errorf("%d files without a run", n)
	}
}

func TestHandoverMustFail(t *testing.T) {
	change := func(f func(*Handover)) []byte {
		h := sample(t)
		f(h)
		b, err := handoverEncoder.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	unknown, err := cbor.Marshal(map[int]int{99: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing":       nil,
		"cut":           change(func(*Handover) {})[:20],
		"unknown field": unknown,
		"pid 1":         change(func(h *Handover) { h.Run.PID = 1 }),
		"large pid":     change(func(h *Handover) { h.Run.PID = math.MaxInt }),
		"long path":     change(func(h *Handover) { h.Run.Path = strings.Repeat("p", maxHandedPath+1) }),
		"long line":     change(func(h *Handover) { h.Run.Line = make([]byte, maxLogLine+1) }),
		"negative cut":  change(func(h *Handover) { h.Run.LineCut = -1 }),
		"bad conn":      change(func(h *Handover) { h.Run.Conn = []byte{1} }),
		"long reason":   change(func(h *Handover) { h.SwapReason = strings.Repeat("r", maxHandedReason+1) }),
		"many callers":  change(func(h *Handover) { h.Run.Grants.Conns = make([]HandedConn, maxHandedConns+1) }),
		"staged":        change(func(h *Handover) { h.Staged = -1 }),
	} {
		if h, err := ParseHandover(bad); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

func FuzzHandover(f *testing.F) {
	b, err := sample(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHandover(data)
		if err != nil {
			return
		}
		if _, err := h.Marshal(); err != nil {
			t.Error(err)
		}
	})
}
