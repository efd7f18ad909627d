// Command obedient does what its arguments say, one after the other, so that tests can see what a
// program in the sandbox sees and how its limits are held.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func init() { runtime.LockOSThread() } // main runs on the first thread

func main() {
	for i, arg := range os.Args[1:] {
		if arg == "behead" { // ends the first thread; what is left to do is done on another
			go func() {
				doAll(os.Args[i+2:])
				os.Exit(0)
			}()
			_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
		}
		doAll([]string{arg})
	}
}

func doAll(args []string) {
	for _, arg := range args {
		what, value, _ := strings.Cut(arg, "=")
		n, _ := strconv.Atoi(value)
		do(what, value, n)
	}
}

var kept [][]byte

func do(what, value string, n int) {
	switch what {
	case "say":
		fmt.Println(value)
	case "shout":
		fmt.Fprintln(os.Stderr, value)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "ids":
		fmt.Println(os.Getpid(), os.Getuid(), os.Getgid())
	case "args":
		fmt.Printf("%q\n", os.Args)
	case "cwd":
		fmt.Println(os.Getwd())
	case "read":
		data, err := os.ReadFile(value)
		fmt.Printf("%q %v\n", data, err)
	case "list":
		entries, err := os.ReadDir(value)
		fmt.Println(len(entries), err)
	case "echo": // on an inherited descriptor
		f := os.NewFile(uintptr(n), "fd")
		buf := make([]byte, 1024)
		k, err := f.Read(buf)
		if err == nil {
			_, err = f.Write(buf[:k])
		}
		if err != nil {
			fmt.Println(err)
		}
	case "copy":
		_, err := io.Copy(os.Stdout, os.Stdin)
		if err != nil {
			fmt.Println(err)
		}
	case "sleep":
		time.Sleep(time.Duration(n) * time.Millisecond)
	case "burn": // all processors, in ms
		for range runtime.NumCPU() {
			go func() {
				for {
				}
			}()
		}
		time.Sleep(time.Duration(n) * time.Millisecond)
	case "grow": // MiB
		for range n {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	case "drop": // a file from the system's cache
		f, err := os.Open(value)
		_, _, no := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, 4, 0, 0) // POSIX_FADV_DONTNEED
		fmt.Println(err, no)
	case "sip": // a whole file, at 60 MB/s at most
		f, err := os.Open(value)
		for buf := make([]byte, 64<<10); err == nil; time.Sleep(time.Millisecond) {
			_, err = f.Read(buf)
		}
		fmt.Println(err)
	case "log": // KiB to the standard error
		line := strings.Repeat("x", 1023) + "\n"
		for range n {
			fmt.Fprint(os.Stderr, line)
		}
	case "threads":
		var up sync.WaitGroup
		for range n {
			up.Add(1)
			go func() {
				runtime.LockOSThread()
				up.Done()
				select {}
			}()
		}
		up.Wait()
	case "fds":
		var open []int
		for fd := range 256 {
			var st syscall.Stat_t
			if syscall.Fstat(fd, &st) == nil && st.Mode&syscall.S_IFMT != 0 {
				open = append(open, fd)
			}
		}
		fmt.Println("open:", open)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "crash":
		panic(value)
	case "exit":
		os.Exit(n)
	case "signal":
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Second)
	}
}
