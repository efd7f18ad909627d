// Command calculator is the program of a cell with three small functions.
package main

import (
	"context"
	"errors"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

func main() {
	cell.Main(
		cell.Func("add", add).Pure().Doc("Adds two integers."),
		cell.Func("div", div).Pure().Doc("Divides a by b; b must not be zero."),
		cell.Func("slow", slow).Pure().Slow().Doc("Waits for ms milliseconds and gives that number."),
	)
}

// Sum is what add takes.
type Sum struct {
	A int64 `json:"a" doc:"first addend"`
	B int64 `json:"b" doc:"second addend"`
}

func add(_ context.Context, in Sum) (int64, error) {
	sum := in.A + in.B
	if in.B > 0 && sum < in.A || in.B < 0 && sum > in.A {
		return 0, errors.New("the sum does not fit 64 bits")
	}
	return sum, nil
}

// Quotient is what div takes.
type Quotient struct {
	A float64 `json:"a" doc:"dividend"`
	B float64 `json:"b" doc:"divisor"`
}

func div(_ context.Context, in Quotient) (float64, error) {
	if in.B == 0 {
		return 0, errors.New("division by zero")
	}
	return in.A / in.B, nil
}

// Wait is what slow takes.
type Wait struct {
	MS int64 `json:"ms" doc:"milliseconds, at most 600000"`
}

const maxWait = 10 * time.Minute

func slow(ctx context.Context, in Wait) (int64, error) {
	if in.MS < 0 || in.MS > maxWait.Milliseconds() {
		return 0, cellproto.Errorf("slow", cellproto.BadInput, "ms is %d, allowed are 0 to %d", in.MS, maxWait.Milliseconds())
	}
	timer := time.NewTimer(time.Duration(in.MS) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return in.MS, nil
	case <-ctx.Done(): // the caller gave up, or its deadline passed
		return 0, ctx.Err()
	}
}
