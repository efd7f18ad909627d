package cellproto

import (
	"encoding/binary"
	"math/bits"
)

// BLAKE3-256 without key, after the specification (BLAKE3-team, 2020, sections 2.1 to 2.5). It is
// here because a schema is small and hashed once, whereas the fast implementations look at the
// processor's features when a program starts, which costs each program that links them a millisecond
// on a virtual machine (every CPUID traps). A test compares it with lukechampine.com/blake3.

const (
	b3Block = 64   // bytes
	b3Chunk = 1024 // bytes

	b3ChunkStart = 1 << 0
	b3ChunkEnd   = 1 << 1
	b3Parent     = 1 << 2
	b3Root       = 1 << 3
)

var b3IV = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// b3Order is the permutation of the message's words between rounds.
var b3Order = [16]uint8{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8}

// b3Node is the last compression of a chunk or of a parent, not done yet: the root's has a flag more.
type b3Node struct {
	cv      [8]uint32
	words   [16]uint32
	counter uint64
	length  uint32
	flags   uint32
}

func (n *b3Node) chain(flags uint32) [8]uint32 {
	s := [16]uint32{
		n.cv[0], n.cv[1], n.cv[2], n.cv[3], n.cv[4], n.cv[5], n.cv[6], n.cv[7],
		b3IV[0], b3IV[1], b3IV[2], b3IV[3], uint32(n.counter), uint32(n.counter >> 32), n.length, n.flags | flags,
	}
	m := n.words
	for round := range 7 {
		if round > 0 {
			old := m
			for i, from := range b3Order {
				m[i] = old[from]
			}
		}
		b3Mix(&s, 0, 4, 8, 12, m[0], m[1])
		b3Mix(&s, 1, 5, 9, 13, m[2], m[3])
		b3Mix(&s, 2, 6, 10, 14, m[4], m[5])
		b3Mix(&s, 3, 7, 11, 15, m[6], m[7])
		b3Mix(&s, 0, 5, 10, 15, m[8], m[9])
		b3Mix(&s, 1, 6, 11, 12, m[10], m[11])
		b3Mix(&s, 2, 7, 8, 13, m[12], m[13])
		b3Mix(&s, 3, 4, 9, 14, m[14], m[15])
	}
	var out [8]uint32
	for i := range out {
		out[i] = s[i] ^ s[i+8]
	}
	return out
}

func b3Mix(s *[16]uint32, a, b, c, d int, x, y uint32) {
	s[a] += s[b] + x
	s[d] = bits.RotateLeft32(s[d]^s[a], -16)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], -12)
	s[a] += s[b] + y
	s[d] = bits.RotateLeft32(s[d]^s[a], -8)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], -7)
}

// b3ChunkNode compresses all but the last block of a chunk, of at most b3Chunk bytes.
func b3ChunkNode(data []byte, counter uint64) b3Node {
	n := b3Node{cv: b3IV, counter: counter, flags: b3ChunkStart}
	for {
		var block [b3Block]byte
		n.length = uint32(copy(block[:], data))
		data = data[n.length:]
		for i := range n.words {
			n.words[i] = binary.LittleEndian.Uint32(block[4*i:])
		}
		if len(data) == 0 {
			n.flags |= b3ChunkEnd
			return n
		}
		n.cv = n.chain(0)
		n.flags = 0
	}
}

// b3Tree gives the node above data: the left half is the largest power of two of whole chunks that
// leaves something for the right one.
func b3Tree(data []byte, counter uint64) b3Node {
	if len(data) <= b3Chunk {
		return b3ChunkNode(data, counter)
	}
	left := b3Chunk << (bits.Len(uint(len(data)-1)/b3Chunk) - 1)
	l := b3Tree(data[:left], counter)
	r := b3Tree(data[left:], counter+uint64(left/b3Chunk))
	lcv, rcv := l.chain(0), r.chain(0)
	n := b3Node{cv: b3IV, length: b3Block, flags: b3Parent}
	copy(n.words[:8], lcv[:])
	copy(n.words[8:], rcv[:])
	return n
}

// BLAKE3 gives the BLAKE3-256 of data, portably: some 300 MB/s. For what is large and is waited for,
// lukechampine.com/blake3 is faster.
func BLAKE3(data []byte) (sum [32]byte) {
	root := b3Tree(data, 0)
	for i, w := range root.chain(b3Root) {
		binary.LittleEndian.PutUint32(sum[4*i:], w)
	}
	return sum
}
