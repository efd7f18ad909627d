// Package cell is the SDK: it makes a Go program the program of a cell.
//
// It owns serving typed functions over the socket that the nucleus hands down, deriving the schema
// from their Go types, and what a program asks its nucleus for: calling other cells, and keeping state
// (Store). It neither dials nor listens,
// reads no cell.toml and links no libp2p, so that a program says hello within 3 ms of its exec. The
// derivation is its own and small: invopop/jsonschema would link its dependencies into every program.
//
// # Where a function runs
//
// A function runs inline, on the goroutine that reads the connection, unless it is declared Slow or
// moves a body: that is more than twice as fast as a goroutine a call. While it computes, no other
// call begins. When it is about to wait, the connection goes on without it: calling another cell
// (Call, Do) and asking the context for Done both hand the reading over to a fresh goroutine, once a
// call. So an inline function may call its own cell, or select on ctx.Done(), without a deadlock.
// So does a Store. What waits on something else (a disk, a lock, time.Sleep) is declared Slow, or calls Yield first.
// Declare Slow also what always waits: handing over costs more than a goroutine.
package cell
