// Command asks is the program of a cell that calls the cell named lib of its [deps], and tells what came of it.
package main

import (
	"context"
	"encoding/json"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

// Answer is what a call gave.
type Answer struct {
	Reply   string `json:"reply"`
	Kind    string `json:"kind"` // of the error; ""
	Error   string `json:"error"`
	AgainMS int64  `json:"again_ms"`
}

// Name is whom to greet.
type Name struct {
	Name string `json:"name"`
}

func main() {
	cell.Main(cell.Func("ask", func(ctx context.Context, n Name) (Answer, error) {
		args, err := json.Marshal(n)
		if err != nil {
			return Answer{}, err
		}
		reply, err := cell.Call[string](ctx, "lib", "greet", json.RawMessage(args))
		if err != nil {
			return Answer{Kind: cellproto.KindOf(err).String(), Error: err.Error(), AgainMS: cellproto.RetryAfterOf(err).Milliseconds()}, nil
		}
		return Answer{Reply: reply}, nil
	}))
}
