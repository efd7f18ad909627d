// Package program owns the cell's program: it starts it on the first request, gives the connection
// to it, bounds the calls in flight, stops it when it idles, and says why it cannot be started. It
// also owns what the program prints: the lines, their limits and the bounded log file.
//
// A program speaks frames over an inherited socket, or JSON lines on its standard input and output;
// both look the same from outside, a *cellproto.Conn. The package does not decide who may call, it
// opens no sockets for callers, and it does not confine what it starts.
package program
