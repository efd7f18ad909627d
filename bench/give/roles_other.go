//go:build !linux

package main

import (
	"errors"
	"os/exec"

	"github.com/celldnet/celld/node/sandbox"
)

var roles map[string]func([]string)

func startHost(*sandbox.Pool, options) (*exec.Cmd, error) {
	return nil, errors.New("only Linux can host strangers' cells")
}

func (o options) pauses() error { return errors.New("only Linux makes networks of machines") }

func (o options) desktop() error { return errors.New("only Linux has systemd") }
