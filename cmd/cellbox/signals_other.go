//go:build !unix

package main

import (
	"os"

	"github.com/celldnet/celld/node/sandbox"
)

const noFollow = 0

// listened are the signals that act knows.
var listened = []os.Signal{os.Interrupt}

func act(box *sandbox.Box, _ os.Signal) { box.Stop() }
