package content

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	"github.com/ipfs/go-cid"
	"lukechampine.com/blake3"
	"lukechampine.com/blake3/bao"
)

func FuzzFetchRequest(f *testing.F) {
	f.Add(fetchRequest{sum: [32]byte{1}, offset: groupBytes}.encode())
	f.Add(fetchRequest{cid: rawCID(f, nil)}.encode())
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := readFetchRequest(bytes.NewReader(in))
		if err != nil {
			return
		}
		again, err := readFetchRequest(bytes.NewReader(req.encode()))
		if err != nil || again != req {
			t.Fatalf("%+v came back as %+v, %v", req, again, err)
		}
	})
}

// Whatever a server sends, only the artefact's own bytes get through, in order.
func FuzzFetchAnswer(f *testing.F) {
	data := noise(1, groupBytes+10) // of which the last ten bytes are asked for: small inputs fuzz faster
	tree, sum := bao.EncodeBuf(data, groupLog, true)
	size := int64(len(data))
	var good bytes.Buffer
	if err := encodeSlice(&good, bytes.NewReader(data), tree, size, groupBytes); err != nil {
		f.Fatal(err)
	}
	f.Add(append(fetchHead{size, sum}.encode(), good.Bytes()...))
	f.Add([]byte{5, 0, 0, 0, 1, 0, 2, 'n', 'o'})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		head, err := readFetchHead(r)
		if err != nil || head.size != size || head.sum != sum {
			return
		}
		var got bytes.Buffer
		err = decodeSlice(&got, r, sum, size, groupBytes)
		if !bytes.HasPrefix(data[groupBytes:], got.Bytes()) {
			t.Fatal("bytes that are not the artefact's got through")
		}
		if err == nil && got.Len() != len(data)-groupBytes {
			t.Fatalf("%d bytes were taken for the whole", got.Len())
		}
	})
}

func FuzzBitswapMessage(f *testing.F) {
	msg := message.New(false)
	msg.AddEntry(rawCID(f, nil), 1, pb.Message_Wantlist_Block, true)
	var buf bytes.Buffer
	if err := msg.ToNetV1(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		n, err := messageLen(r)
		if err != nil {
			return
		}
		if n < 0 || n > maxMessage {
			t.Fatalf("a length of %d", n)
		}
		if _, _, err := message.FromNet(r); err != nil {
			return
		}
	})
}

func FuzzRecord(f *testing.F) {
	data := noise(1, 300<<10)
	tree, sum := bao.EncodeBuf(data, groupLog, true)
	rec := &record{CID: rawCID(f, data).String(), Path: "/bin/x", Stamp: stamp{Size: int64(len(data))}, Chunk: chunkBytes,
		BLAKE3: sum[:], outboard: tree, leaves: [][]byte{make([]byte, 32), make([]byte, 32)}}
	good, err := rec.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-32])
	f.Fuzz(func(t *testing.T, in []byte) {
		sum := blake3.Sum256(in)
		if rec, err := decodeRecord(append(in[:len(in):len(in)], sum[:]...)); err == nil && len(rec.leaves) != leafCount(rec.file.Size) {
			t.Fatal("leaves are missing")
		}
	})
}

// Blocks of a publisher who means ill must not crash the reader.
func FuzzParseNode(f *testing.F) {
	f.Add([]byte{0x0a, 4, 0x08, 2, 0x18, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		c := cid.NewCidV1(cid.DagProtobuf, rawCID(t, in).Hash())
		_, children, sizes, err := parseNode(c, in)
		if err == nil && len(children) != len(sizes) {
			t.Fatal("children without sizes")
		}
		links(c, in)
		links(cid.NewCidV1(cid.DagCBOR, c.Hash()), in)
	})
}
