package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

// guardTimeout bounds the asking of a program for its schema, and of the nucleus for its callers, who may be elsewhere.
const guardTimeout = 15 * time.Second

// guardFlags gives --force and --seen of a command that a change can be refused by.
func guardFlags(cmd *cobra.Command, what string) *ctl.Guard {
	g := &ctl.Guard{}
	cmd.Flags().BoolVar(&g.Force, "force", false, "even if "+what+" breaks callers")
	cmd.Flags().BoolVar(&g.Seen, "seen", false, "ask nobody else who calls: callers of this very nucleus count")
	return g
}

// guard refuses a program that would break those who call the cell, if its nucleus runs. A program that does not
// say its schema is not refused here: a swap looks at it again.
func (a *app) guard(cmd *cobra.Command, c *celltoml.Config, path string, g ctl.Guard) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), guardTimeout)
	defer cancel()
	client := &ctl.Client{Dir: c.Dir}
	if _, err := client.Status(ctx); err != nil {
		return nil // nobody calls a cell that does not run
	}
	schema, err := programSchema(ctx, c, path)
	if err != nil || schema == nil {
		return nil
	}
	p := a.progress()
	defer p.done()
	client.Progress = p.say
	fits, err := client.Fits(ctx, schema.Canonical(), g)
	p.done()
	if err != nil {
		return fromControl("build "+c.Cell.Name, c.Dir, err)
	}
	a.notes(fits.Notes)
	if fits.Refused != nil {
		return fromControl("build "+c.Cell.Name, c.Dir, fits.Refused)
	}
	return nil
}

// notes tells on stderr what is not in the way and yet to be known.
func (a *app) notes(list []string) {
	for _, text := range list {
		fmt.Fprintf(a.errOut, "cellctl: %s\n", safe(text))
	}
}

// programSchema asks a program for its schema; nil if it does not say one.
func programSchema(ctx context.Context, c *celltoml.Config, path string) (*cellproto.Schema, error) {
	var data []byte
	var err error
	if c.Cell.Speaks == celltoml.JSONL {
		data, err = celllock.ReadSmall(c.Path("schema.json"), cellproto.MaxSchema)
	} else {
		run := exec.CommandContext(ctx, path, "--schema")
		run.Dir, run.WaitDelay = c.Dir, time.Second
		var out limitedBuffer
		run.Stdout = &out
		err, data = run.Run(), out.data
	}
	if err != nil {
		return nil, err
	}
	return cellproto.ParseSchema(data)
}

// limitedBuffer takes as much as a schema may have.
type limitedBuffer struct{ data []byte }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > cellproto.MaxSchema {
		return 0, errors.Join(io.ErrShortWrite, cellproto.Errorf("read a schema", cellproto.TooLarge, "more than %d bytes", cellproto.MaxSchema))
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
