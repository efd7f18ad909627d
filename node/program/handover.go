package program

import (
	"context"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// Handover is a program as one nucleus leaves it to the next, which takes the same process over: the
// process goes on, and so do the callers whose connections it holds. The descriptors that belong to it
// travel beside it, in the order that Files of each part says.
type Handover struct {
	Run *HandedRun `cbor:"1,keyasint,omitempty"` // nil: nothing runs

	Starts         uint64    `cbor:"2,keyasint"`
	Crashes        uint64    `cbor:"3,keyasint"`
	Served         uint64    `cbor:"4,keyasint"`
	Refused        uint64    `cbor:"5,keyasint"`
	GrantedServed  uint64    `cbor:"6,keyasint"`
	GrantedRefused uint64    `cbor:"7,keyasint"`
	LogCut         uint64    `cbor:"8,keyasint"`
	BadLines       uint64    `cbor:"9,keyasint"`
	LastExit       string    `cbor:"10,keyasint,omitempty"`
	Swap           SwapPhase `cbor:"11,keyasint,omitempty"` // of the last swap
	SwapReason     string    `cbor:"12,keyasint,omitempty"`
	SwapHint       string    `cbor:"13,keyasint,omitempty"`
	SwapSince      int64     `cbor:"14,keyasint,omitempty"` // unix ms
	Staged         int       `cbor:"15,keyasint"`           // how many files have been staged
}

// HandedRun is the process. Its files: the nucleus's end of its connection, the read end of its output,
// and those of Grants.
type HandedRun struct {
	PID       int           `cbor:"1,keyasint"`
	StartTime uint64        `cbor:"2,keyasint"` // by the system's clock; it tells the process from a later one of that number
	Begun     int64         `cbor:"3,keyasint"` // unix ms
	LastEnd   int64         `cbor:"4,keyasint"` // of the last call, unix ms
	Frozen    bool          `cbor:"5,keyasint,omitempty"`
	Path      string        `cbor:"6,keyasint"`           // that was executed
	Device    uint64        `cbor:"8,keyasint,omitempty"` // of the file that was executed
	Inode     uint64        `cbor:"9,keyasint,omitempty"`
	Conn      []byte        `cbor:"10,keyasint"` // cellproto.Suspended
	Line      []byte        `cbor:"11,keyasint,omitempty"`
	LineCut   int           `cbor:"12,keyasint,omitempty"` // bytes of Line that were dropped
	Grants    *HandedGrants `cbor:"13,keyasint,omitempty"` // nil: it takes no connections of callers
}

// HandedGrants are the connections that the program holds itself. Files: the handoff socket, the page,
// and the duplicate of each connection.
type HandedGrants struct {
	NextID  uint32       `cbor:"1,keyasint"`
	Ended   uint32       `cbor:"2,keyasint"` // of the page, as far as they were counted
	Refused uint32       `cbor:"3,keyasint"`
	Seen    uint32       `cbor:"4,keyasint"` // times of the page that were given out
	Last    int64        `cbor:"5,keyasint"` // when a call was last seen to end, unix ms
	Conns   []HandedConn `cbor:"6,keyasint,omitempty"`
}

// HandedConn is one of them.
type HandedConn struct {
	ID    uint32 `cbor:"1,keyasint"`
	Until int64  `cbor:"2,keyasint,omitempty"` // unix ms; 0: for ever
}

// Limits of a handover. A path is one of the system's.
const (
	maxHandover     = 64 << 20 // bytes
	maxHandedConns  = 16 << 10
	maxHandedPath   = 4 << 10
	maxHandedReason = 64 << 10
)

var handoverEncoder = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

var handoverDecoder = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 6, MaxArrayElements: maxHandedConns, MaxMapPairs: 32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// Marshal gives h as bytes.
func (h *Handover) Marshal() ([]byte, error) {
	b, err := handoverEncoder.Marshal(h)
	if err != nil {
		return nil, cellproto.Errorf("hand the program over", cellproto.Failed, "%w", err)
	}
	if len(b) > maxHandover {
		return nil, cellproto.Errorf("hand the program over", cellproto.TooLarge, "%d bytes, the limit is %d", len(b), maxHandover)
	}
	return b, nil
}

// ParseHandover reads what Marshal gave. An error is Corrupt or TooLarge.
func ParseHandover(b []byte) (*Handover, error) {
	const op = "take the program over"
	if len(b) > maxHandover {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(b), maxHandover)
	}
	h := &Handover{}
	if err := handoverDecoder.Unmarshal(b, h); err != nil {
		return nil, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	bad := func(what string) error { return cellproto.Errorf(op, cellproto.Corrupt, "%s", what) }
	if len(h.SwapReason) > maxHandedReason || len(h.SwapHint) > maxHandedReason || len(h.LastExit) > maxHandedReason || h.Staged < 0 {
		return nil, bad("a text that is too long, or a number below zero")
	}
	r := h.Run
	switch {
	case r == nil:
		return h, nil
	case r.PID <= 1 || int(int32(r.PID)) != r.PID:
		return nil, bad("no process has that number")
	case len(r.Path) > maxHandedPath:
		return nil, bad("a path that is too long")
	case len(r.Line) > maxLogLine || r.LineCut < 0:
		return nil, bad("a line that is too long")
	}
	if _, err := cellproto.ParseSuspended(r.Conn); err != nil {
		return nil, err
	}
	return h, nil
}

// Files gives how many descriptors belong to h.
func (h *Handover) Files() int {
	if h.Run == nil {
		return 0
	}
	n := 2
	if g := h.Run.Grants; g != nil {
		n += 2 + len(g.Conns)
	}
	return n
}

func unixMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// settlePause is how often Settle looks: a trial's end is told to nobody.
const settlePause = 20 * time.Millisecond

// Settle waits until no program starts, is on trial or is being replaced: what runs then is one
// instance, or none.
func (p *Program) Settle(ctx context.Context) error {
	tick := time.NewTicker(settlePause)
	defer tick.Stop()
	for {
		if p.settled() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return cellproto.Errorf("hand "+p.cfg.Name+" over", cellproto.KindOf(ctx.Err()), "%w while a program was started, on trial or stopped", ctx.Err())
		}
	}
}

func (p *Program) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.candidate != nil || p.prev != nil || len(p.all) > 1:
		return false
	case p.cur == nil:
		return len(p.all) == 0
	}
	return (p.phase == Running || p.phase == Frozen) && !p.cur.trial && !isClosed(p.cur.stop)
}

// carried says whether the process can be handed over. What knows of one that speaks JSON lines, and the
// sandbox of one that is confined, end with this celld.
func (c Config) carried() bool { return c.Speaks != celltoml.JSONL && c.Sandbox == nil }

// Hold keeps back the calls that the program makes to other cells, until Unhold. What has begun goes on.
func (p *Program) Hold() error {
	if c := p.Current(); c != nil && p.cfg.carried() {
		return c.Hold()
	}
	return nil
}

// Busy gives how many calls are in flight between the nucleus and the program, either way.
func (p *Program) Busy() int {
	c := p.Current()
	if c == nil {
		return 0
	}
	in, out := c.InFlight()
	return in + out
}

// Unhold lets them go on.
func (p *Program) Unhold() {
	if c := p.Current(); c != nil && p.cfg.carried() {
		c.Unhold()
	}
}
