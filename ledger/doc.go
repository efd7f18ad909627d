// Package ledger is who owes whom: what was given and what was taken, who signed it, and what follows
// from it for the next call.
//
// It owns the entries and their bytes (receipts, donation cheques, key logs), the registers that they
// merge into, the file that keeps them (Store), the public price table, and the decision who is served
// first on a busy machine (Graph, Queue). It neither sends nor receives anything, knows no libp2p, reads
// no clock, and holds no keys beyond a call: what goes between neighbours is for its users, and so is
// the meter. Everything but Store is pure; only Ledger, which joins the parts, may be used by several
// goroutines.
//
// Nobody computes one balance that all agree on. Each host ranks those who call it by what the work that
// it knows of, seen from itself, still owes them; docs/ledger.md says what that promises and what not.
package ledger
