// Package cellproto is the one vocabulary of celld: what two programs must agree on.
//
// It owns the frames and the connection that carries them on every hop (Unix socket, link to the
// program, libp2p stream), the kinds of error, the limits on input, the schema of a cell and the
// protocol IDs. It imports nothing of ours, and it neither dials, listens, signs nor stores.
package cellproto
