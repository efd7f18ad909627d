package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

// instantProgram answers at once, by what its name says.
type instantProgram struct{ conn *cellproto.Conn }

func (p *instantProgram) Ready() *cellproto.Conn                        { return p.conn }
func (p *instantProgram) Conn(context.Context) (*cellproto.Conn, error) { return p.conn, nil }
func (p *instantProgram) Begin() error                                  { return nil }
func (p *instantProgram) End()                                          {}

func newInstantProgram(t *testing.T) *instantProgram {
	near, far := net.Pipe()
	var done sync.WaitGroup
	payload := bytes.Repeat([]byte("x"), 200<<10)
	serve := func(c *cellproto.Conn, f *cellproto.Frame) {
		in := c.Inbound(context.Background(), f)
		done.Go(func() {
			switch in.Header.Func {
			case "body":
				_ = in.ReplyBody(cellproto.Header{}, bytes.NewReader(payload))
			case "endless":
				_ = in.ReplyBody(cellproto.Header{}, endless{})
			default:
				_ = in.Reply(cellproto.Header{Codec: cellproto.JSON}, fmt.Appendf(nil, "%q", payload[:60<<10]))
			}
		})
	}
	p := &instantProgram{}
	for i, end := range []net.Conn{near, far} {
		cfg := cellproto.Config{Opener: i == 0}
		if i == 1 {
			cfg.Accept = serve
		}
		c, err := cellproto.NewConn(end, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			p.conn = c
		}
		done.Go(func() { _ = c.Run() })
		t.Cleanup(c.Close)
	}
	t.Cleanup(func() { p.conn.Close(); done.Wait() })
	return p
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// called is a host whose resources are a nucleus's, that serves a program.
func called(t *testing.T, challenge string) host.Host {
	t.Helper()
	limiter, err := resources()
	if err != nil {
		t.Fatal(err)
	}
	h := plainHost(t, libp2p.ResourceManager(limiter))
	program := newInstantProgram(t)
	server := call.NewServer(call.ServerConfig{Name: "test", Challenge: challenge, ShowSchema: true}, call.ServerDeps{
		Program: program, Identity: call.Identity{Peer: h.ID(), Host: h.Peerstore().PrivKey(h.ID())}, Log: zap.NewNop(),
	})
	functions := map[string]cellproto.Function{}
	for i := range 200 {
		functions[fmt.Sprintf("function-%d", i)] = cellproto.Function{Doc: "it does nothing", Input: json.RawMessage(`{"type":"object"}`)}
	}
	for _, name := range []string{"body", "reply", "endless"} {
		functions[name] = cellproto.Function{Input: json.RawMessage(`{}`), BodyOut: name != "reply"}
	}
	serving, err := call.NewServing("", &cellproto.Schema{Cell: "test", Functions: functions})
	if err != nil {
		t.Fatal(err)
	}
	server.Set(serving)
	h.SetStreamHandler(cellproto.ProtocolCall, call.HandleStream(zap.NewNop(), func(s network.Stream) error {
		return server.ServeStream(context.Background(), s)
	}))
	t.Cleanup(func() {
		h.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		server.Close(ctx)
	})
	return h
}

// TestPeerThatReadsNothing: what one peer has a nucleus hold is bounded over all of its streams, whatever it asks for
// without reading, and others are answered meanwhile.
func TestPeerThatReadsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		challenge, fn string
		credit        uint32
		requests      int // of each stream
	}{
		"refusals": {cellproto.AuthSimple, "reply", 0, 45_000},
		"schemas":  {cellproto.AuthNone, cellproto.FuncSchema, 0, 1_000},
		"replies":  {cellproto.AuthNone, "reply", 0, 10_000},
		"bodies":   {cellproto.AuthNone, "body", 0, 10_000},
		"credit":   {cellproto.AuthNone, "endless", cellproto.MaxWindow - cellproto.InitialWindow, 4},
	} {
		t.Run(name, func(t *testing.T) {
			h := called(t, c.challenge)
			info := peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
			const streams = 16
			data := questions(t, c.fn, c.requests, c.credit)
			before := heap()
			sent := flood(t, info, streams, data)
			settles(sent)
			held := heap() - before
			t.Logf("%d streams hold %d KiB", streams, held>>10)
			if held > peerMemory+(8<<20) { // what libp2p itself holds comes to it
				t.Errorf("%d MiB are held for a peer that reads nothing", held>>20)
			}
			if c.challenge == cellproto.AuthNone {
				othersAreAnswered(t, info)
			}
		})
	}
}

// settles waits until a number has not changed for a while.
func settles(n func() int64) {
	for same, last := 0, int64(-1); same < 20; time.Sleep(25 * time.Millisecond) {
		if now := n(); now == last {
			same++
		} else {
			same, last = 0, now
		}
	}
}

// flood has a new peer ask on several streams, and read nothing. sent gives how many bytes it was rid of.
func flood(t *testing.T, info peer.AddrInfo, streams int, questions []byte) (sent func() int64) {
	t.Helper()
	stranger := plainHost(t)
	if err := stranger.Connect(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var n int64
	var writers sync.WaitGroup
	t.Cleanup(func() { stranger.Close(); writers.Wait() })
	for range streams {
		s, err := stranger.NewStream(t.Context(), info.ID, cellproto.ProtocolCall)
		if err != nil {
			t.Fatal(err)
		}
		data := questions
		writers.Go(func() {
			for len(data) > 0 {
				piece := data[:min(len(data), 16<<10)]
				k, err := s.Write(piece)
				mu.Lock()
				n += int64(k)
				mu.Unlock()
				if data = data[k:]; err != nil {
					return // it was cut off, or the test is over
				}
			}
		})
	}
	return func() int64 { mu.Lock(); defer mu.Unlock(); return n }
}

// questions is what is sent on one stream.
func questions(t *testing.T, fn string, requests int, credit uint32) (data []byte) {
	t.Helper()
	hello, err := (&cellproto.Hello{Versions: []uint{cellproto.Version}, Agent: "test"}).Marshal()
	if err == nil {
		data, err = cellproto.AppendFrame(nil, &cellproto.Frame{Type: cellproto.TypeHello, Payload: hello})
	}
	for i := 0; i < requests && err == nil; i++ {
		id := uint32(2*i + 1)
		data, err = cellproto.AppendFrame(data, &cellproto.Frame{
			Type: cellproto.TypeRequest, ID: id, Header: cellproto.Header{Func: fn}, Payload: []byte("{}"),
		})
		if err == nil && credit > 0 {
			data, err = cellproto.AppendFrame(data, &cellproto.Frame{Type: cellproto.TypeCredit, ID: id,
				Payload: []byte{byte(credit >> 24), byte(credit >> 16), byte(credit >> 8), byte(credit)}})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// othersAreAnswered asks as somebody else does.
func othersAreAnswered(t *testing.T, info peer.AddrInfo) {
	t.Helper()
	other := plainHost(t)
	if err := other.Connect(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	s, err := other.NewStream(t.Context(), info.ID, cellproto.ProtocolCall)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cellproto.NewConn(s, cellproto.Config{Opener: true})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run() }()
	defer func() { c.Close(); <-ended }()
	if _, err := c.Call(t.Context(), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncSchema}}); err != nil {
		t.Errorf("somebody else is not answered: %v", err)
	}
}

func heap() int64 {
	runtime.GC()
	return heapNow()
}

func heapNow() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
