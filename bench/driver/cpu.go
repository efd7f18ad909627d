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
	far, err := b.procs.worker(b.self(), "role", "call-cid", cid, st.Addrs[0], filepath.Join(b.dir, "callers"))
	if err != nil {
		return err
	}
	var direct, copier, grpc int
	for _, p := range b.procs.made {
		switch {
		case len(p.cmd.Args) > 1 && p.cmd.Args[1] == "listen":
			direct = p.cmd.Process.Pid
		case len(p.cmd.Args) > 2 && p.cmd.Args[2] == "copy":
			copier = p.cmd.Process.Pid
		case len(p.cmd.Args) > 1 && p.cmd.Args[1] == "grpc-serve-unix":
			grpc = p.cmd.Process.Pid
		}
	}
	pid := func(w *worker) int { return w.pr.cmd.Process.Pid }
	return b.cpu(
		way{"cpu: relay, 64 callers", w["relay"], []string{"caller", "nucleus", "program"}, []int{pid(w["relay"]), c.pid(), program}},
		way{"cpu: through a process that only copies bytes", w["copied frames"], []string{"caller", "copier", "program"}, []int{pid(w["copied frames"]), copier, direct}},
		way{"cpu: direct socket, same frames", w["direct frames"], []string{"caller", "program"}, []int{pid(w["direct frames"]), direct}},
		way{"cpu: granted", w["granted"], []string{"caller", "nucleus", "program"}, []int{pid(w["granted"]), c.pid(), program}},
		way{"cpu: granted slow", w["granted slow"], []string{"caller", "program"}, []int{pid(w["granted slow"]), program}},
		way{"cpu: by CID", far, []string{"caller", "nucleus", "program"}, []int{pid(far), c.pid(), program}},
		way{"cpu: gRPC unary over a Unix socket", w["grpc"], []string{"caller", "server"}, []int{pid(w["grpc"]), grpc}},
	)
}
