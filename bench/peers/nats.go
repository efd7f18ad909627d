package main

import (
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/celldnet/celld/bench/load"
)

const (
	natsSubject = "echo"
	natsTimeout = 10 * time.Second
)

// natsServe is a NATS server on a TCP port of the loopback. Who answers and who calls are its clients,
// as they are wherever NATS is used.
func natsServe([]string) error {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(natsTimeout) {
		return errors.New("the NATS server does not start")
	}
	load.Ready(s.ClientURL())
	load.UntilEOF()
	return nil
}

// natsAnswer answers what the server at args[0] passes on to it.
func natsAnswer(args []string) error {
	conn, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Subscribe(natsSubject, func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil { // a lost connection the caller sees
		return err
	}
	if err := conn.Flush(); err != nil { // the server knows of it
		return err
	}
	load.Ready(args[0])
	load.UntilEOF()
	return nil
}

func natsCall(args []string) error {
	conn, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	return load.Worker(func() (load.Call, error) {
		payload := load.Payload()
		return func() error {
			m, err := conn.Request(natsSubject, payload, natsTimeout)
			if err != nil {
				return err
			}
			return load.Check(payload, m.Data)
		}, nil
	})
}
