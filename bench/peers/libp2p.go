package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto"
)

// The protocols of the libp2p server.
const (
	protocolEcho   = "/bench/echo/1"   // gives back each message of load.PayloadSize bytes
	protocolFrames = "/bench/frames/1" // cellproto.Conn with an echo in this process

	// The same, but what answers is another process, as a cell's program is: the server copies bytes between
	// the stream and a Unix socket. No nucleus can do with less.
	protocolEchoFar   = "/bench/echo-far/1"
	protocolFramesFar = "/bench/frames-far/1"
)

// newHost is libp2p as it comes, over TCP: the security and the muxer are those that celld uses.
func newHost(listen ...string) (host.Host, error) {
	opts := []libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	}
	if len(listen) == 0 {
		opts = append(opts, libp2p.NoListenAddrs)
	} else {
		opts = append(opts, libp2p.ListenAddrStrings(listen...))
	}
	return libp2p.New(opts...)
}

// libp2pServe is the server. Its arguments are the sockets of an echo and of a program with frames.
func libp2pServe(args []string) error {
	h, err := newHost("/ip4/127.0.0.1/tcp/0")
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(protocolEcho, func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, load.PayloadSize)
		for {
			if _, err := io.ReadFull(s, buf); err != nil {
				return
			}
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	h.SetStreamHandler(protocolFrames, func(s network.Stream) {
		if err := serveFrames(s); err != nil {
			fmt.Fprintln(os.Stderr, "caller left:", err)
		}
	})
	for i, proto := range []protocol.ID{protocolEchoFar, protocolFramesFar} {
		h.SetStreamHandler(proto, func(s network.Stream) {
			if err := load.CopyTo(s, args[i]); err != nil {
				fmt.Fprintln(os.Stderr, "caller left:", err)
			}
		})
	}
	load.Ready(fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID()))
	load.UntilEOF()
	return nil
}

// serveFrames answers calls inline, on the goroutine that reads.
func serveFrames(s network.Stream) error {
	conn, err := cellproto.NewConn(s, cellproto.Config{
		Hello: cellproto.Hello{Functions: []string{"echo"}},
		Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
			if c.Queue(&cellproto.Frame{Type: cellproto.TypeReply, ID: f.ID, Payload: f.Payload}) == nil {
				c.FlushLater(c)
			}
		},
	})
	if err != nil {
		return err
	}
	return conn.Run()
}

// unixEcho gives back what comes over a Unix socket.
func unixEcho(args []string) error {
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, load.PayloadSize)
				for {
					if _, err := io.ReadFull(conn, buf); err != nil {
						return
					}
					if _, err := conn.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	load.Ready(args[0])
	load.UntilEOF()
	return nil
}

func open(addr string, proto protocol.ID) (network.Stream, error) {
	h, err := newHost() // lives as long as the process
	if err != nil {
		return nil, err
	}
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return nil, err
	}
	if err := h.Connect(context.Background(), *info); err != nil {
		return nil, err
	}
	return h.NewStream(context.Background(), info.ID, proto)
}

// libp2pCallEcho sends one message at a time over one stream: it takes one caller. So does
// libp2pCallEchoFar, to another process.
func libp2pCallEcho(args []string) error    { return callEcho(args[0], protocolEcho) }
func libp2pCallEchoFar(args []string) error { return callEcho(args[0], protocolEchoFar) }

func callEcho(addr string, proto protocol.ID) error {
	s, err := open(addr, proto)
	if err != nil {
		return err
	}
	defer s.Close()
	return load.Worker(func() (load.Call, error) {
		payload, got := load.Payload(), make([]byte, load.PayloadSize)
		return func() error {
			if _, err := s.Write(payload); err != nil {
				return err
			}
			if _, err := io.ReadFull(s, got); err != nil {
				return err
			}
			return load.Check(payload, got)
		}, nil
	})
}

// libp2pCallEchoShared is the echo for any number of callers, which share the stream: who writes waits for its turn, and
// the answers come in the order of the messages, so that nothing need say whose they are.
func libp2pCallEchoShared(args []string) error {
	s, err := open(args[0], protocolEcho)
	if err != nil {
		return err
	}
	defer s.Close()
	var (
		mu      sync.Mutex // of writing, and the order
		waiting = make(chan chan<- [load.PayloadSize]byte, maxShared)
		lost    = make(chan struct{})
		readErr error
	)
	go func() {
		defer close(lost)
		var got [load.PayloadSize]byte
		for {
			if _, readErr = io.ReadFull(s, got[:]); readErr != nil {
				return
			}
			(<-waiting) <- got
		}
	}()
	return load.Worker(func() (load.Call, error) {
		payload, answer := load.Payload(), make(chan [load.PayloadSize]byte, 1)
		return func() error {
			mu.Lock()
			waiting <- answer
			_, err := s.Write(payload)
			mu.Unlock()
			if err != nil {
				return err
			}
			select {
			case got := <-answer:
				return load.Check(payload, got[:])
			case <-lost:
				return readErr
			}
		}, nil
	})
}

const maxShared = 1024 // callers of one stream

func libp2pCallFrames(args []string) error    { return callFrames(args[0], protocolFrames) }
func libp2pCallFramesFar(args []string) error { return callFrames(args[0], protocolFramesFar) }

func callFrames(addr string, proto protocol.ID) error {
	s, err := open(addr, proto)
	if err != nil {
		return err
	}
	newCall, err := load.Frames(s, "")
	if err != nil {
		return err
	}
	return load.Worker(newCall)
}
