package cellproto

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestWriterOrder: whatever a transport takes at a time, frames arrive whole, those of one queue in
// their order, and no chunk before the frame that announced its body.
func TestWriterOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got bytes.Buffer
		var w writer
		w.init(&got, nil, func(err error) { t.Fatal(err) })
		takes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 5, 100, 5000, 70000, 1 << 20}), 1, 20).Draw(t, "takes")
		turn := 0
		write := func(b []byte) (int, error) {
			n := min(len(b), takes[turn%len(takes)])
			turn++
			return got.Write(b[:n])
		}
		type state struct{ announced, chunks, sent uint32 }
		bodies := map[uint32]*state{}
		next := uint32(0)
		small := uint32(0)
		t.Repeat(map[string]func(*rapid.T){
			"announce": func(*rapid.T) {
				next++
				bodies[next] = &state{}
				w.add(&Frame{Type: TypeReply, ID: next, More: true}, MaxQueued)
			},
			"chunk": func(t *rapid.T) {
				if next == 0 {
					t.Skip()
				}
				id := rapid.Uint32Range(1, next).Draw(t, "id")
				bodies[id].sent++
				size := rapid.SampledFrom([]int{1, 1000, 20000}).Draw(t, "size")
				w.add(&Frame{Type: TypeChunk, ID: id, Payload: bytes.Repeat([]byte{byte(bodies[id].sent)}, size)}, MaxQueued)
			},
			"small": func(*rapid.T) {
				small++
				w.add(&Frame{Type: TypeCancel, ID: small}, MaxQueued)
			},
			"write": func(*rapid.T) { w.drain(write) },
		})
		for n := 0; w.waiting() > 0 && n < 1<<20; n++ {
			if w.drain(write); takes[turn%len(takes)] == 0 {
				turn++
			}
			if sum(takes) == 0 {
				w.drain(w.write)
			}
		}
		canceled := uint32(0)
		for data := got.Bytes(); len(data) > 0; {
			f, n, err := ParseFrame(data)
			if err != nil || n == 0 {
				t.Fatalf("%d bytes are left: %v", len(data), err)
			}
			data = data[n:]
			switch f.Type {
			case TypeReply:
				bodies[f.ID].announced++
			case TypeChunk:
				b := bodies[f.ID]
				if b.chunks++; b.announced == 0 || f.Payload[0] != byte(b.chunks) || f.Payload[len(f.Payload)-1] != byte(b.chunks) {
					t.Fatalf("chunk %d of body %d comes as number %d", f.Payload[0], f.ID, b.chunks)
				}
			case TypeCancel:
				if canceled++; f.ID != canceled {
					t.Fatalf("cancel %d comes as number %d", f.ID, canceled)
				}
			}
		}
		for id, b := range bodies {
			if b.chunks != b.sent {
				t.Fatalf("%d of %d chunks of body %d arrived", b.chunks, b.sent, id)
			}
		}
		if canceled != small || w.handed != w.queued {
			t.Fatalf("%d of %d cancels arrived; %d of %d bytes", canceled, small, w.handed, w.queued)
		}
	})
}

func sum(s []int) (n int) {
	for _, v := range s {
		n += v
	}
	return n
}
