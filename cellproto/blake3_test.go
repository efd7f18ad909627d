package cellproto

import (
	"testing"

	"lukechampine.com/blake3"
)

func TestBLAKE3(t *testing.T) {
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(i % 251) // as in the official test vectors
	}
	sizes := []int{len(data)}
	for n := 0; n < 10_000; n++ {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		if got, want := BLAKE3(data[:n]), blake3.Sum256(data[:n]); got != want {
			t.Fatalf("of %d bytes: %x, want %x", n, got, want)
		}
	}
}
