package main

import (
	"path/filepath"

	"github.com/celldnet/celld/internal/ctl"
)

// local compares calls on the machine itself: through the relay of the nucleus, over its cell.sock,
// with the same program on a socket of its own and with gRPC over a Unix socket.
func local(b *bench) error {
	n, err := b.network("local")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo")
	if err != nil {
		return err
	}
	driver, peers := b.self(), filepath.Join(b.o.bin, "peers")
	ours, err := b.procs.worker(driver, "role", "call-socket", ctl.SocketPath(c.dir, ctl.CellSocket))
	if err != nil {
		return err
	}
	_, sock, err := b.procs.serve(filepath.Join(b.o.bin, "echo"), "listen", filepath.Join(b.dir, "direct.sock"))
	if err != nil {
		return err
	}
	direct, err := b.procs.worker(driver, "role", "call-socket", sock)
	if err != nil {
		return err
	}
	if _, sock, err = b.procs.serve(peers, "grpc-serve-unix", filepath.Join(b.dir, "grpc.sock")); err != nil {
		return err
	}
	grpc, err := b.procs.worker(peers, "grpc-call-unix", sock)
	if err != nil {
		return err
	}
	for _, c := range []comparison{
		{
			what: "local: relay, 64 callers, one connection / direct socket, same frames",
			ours: b.turn(ours, 64, throughput), peer: b.turn(direct, 64, throughput), format: perSecond, least: 0.7,
		},
		{
			what: "local: relay, 64 callers / gRPC unary over a Unix socket",
			ours: b.turn(ours, 64, throughput), peer: b.turn(grpc, 64, throughput), format: perSecond, least: 6,
		},
		{
			what: "local: relay, one caller, p50 / gRPC",
			ours: b.turn(ours, 1, median), peer: b.turn(grpc, 1, median), format: duration, atMost: 0.4,
		},
		{
			what: "local: relay, one caller, p50 / direct socket, same frames",
			ours: b.turn(ours, 1, median), peer: b.turn(direct, 1, median), format: duration,
		},
	} {
		if err := b.compare(c); err != nil {
			return err
		}
	}
	return nil
}
