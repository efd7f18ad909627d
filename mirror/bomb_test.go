package mirror

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

// packed is a pack that a test fills, as gitformat-pack(5) describes it.
type packed struct {
	bytes.Buffer
	objects int
}

const (
	packBlob     = 3
	packRefDelta = 7
)

// add adds an object: its kind, how many bytes it has, and what comes before its compressed data.
func (p *packed) add(kind byte, head, data []byte) {
	p.objects++
	size := len(data)
	b := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.WriteByte(b | 0x80)
		b = byte(size & 127)
	}
	p.WriteByte(b)
	p.Write(head)
	z := zlib.NewWriter(p)
	_, _ = z.Write(data)
	z.Close()
}

// whole gives the pack.
func (p *packed) whole() []byte {
	out := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(p.objects))
	out = append(out, p.Bytes()...)
	sum := sha1.Sum(out)
	return append(out, sum[:]...)
}

// repeated is a delta whose result is so many times its base.
func repeated(base, times int) []byte {
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(base)), uint64(base*times))
	for range times { // copy the base: three bytes of its size, offset 0
		delta = append(delta, 0xf0, byte(base), byte(base>>8), byte(base>>16))
	}
	return delta
}

// A pack of a few KiB with an object of a GiB: git, which has that in memory to check it, is not given as much.
func TestCloneRefusesADeltaBomb(t *testing.T) {
	if err := exec.Command("/bin/sh", "-c", "ulimit -v 1048576").Run(); err != nil {
		t.Skip("this system has no limit for memory")
	}
	const base = 8 << 20
	const times = maxGitMemory / base
	zeros := make([]byte, base)
	hash := sha1.New()
	fmt.Fprintf(hash, "blob %d\x00", base)
	hash.Write(zeros)
	var p packed
	p.add(packBlob, nil, zeros)
	p.add(packRefDelta, hash.Sum(nil), repeated(base, times))
	hash.Reset()
	fmt.Fprintf(hash, "blob %d\x00", base*times)
	for range times {
		hash.Write(zeros)
	}
	r := newRepository(t)
	if n := len(p.whole()); n > 64<<10 {
		t.Fatalf("it has %d bytes", n)
	}
	r.git(string(p.whole()), "index-pack", "--stdin")
	src := r.commitTree(fmt.Sprintf("100644 blob %x\tx\n", hash.Sum(nil)))
	if _, err := cloneInto(t, src); cellproto.KindOf(err) != cellproto.TooLarge || !strings.Contains(err.Error(), "of memory") {
		t.Errorf("%v: %v", cellproto.KindOf(err), err) // the size of its files is looked at only once git has them
	}
}
