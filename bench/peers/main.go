// Command peers is what celld is measured against: gRPC over a Unix socket and over TLS, requests over
// NATS, an echo on a long-lived libp2p stream, and frames over such a stream. It is a module of its own, so that none
// of this reaches the product's dependencies. Each role is a process: a server says where it listens
// and serves until its standard input ends; a client is a load.Worker.
package main

import (
	"fmt"
	"os"

	"github.com/celldnet/celld/bench/load"
)

func main() {
	roles := map[string]func(args []string) error{
		"grpc-serve-unix":    grpcServeUnix,
		"grpc-call-unix":     grpcCallUnix,
		"grpc-stream-unix":   grpcStreamUnix,
		"grpc-serve-tls":     grpcServeTLS,
		"grpc-call-tls":      grpcCallTLS,
		"libp2p-serve":       libp2pServe,
		"libp2p-call-echo":   libp2pCallEcho,
		"libp2p-call-frames": libp2pCallFrames,

		"libp2p-call-echo-shared": libp2pCallEchoShared,

		"libp2p-call-echo-far":   libp2pCallEchoFar,
		"libp2p-call-frames-far": libp2pCallFramesFar,
		"unix-echo":              unixEcho,

		"nats-serve":  natsServe,
		"nats-answer": natsAnswer,
		"nats-call":   natsCall,
	}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		load.Fail(fmt.Errorf("usage: peers ROLE ADDRESS"))
	}
	if err := roles[os.Args[1]](os.Args[2:]); err != nil {
		load.Fail(err)
	}
}
