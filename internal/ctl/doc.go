// Package ctl is what a nucleus and its owner's tools say to each other on one machine: where a
// cell directory has its sockets, the control API's routes and types, and a client of it.
//
// The API is HTTP/1.1 over run/ctl.sock, so that curl --unix-socket can speak it. The client here
// speaks just enough HTTP for that, because net/http costs a millisecond at the start of every
// process that links it. The package does not serve the routes, knows nothing of what they do, and
// imports only the standard library: kinds of error are strings here.
package ctl
