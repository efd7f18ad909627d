package load

import (
	"context"

	"github.com/celldnet/celld/cellproto"
)

// Frames gives callers that share one connection of frames to a function "echo" of raw bytes: the
// client that is used for the relay, for a direct socket and for frames over a bare libp2p stream.
// to names the cell that the nucleus at the other end is to call in turn; "" is its own. The
// connection lives as long as the process.
func Frames(t cellproto.Transport, to string) (func() (Call, error), error) {
	conn, err := cellproto.NewConn(t, cellproto.Config{Opener: true, Hello: cellproto.Hello{Agent: "bench"}})
	if err != nil {
		return nil, err
	}
	go func() {
		if err := conn.Run(); err != nil {
			Fail(err)
		}
	}()
	if _, err := conn.PeerHello(context.Background()); err != nil {
		return nil, err
	}
	return func() (Call, error) {
		payload, room := Payload(), make([]byte, 0, PayloadSize)
		return func() error {
			r := cellproto.Reply{Payload: room}
			err := conn.CallInto(context.Background(), &cellproto.Request{Header: cellproto.Header{Func: "echo", To: to}, Payload: payload}, &r)
			if err != nil {
				return err
			}
			return Check(payload, r.Payload)
		}, nil
	}, nil
}
