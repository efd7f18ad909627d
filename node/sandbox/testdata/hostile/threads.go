package main

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// threads has n threads at once. The runtime ends the process if it cannot have one more.
func threads(n int) error {
	var up, down sync.WaitGroup
	down.Add(1)
	for range n {
		up.Add(1)
		go func() {
			runtime.LockOSThread()
			ts := unix.NsecToTimespec(int64(200 * time.Millisecond))
			up.Done()
			_ = unix.Nanosleep(&ts, nil)
			down.Wait()
		}()
	}
	up.Wait()
	pause(200 * time.Millisecond)
	return nil
}
