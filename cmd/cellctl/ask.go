package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/internal/ctl"
)

// question is what a command about a target needs: the nucleus of the calling cell, awake.
type question struct {
	ctx      context.Context
	client   *ctl.Client
	progress *progress
	target   target
	verb     string
}

// failed gives the error of a question its kind and hint.
func (q *question) failed(err error) error {
	return badTarget(fromControl(q.verb+" "+q.target.text, q.client.Dir, err))
}

// ask finds the target and the calling cell, wakes its nucleus and asks.
func (a *app) ask(cmd *cobra.Command, words []string, timeout time.Duration, do func(question) error) error {
	t, err := targetOrHere(words)
	if err != nil {
		return err
	}
	caller, err := a.callerDir()
	if err != nil {
		return err
	}
	return a.askNucleus(cmd, t, caller, timeout, do)
}

// askOwn is ask, but for a target that is a directory it asks the cell's own nucleus, which knows
// what no other does.
func (a *app) askOwn(cmd *cobra.Command, words []string, timeout time.Duration, do func(question) error) error {
	t, err := targetOrHere(words)
	if err != nil {
		return err
	}
	dir := t.dir
	if dir == "" {
		if dir, err = a.callerDir(); err != nil {
			return err
		}
	}
	return a.askNucleus(cmd, t, dir, timeout, do)
}

func (a *app) askNucleus(cmd *cobra.Command, t target, dir string, timeout time.Duration, do func(question) error) error {
	ctx, cancel, err := deadline(cmd, timeout)
	if err != nil {
		return err
	}
	defer cancel()
	p := a.progress()
	defer p.done()
	client, err := a.client(ctx, dir, p)
	if err != nil {
		return err
	}
	return do(question{ctx: ctx, client: client, progress: p, target: t, verb: cmd.Name()})
}
