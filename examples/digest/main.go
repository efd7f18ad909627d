// Command digest is the program of a cell that moves real bytes: into a hash, out of nothing, and
// back to where they came from.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

func main() {
	cell.Main(
		cell.FuncBody("sha256", digest).Pure().Doc("Gives the SHA-256 of the body, at most 256 MiB."),
		cell.FuncBody("echo", echo).Pure().Doc("Gives back the body."),
		cell.Func("zeros", zeros).Pure().Doc("Gives a body of n zero bytes, at most 256 MiB."),
	)
}

const maxBody = 256 << 20 // bytes

// Digest is what sha256 gives.
type Digest struct {
	SHA256 string `json:"sha256" doc:"64 hexadecimal digits"`
	Bytes  int64  `json:"bytes" doc:"size of the body"`
}

func digest(_ context.Context, _ cell.None, body io.Reader) (Digest, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(body, maxBody+1))
	if err != nil {
		return Digest{}, err
	}
	if n > maxBody {
		return Digest{}, cellproto.Errorf("sha256", cellproto.TooLarge, "the body has more than %d bytes", maxBody)
	}
	return Digest{SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: n}, nil
}

func echo(_ context.Context, _ cell.None, body io.Reader) (io.Reader, error) { return body, nil }

// Size is what zeros takes.
type Size struct {
	N int64 `json:"n" doc:"bytes, at most 268435456"`
}

func zeros(_ context.Context, in Size) (io.Reader, error) {
	if in.N < 0 || in.N > maxBody {
		return nil, cellproto.Errorf("zeros", cellproto.BadInput, "n is %d, allowed are 0 to %d", in.N, maxBody)
	}
	return io.LimitReader(zeroReader{}, in.N), nil
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
