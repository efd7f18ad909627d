// Package content is bytes by CID: it keeps blocks and artefacts, gives them to whoever asks, and
// fetches those of others.
//
// It owns the block store, bitswap, UnixFS and the protocol /cell/fetch/1, and is the only package
// that imports boxo. It does not know where things are (package dht finds the peers and hands them
// over), reads no manifest and checks no signature: a CID and a BLAKE3 are all that it trusts.
//
// A block is kept as a file of its own. An artefact is not copied: its record says which file holds
// it, and its leaves are read from there when a peer wants them, so that a file that is replaced
// takes its old artefact with it.
//
// Of bitswap the message format is boxo's; the two halves (exchange.go, want.go) are this package's
// own. boxo's server keeps a ticker of 100 ms running even when nobody asks, which alone is 0.25 %
// of a CPU, reads streams without a deadline, and its client starts a goroutine with timers for
// each connected peer. Here nothing runs while nothing is asked for, and every stream has a quota.
package content
