// Package wire writes and reads CBOR (RFC 8949) without reflection, for the clients that cellctl gen
// writes. It owns single values: which come in which order is said by the generated code. What it reads
// may be any encoding of definite length.
package wire
