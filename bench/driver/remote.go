package main

import (
	"path/filepath"

	"github.com/celldnet/celld/internal/ctl"
)

// remote compares calls between two hosts: by CID, through the client half of a nucleus in the
// caller's process, libp2p over TCP, the provider's nucleus and its program; with an echo on a
// long-lived libp2p stream, with the same frames over such a stream, and with gRPC over TLS.
func remote(b *bench) error {
	n, err := b.network("remote")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo")
	if err != nil {
		return err
	}
	cid, err := n.publish(c)
	if err != nil {
		return err
	}
	st, err := c.status(b)
	if err != nil {
		return err
	}
	caller, err := n.cell("caller", "")
	if err != nil {
		return err
	}
	if err := n.awaitProviders(1, cid); err != nil {
		return err
	}
	ours, err := b.procs.worker(b.self(), "role", "call-cid", cid, st.Addrs[0], filepath.Join(b.dir, "callers"))
	if err != nil {
		return err
	}
	viaOwn, err := b.procs.worker(b.self(), "role", "call-socket", ctl.SocketPath(caller.dir, ctl.CellSocket), cid)
	if err != nil {
		return err
	}
	far, err := b.farPeers()
	if err != nil {
		return err
	}
	for _, c := range b.remoteRows(ours, viaOwn, far.w) {
		if err := b.compare(c); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) remoteRows(ours, viaOwn *worker, far map[string]*worker) []comparison {
	echo, echoFar, echoShared, frames, framesFar, grpc := far["echo"], far["echo far"], far["echo shared"], far["frames"], far["frames far"], far["grpc"]
	return []comparison{
		{
			what: "remote: one caller, p50 / echo on a long-lived libp2p stream",
			ours: b.turn(ours, 1, median), peer: b.turn(echo, 1, median), format: duration, atMost: 1.3,
		},
		{
			what: "remote: floor, one caller, p50: echo in another process than the server's / echo on a long-lived libp2p stream",
			ours: b.turn(echoFar, 1, median), peer: b.turn(echo, 1, median), format: duration,
		},
		{
			what: "remote: one caller, p50 / echo in another process, behind a long-lived libp2p stream",
			ours: b.turn(ours, 1, median), peer: b.turn(echoFar, 1, median), format: duration, atMost: 1.3,
		},
		{
			what: "remote: 64 callers / echo on one libp2p stream that they share",
			ours: b.turn(ours, 64, throughput), peer: b.turn(echoShared, 64, throughput), format: perSecond, least: 0.75,
		},
		{
			what: "remote: 64 callers / our frames on one libp2p stream, echo in the process",
			ours: b.turn(ours, 64, throughput), peer: b.turn(frames, 64, throughput), format: perSecond,
		},
		{
			what: "remote: floor, 64 callers: the same frames, program in another process / echo in the server's",
			ours: b.turn(framesFar, 64, throughput), peer: b.turn(frames, 64, throughput), format: perSecond,
		},
		{
			what: "remote: 64 callers / gRPC unary over TLS",
			ours: b.turn(ours, 64, throughput), peer: b.turn(grpc, 64, throughput), format: perSecond, least: 2.5,
		},
		{
			what: "remote: one caller, p50 / gRPC unary over TLS",
			ours: b.turn(ours, 1, median), peer: b.turn(grpc, 1, median), format: duration,
		},
		{
			what: "remote: a program that calls through its own nucleus, p50 / echo on a libp2p stream",
			ours: b.turn(viaOwn, 1, median), peer: b.turn(echo, 1, median), format: duration,
		},
		{
			what: "remote: the same, 64 callers / gRPC unary over TLS",
			ours: b.turn(viaOwn, 64, throughput), peer: b.turn(grpc, 64, throughput), format: perSecond,
		},
	}
}

// farPeers are the peers of a call to another host: their clients by name, and the processes that serve them.
type farPeers struct {
	w                    map[string]*worker
	libp2p, program, tls *proc // program is behind libp2p
}

func (b *bench) farPeers() (*farPeers, error) {
	peers := filepath.Join(b.o.bin, "peers")
	echoSock, programSock := filepath.Join(b.dir, "echo.sock"), filepath.Join(b.dir, "program.sock")
	if _, _, err := b.procs.serve(peers, "unix-echo", echoSock); err != nil {
		return nil, err
	}
	f := &farPeers{w: map[string]*worker{}}
	var err error
	if f.program, _, err = b.procs.serve(filepath.Join(b.o.bin, "echo"), "listen", programSock); err != nil {
		return nil, err
	}
	var libp2p, tls string
	if f.libp2p, libp2p, err = b.procs.serve(peers, "libp2p-serve", echoSock, programSock); err != nil {
		return nil, err
	}
	if f.tls, tls, err = b.procs.serve(peers, "grpc-serve-tls", b.dir); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		name string
		args []string
	}{
		{"echo", []string{"libp2p-call-echo", libp2p}},
		{"echo shared", []string{"libp2p-call-echo-shared", libp2p}},
		{"echo far", []string{"libp2p-call-echo-far", libp2p}},
		{"frames", []string{"libp2p-call-frames", libp2p}},
		{"frames far", []string{"libp2p-call-frames-far", libp2p}},
		{"grpc", []string{"grpc-call-tls", tls, b.dir}},
	} {
		if f.w[s.name], err = b.procs.worker(peers, s.args...); err != nil {
			return nil, err
		}
	}
	return f, nil
}
