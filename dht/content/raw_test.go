package content

import (
	"context"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
)

func BenchmarkRawStream(b *testing.B) {
	x, y := newHost(b), newHost(b)
	data := noise(1, 20_000_000)
	x.SetStreamHandler("/raw", func(st network.Stream) { st.Write(data); st.Close() })
	y.Connect(context.Background(), infoOf(x))
	b.SetBytes(20_000_000)
	for b.Loop() {
		st, err := y.NewStream(context.Background(), x.ID(), "/raw")
		if err != nil {
			b.Fatal(err)
		}
		st.Write([]byte{})
		st.CloseWrite()
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{st}, make([]byte, 65536))
		st.Close()
	}
}
