package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/node/sandbox"
)

// roles are what this program does when it is started again by itself.
var roles = map[string]func([]string){"host": host, "burn": burn, "grow": grow, "place": place, "nothing": func([]string) {}}

// startHost starts the host, and waits until its strangers run.
func startHost(pool *sandbox.Pool, o options) (*exec.Cmd, error) {
	groups, err := json.Marshal(pool.Groups())
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "host", string(groups), filepath.Join(o.bin, "cellbox"), filepath.Join(o.work, "written"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, fmt.Errorf("the host ended: %w", cmd.Wait())
	}
	return cmd, nil
}

// host stands for the nucleus of a hosted cell: it enters the pool, starts a program that takes all
// processors and one that takes all memory, again and again, and writes as fast as it can.
func host(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "give, host:", err)
			os.Exit(1)
		}
	}
	var groups map[string]string
	fail(json.Unmarshal([]byte(args[0]), &groups))
	cgroup, err := sandbox.EnterPool(groups, "bench")
	fail(err)
	ctx := context.Background()
	for _, what := range []string{"burn", "grow"} {
		go func() {
			for {
				fail(confined(ctx, args[1], cgroup, what))
			}
		}()
	}
	fmt.Println("in")
	f, err := os.OpenFile(args[2], os.O_WRONLY|os.O_CREATE|unix.O_DIRECT, 0o600)
	fail(err)
	fail(os.Remove(args[2]))
	block, err := unix.Mmap(-1, 0, 1<<18, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	fail(err)
	for {
		_, err := f.WriteAt(block, 0)
		fail(err)
	}
}

// burn takes all processors.
func burn([]string) {
	for range runtime.NumCPU() * 2 {
		go func() {
			for n := 0; ; n++ {
				work.Store(int64(n))
			}
		}()
	}
	select {}
}

// grow takes all memory.
func grow([]string) {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}
