// Package program owns the cell's program: it starts it on the first request, gives the connection
// to it, bounds the calls in flight, freezes and stops it when it idles, replaces it by a new one without
// dropping a call, goes back to the last good one, and says why one cannot be started. It
// also owns what the program prints: the lines, their limits and the bounded log file.
//
// A program speaks frames over an inherited socket, or JSON lines on its standard input and output;
// both look the same from outside, a *cellproto.Conn. The package does not decide who may call, it
// opens no sockets for callers, and it does not confine what it starts.
package program
