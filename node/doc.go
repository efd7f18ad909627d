// Package node is the nucleus: the daemon of one cell. It composes the parts, owns their life cycle
// and answers the control API.
//
// Run reads top to bottom: lock, cell.toml, keys, host, DHT, blocks, program, the two halves of
// node/call, sockets, announce; then it waits, and stops them in reverse. What each part does is in
// its own package; here is only who gets what.
package node
