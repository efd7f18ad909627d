// Command counter is the program of a cell with a state: a number in data/, which survives kill -9,
// is not lost when one version of the program takes over from another, and counts a retried call once.
package main

import (
	"context"

	"github.com/celldnet/celld/cellproto/cell"
)

func main() {
	c := newCounter("data") // a program's working directory is its cell's
	cell.Main(
		cell.Func("increment", c.increment).Idempotent().Slow().Doc("Adds to the number and gives the sum; once for each idempotency key."),
		cell.Func("value", c.value).Idempotent().Slow().Doc("Gives the number."),
	)
}

// Step is what increment takes.
type Step struct {
	By *int64 `json:"by" doc:"1 when left out"`
}

func (c *counter) increment(ctx context.Context, in Step) (int64, error) {
	by := int64(1)
	if in.By != nil {
		by = *in.By
	}
	return c.add(cell.KeyFrom(ctx), by)
}

func (c *counter) value(context.Context, cell.None) (int64, error) {
	s, err := c.read()
	return s.Value, err
}
