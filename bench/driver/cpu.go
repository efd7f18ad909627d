package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/bench/load"
)

// way is one way of calling, and the processes that a call passes: the caller's first.
type way struct {
	what  string
	w     *worker
	names []string
	pids  []int
}

// cpu adds a row for each way: the CPU time of a call, in all and in each process that it passes.
func (b *bench) cpu(ways ...way) error {
	took := make([]map[string]samples, len(ways))
	for i := range ways {
		took[i] = map[string]samples{}
	}
	for round := range b.o.rounds + 1 {
		for i, c := range ways {
			before := make([]time.Duration, len(c.pids))
			for k, pid := range c.pids {
				var err error
				if before[k], err = cpuTime(pid); err != nil {
					return err
				}
			}
			o, err := c.w.round(load.Round{Callers: 64, For: b.o.round})
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			if round == 0 {
				continue // warms up
			}
			took[i]["calls"] = append(took[i]["calls"], o.PerSecond())
			for k, pid := range c.pids {
				now, err := cpuTime(pid)
				if err != nil {
					return err
				}
				took[i][c.names[k]] = append(took[i][c.names[k]], float64(now-before[k])/float64(o.Calls))
			}
		}
	}
	for i, c := range ways {
		var parts []string
		sum := 0.0
		for _, name := range c.names {
			s := took[i][name]
			parts = append(parts, fmt.Sprintf("%s %.2f", name, s.median()/1e3))
			sum += s.median()
		}
		b.add(row{what: c.what, ours: fmt.Sprintf("%.2f µs", sum/1e3), peer: strings.Join(parts, ", "), ratio: perSecond(took[i]["calls"].median())})
	}
	return nil
}

// cpuCosts compares nothing: it is for who changes the code. The CPU time of a call depends far less on what
// else the machine does than the calls per second do.
func cpuCosts(b *bench) error {
	n, err := b.network("cpu")
	if err != nil {
		return err
	}
	c, err := n.cell("echo", "echo-one")
	if err != nil {
		return err
	}
	cid, err := n.publish(c)
	if err != nil {
		return err
	}
	if err := b.awaitGrants(c); err != nil {
		return err
	}
	st, err := c.status(b)
	if err != nil {
		return err
	}
	program := st.ProgramPID
	w, err := b.localWorkers(c)
	if err != nil {
		return err
	}
	byCID, err := b.procs.worker(b.self(), "role", "call-cid", cid, st.Addrs[0], filepath.Join(b.dir, "callers"))
	if err != nil {
		return err
	}
	apart, err := b.farPeers()
	if err != nil {
		return err
	}
	pid := func(p *proc) int { return p.cmd.Process.Pid }
	through := func(what string, w *worker, nucleus string, between, program int) way {
		return way{"cpu: " + what, w, []string{"caller", nucleus, "program"}, []int{pid(w.pr), between, program}}
	}
	straight := func(what string, w *worker, server int) way {
		return way{"cpu: " + what, w, []string{"caller", "server"}, []int{pid(w.pr), server}}
	}
	direct, copier, grpc := b.procs.role("listen"), b.procs.role("copy"), b.procs.role("grpc-serve-unix")
	return b.cpu(
		through("relay, 64 callers", w["relay"], "nucleus", c.pid(), program),
		through("through a process that only copies bytes", w["copied frames"], "copier", copier, direct),
		straight("direct socket, same frames", w["direct frames"], direct),
		through("granted", w["granted"], "nucleus", c.pid(), program),
		straight("granted slow", w["granted slow"], program),
		through("by CID", byCID, "nucleus", c.pid(), program),
		through("frames on a libp2p stream, through a process that only copies bytes", apart.w["frames far"], "copier", pid(apart.libp2p), pid(apart.program)),
		straight("frames on a libp2p stream, echo in the server's process", apart.w["frames"], pid(apart.libp2p)),
		straight("gRPC unary over a Unix socket", w["grpc"], grpc),
		straight("gRPC unary over TLS", apart.w["grpc"], pid(apart.tls)),
	)
}
