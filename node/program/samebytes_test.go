package program

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestSameBytes(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const piece = 256 << 10
	for _, n := range []int{0, 1, piece - 1, piece, piece + 1, 3 * piece} {
		data := bytes.Repeat([]byte{7}, n)
		a, b := write("a", data), write("b", data)
		if same, err := sameBytes(a, b); !same || err != nil {
			t.Errorf("%d bytes: %v, %v", n, same, err)
		}
		if n == 0 {
			continue
		}
		for _, at := range []int{0, n / 2, n - 1} {
			other := bytes.Clone(data)
			other[at]++
			if same, err := sameBytes(a, write("b", other)); same || err != nil {
				t.Errorf("%d bytes that differ at %d: %v, %v", n, at, same, err)
			}
		}
		for _, other := range [][]byte{data[:n-1], append(bytes.Clone(data), 7)} {
			if same, err := sameBytes(a, write("b", other)); same || err != nil {
				t.Errorf("%d and %d bytes: %v, %v", n, len(other), same, err)
			}
		}
	}
	if _, err := sameBytes(write("a", nil), filepath.Join(dir, "none")); err == nil {
		t.Error("there is no such file")
	}
}
