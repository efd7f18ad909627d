package rawtcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"
)

// TestBetweenHosts: hosts that use it talk with each other and with one that does not, more at once than a socket takes.
func TestBetweenHosts(t *testing.T) {
	ours := func() host.Host { return newHost(t, libp2p.Transport(New)) }
	theirs := func() host.Host { return newHost(t) }
	for name, pair := range map[string][2]host.Host{
		"both": {ours(), ours()}, "who dials": {ours(), theirs()}, "who is dialed": {theirs(), ours()},
	} {
		t.Run(name, func(t *testing.T) {
			pair[1].SetStreamHandler("/echo", func(s network.Stream) {
				time.Sleep(100 * time.Millisecond) // what the sender's socket does not take meanwhile, it waits with
				_, _ = io.Copy(s, s)
				_ = s.Close()
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := pair[0].Connect(ctx, peer.AddrInfo{ID: pair[1].ID(), Addrs: pair[1].Addrs()}); err != nil {
				t.Fatal(err)
			}
			s, err := pair[0].NewStream(ctx, pair[1].ID(), "/echo")
			if err != nil {
				t.Fatal(err)
			}
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
			wrote := make(chan error, 1)
			go func() {
				_, err := s.Write(sent)
				wrote <- errors.Join(err, s.CloseWrite())
			}()
			got, err := io.ReadAll(s)
			if err = errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
			}
		})
	}
}

func newHost(t *testing.T, opts ...libp2p.Option) host.Host {
	h, err := libp2p.New(append(opts, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// TestConn: a full socket, a deadline, and a close end what waits, as on the connection itself.
func TestConn(t *testing.T) {
	near, far := pair(t)
	c := raw(near).(*conn)
	if c.out == io.Writer(near) || runtime.GOOS == "linux" && !raced && c.in == io.Reader(near) {
		t.Fatalf("it is read by %T and written by %T", c.in, c.out)
	}
	if err := c.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Write(make([]byte, 64<<20)); n == 0 || n >= 64<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody reads: %d bytes were written, %v", n, err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody writes: %d bytes were read, %v", n, err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that was waiting when the connection was closed ended with %v", err)
	}
	_ = far.Close()
}

func pair(t *testing.T) (near, far manet.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, err = manet.WrapNetConn(c)
	if err != nil {
		t.Fatal(err)
	}
	if far, err = manet.WrapNetConn(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}
