package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/celldnet/celld/bench/load"
	"github.com/celldnet/celld/cellproto/cell"
)

// callLocal makes calls as any program of the owner does, with the SDK: over a connection that the
// nucleus hands to the cell's program, unless cfg has it relayed. Where dir has the socket of a program
// instead of a nucleus's, the same client calls that program directly. All callers share the connection.
func callLocal(cfg cell.LocalConfig, newCall func(*cell.Local) load.Call) error {
	l, err := cfg.Open()
	if err != nil {
		return err
	}
	defer l.Close()
	return load.Worker(func() (load.Call, error) { return newCall(l), nil })
}

// rawCall calls a function that gives back the bytes that it is sent.
func rawCall(function string) func(*cell.Local) load.Call {
	return func(l *cell.Local) load.Call {
		payload, room := load.Payload(), make([]byte, 0, load.PayloadSize)
		return func() error {
			got, err := l.CallRaw(context.Background(), function, payload, room)
			if err != nil {
				return err
			}
			return load.Check(payload, got)
		}
	}
}

// messageCall sends a struct as JSON and decodes the reply into one.
func messageCall(l *cell.Local) load.Call {
	m := load.NewMessage()
	return func() error {
		args, err := json.Marshal(m)
		if err != nil {
			return err
		}
		got, err := cell.CallLocal[load.Message](context.Background(), l, "message", json.RawMessage(args))
		if err != nil {
			return err
		}
		if got.ID != m.ID || got.Text != m.Text || len(got.To) != len(m.To) {
			return fmt.Errorf("the message came back as %+v", got)
		}
		return nil
	}
}
