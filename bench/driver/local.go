package main

import (
	"os"
	"path/filepath"

	"github.com/celldnet/celld/internal/ctl"
)

// local compares calls on the machine itself. Granted: over a connection that the nucleus hands to the
// program. Relay: through the nucleus, over its cell.sock. The peers are the same program on a socket of
// its own, gRPC over a Unix socket, NATS, and two processes in C that send each other bytes.
func local(b *bench) error {
	n, err := b.network("local")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo-one")
	if err != nil {
		return err
	}
	if err := b.awaitGrants(c); err != nil {
		return err
	}
	w, err := b.localWorkers(c)
	if err != nil {
		return err
	}
	for _, rows := range [][]comparison{b.grantedAlone(w), b.grantedMany(w), b.relayed(w)} {
		for _, c := range rows {
			if err := b.compare(c); err != nil {
				return err
			}
		}
	}
	if w["ping-pong"] == nil {
		b.add(row{what: pingPongRow, peer: "left out: there is no C compiler"})
	}
	return b.starts(n)
}

// localWorkers starts the servers and the clients, which it gives by name.
func (b *bench) localWorkers(c *cellDir) (map[string]*worker, error) {
	driver, peers, pingPong := b.self(), filepath.Join(b.o.bin, "peers"), filepath.Join(b.o.bin, "pingpong")
	// A directory with a socket where a nucleus would have its own, so that the same client calls it.
	direct := filepath.Join(b.dir, "direct")
	if err := os.MkdirAll(filepath.Join(direct, "run"), 0o700); err != nil {
		return nil, err
	}
	directSock, copied := ctl.SocketPath(direct, ctl.CellSocket), filepath.Join(b.dir, "copied.sock")
	_, hasC := os.Stat(pingPong)
	where, err := b.localServers(directSock, copied, hasC == nil)
	if err != nil {
		return nil, err
	}
	workers := map[string]*worker{}
	for _, s := range []struct {
		name, binary string
		args         []string
	}{
		{"granted", driver, []string{"role", "call-local", c.dir, "echo"}},
		{"granted slow", driver, []string{"role", "call-local", c.dir, "echo-slow"}},
		{"granted message", driver, []string{"role", "call-local-message", c.dir}},
		{"direct", driver, []string{"role", "call-local", direct, "echo"}},
		{"direct message", driver, []string{"role", "call-local-message", direct}},
		{"relay", driver, []string{"role", "call-socket", ctl.SocketPath(c.dir, ctl.CellSocket)}},
		{"direct frames", driver, []string{"role", "call-socket", directSock}},
		{"copied frames", driver, []string{"role", "call-socket", copied}},
		{"grpc", peers, []string{"grpc-call-unix", where["grpc"]}},
		{"grpc stream", peers, []string{"grpc-stream-unix", where["grpc"]}},
		{"nats", peers, []string{"nats-call", where["nats"]}},
		{"ping-pong", pingPong, []string{"call", where["ping-pong"]}},
	} {
		if s.binary == pingPong && hasC != nil {
			continue
		}
		var err error
		if workers[s.name], err = b.procs.worker(s.binary, s.args...); err != nil {
			return nil, err
		}
	}
	return workers, nil
}

// localServers starts what cells are compared with, and gives what each says of where it is.
func (b *bench) localServers(direct, copied string, hasC bool) (where map[string]string, err error) {
	peers, pingPong := filepath.Join(b.o.bin, "peers"), filepath.Join(b.o.bin, "pingpong")
	where = map[string]string{}
	for _, s := range []struct {
		name, binary string
		args         []string
	}{
		{"direct", filepath.Join(b.o.bin, "echo-one"), []string{"listen", direct}},
		{"grpc", peers, []string{"grpc-serve-unix", filepath.Join(b.dir, "grpc.sock")}},
		{"nats", peers, []string{"nats-serve"}},
		{"ping-pong", pingPong, []string{"serve", filepath.Join(b.dir, "pingpong.sock")}},
	} {
		if s.binary == pingPong && !hasC {
			continue
		}
		if _, where[s.name], err = b.procs.serve(s.binary, s.args...); err != nil {
			return nil, err
		}
	}
	if _, _, err = b.procs.serve(peers, "nats-answer", where["nats"]); err == nil {
		_, _, err = b.procs.serve(b.self(), "role", "copy", copied, direct)
	}
	return where, err
}

const pingPongRow = "local: granted, one caller, p50 / ping-pong of two C processes that block in read and write"

// grantedAlone are the rows of one caller whose connection the program holds.
func (b *bench) grantedAlone(w map[string]*worker) []comparison {
	p50 := func(what, ours, peer string, goal float64) comparison {
		return comparison{what: what, ours: b.turn(w[ours], 1, median), peer: b.turn(w[peer], 1, median), format: duration, atMost: goal}
	}
	rows := []comparison{
		p50("local: granted, one caller, p50 / direct socket, same SDK", "granted", "direct", 1.05),
		p50("local: granted, one caller, p50 / gRPC unary over a Unix socket", "granted", "grpc", 0.12),
		p50("local: granted, one caller, p50 / NATS request and reply over TCP", "granted", "nats", 0.10),
		p50("local: granted, a message of 200 B as JSON, p50 / direct socket, same SDK", "granted message", "direct message", 1.5),
	}
	if w["ping-pong"] != nil {
		rows = append(rows, p50(pingPongRow, "granted", "ping-pong", 1.4),
			p50("local: floor, one caller, p50: ping-pong of two C processes / gRPC unary over a Unix socket", "ping-pong", "grpc", 0),
			p50("local: floor, one caller, p50: ping-pong of two C processes / NATS request and reply over TCP", "ping-pong", "nats", 0))
	}
	return rows
}

// grantedMany are those of 64 callers in one process.
func (b *bench) grantedMany(w map[string]*worker) []comparison {
	many := func(what, ours, peer string, goal float64) comparison {
		return comparison{what: what, ours: b.turn(w[ours], 64, throughput), peer: b.turn(w[peer], 64, throughput), format: perSecond, least: goal}
	}
	return []comparison{
		many("local: granted, 64 callers, one connection / direct socket, same SDK", "granted", "direct", 0.95),
		many("local: granted, 64 callers / gRPC unary over a Unix socket", "granted", "grpc", 9),
		many("local: granted, 64 callers / gRPC, a bidirectional stream for each caller", "granted", "grpc stream", 3),
		many("local: granted, 64 callers, a slow function / gRPC unary over a Unix socket", "granted slow", "grpc", 3.5),
	}
}

// relayed are the rows of calls that pass through the nucleus.
func (b *bench) relayed(w map[string]*worker) []comparison {
	relay, direct, copied, grpc := w["relay"], w["direct frames"], w["copied frames"], w["grpc"]
	return []comparison{
		{
			what: "local: relay, 64 callers, one connection / direct socket, same frames",
			ours: b.turn(relay, 64, throughput), peer: b.turn(direct, 64, throughput), format: perSecond, least: 0.7,
		},
		{
			what: "local: floor of the relay, 64 callers: through a process that only copies bytes / direct socket, same frames",
			ours: b.turn(copied, 64, throughput), peer: b.turn(direct, 64, throughput), format: perSecond,
		},
		{
			what: "local: relay, 64 callers / the same frames through a process that only copies bytes",
			ours: b.turn(relay, 64, throughput), peer: b.turn(copied, 64, throughput), format: perSecond, least: 0.7,
		},
		{
			what: "local: relay, 64 callers / gRPC unary over a Unix socket",
			ours: b.turn(relay, 64, throughput), peer: b.turn(grpc, 64, throughput), format: perSecond, least: 6,
		},
		{
			what: "local: relay, one caller, p50 / gRPC",
			ours: b.turn(relay, 1, median), peer: b.turn(grpc, 1, median), format: duration, atMost: 0.4,
		},
		{
			what: "local: floor of the relay, one caller, p50: through a process that only copies bytes / gRPC",
			ours: b.turn(copied, 1, median), peer: b.turn(grpc, 1, median), format: duration,
		},
		{
			what: "local: relay, one caller, p50 / the same frames through a process that only copies bytes",
			ours: b.turn(relay, 1, median), peer: b.turn(copied, 1, median), format: duration, atMost: 1.3,
		},
		{
			what: "local: relay, one caller, p50 / direct socket, same frames",
			ours: b.turn(relay, 1, median), peer: b.turn(direct, 1, median), format: duration,
		},
	}
}
