//go:build unix

package main

import (
	"os"
	"syscall"

	"github.com/celldnet/celld/node/sandbox"
)

const noFollow = syscall.O_NOFOLLOW

// listened are the signals that act knows.
var listened = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// act does what a signal asks for. The program is in a session of its own and gets none by itself.
func act(box *sandbox.Box, sig os.Signal) {
	switch sig {
	case syscall.SIGUSR1:
		box.Freeze()
	case syscall.SIGUSR2:
		box.Thaw()
	case syscall.SIGQUIT:
		box.Kill()
	default:
		box.Stop()
	}
}
