package content

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"lukechampine.com/blake3"
	"lukechampine.com/blake3/bao"

	"github.com/celldnet/celld/cellproto"
)

const artefactSize = 1<<20 + 777 // 17 groups, the last one short

// artefact is a store that serves one artefact.
type artefact struct {
	*Store
	path string
	data []byte
	File
}

func newArtefact(t testing.TB, seed uint64, size int) artefact {
	t.Helper()
	a := artefact{Store: newStore(t, Config{}, nil), path: filepath.Join(t.TempDir(), "bin"), data: noise(seed, size)}
	writeOld(t, a.path, a.data)
	f, err := a.AddFile(context.Background(), a.path)
	if err != nil {
		t.Fatal(err)
	}
	a.File = f
	return a
}

// answer is the whole good answer to a fetch from offset on.
func (a artefact) answer(t testing.TB, offset int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	buf.Write(fetchHead{a.Size, a.BLAKE3}.encode())
	rec := a.files.byHash(a.BLAKE3)
	if err := encodeSlice(&buf, bytes.NewReader(a.data), rec.outboard, a.Size, offset); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// fakeServer answers each fetch with what f makes of the request, then closes or, if f says so, resets.
func fakeServer(t testing.TB, f func(req fetchRequest) (answer []byte, reset bool)) host.Host {
	h := newHost(t)
	h.SetStreamHandler(cellproto.ProtocolFetch, func(st network.Stream) {
		req, err := readFetchRequest(st)
		if err != nil {
			_ = st.Reset()
			return
		}
		answer, reset := f(req)
		if _, err := st.Write(answer); err == nil && reset {
			_, _ = io.ReadAll(io.LimitReader(st, 1)) // until the requester has read it all and closed its half
		}
		if reset {
			_ = st.Reset()
		} else {
			_ = st.Close()
		}
	})
	return h
}

// fetchTo fetches want into a new directory, which it checks for rests.
func fetchTo(t testing.TB, want File, rest bool, from ...peer.AddrInfo) ([]byte, error) {
	t.Helper()
	s := newStore(t, Config{}, nil)
	dir := t.TempDir()
	dst := filepath.Join(dir, "out")
	err := s.FetchFile(deadline(t, 20*time.Second), want, from, dst, 0o750, nil)
	left, lerr := os.ReadDir(dir)
	if lerr != nil {
		t.Fatal(lerr)
	}
	if err != nil {
		if !rest && len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		return nil, err
	}
	if len(left) != 1 {
		t.Errorf("left behind besides the file: %v", left)
	}
	if fi, err := os.Stat(dst); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("mode is %v, %v", fi.Mode(), err)
	}
	got, rerr := os.ReadFile(dst)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return got, nil
}

func TestFetchFile(t *testing.T) {
	for _, size := range []int{0, 1, groupBytes - 1, groupBytes, groupBytes + 1, 3 * groupBytes, artefactSize, 9<<20 + 1} {
		a := newArtefact(t, uint64(size), size)
		got, err := fetchTo(t, a.File, false, a.self())
		if err != nil || !bytes.Equal(got, a.data) {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
}

func TestFetchFileProgressAndAgain(t *testing.T) {
	a := newArtefact(t, 20, artefactSize)
	s := newStore(t, Config{}, nil)
	dst := filepath.Join(t.TempDir(), "out")
	var last int64
	progress := func(done, total int64) {
		if done <= last || total != a.Size {
			t.Errorf("progress from %d to %d of %d", last, done, total)
		}
		last = done
	}
	fetch := func() {
		t.Helper()
		if err := s.FetchFile(deadline(t, 10*time.Second), a.File, []peer.AddrInfo{a.self()}, dst, 0o700, progress); err != nil {
			t.Fatal(err)
		}
		if last != a.Size {
			t.Errorf("progress ended at %d", last)
		}
	}
	fetch()
	a.Stop() // whatever comes now comes from the disk
	last = 0
	fetch()
}

// A CID names an artefact as well as its BLAKE3 does.
func TestFetchByCID(t *testing.T) {
	a := newArtefact(t, 21, artefactSize)
	h := newHost(t)
	ctx := deadline(t, 10*time.Second)
	if err := h.Connect(ctx, a.self()); err != nil {
		t.Fatal(err)
	}
	st, err := h.NewStream(ctx, a.self().ID, cellproto.ProtocolFetch)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Reset()
	if _, err := st.Write(fetchRequest{cid: a.CID, offset: 2 * groupBytes}.encode()); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(got, a.answer(t, 2*groupBytes)) {
		t.Fatalf("%d bytes came: %v", len(got), err)
	}
}

// The slice is what Bao's own decoder reads.
func TestSliceIsBao(t *testing.T) {
	a := newArtefact(t, 22, artefactSize)
	for _, offset := range []int64{0, groupBytes, 15 * groupBytes, 16 * groupBytes} {
		slice := a.answer(t, offset)[41:]
		got, ok := bao.VerifySlice(slice, groupLog, uint64(offset), uint64(a.Size-offset), a.BLAKE3)
		if !ok || !bytes.Equal(got, a.data[offset:]) {
			t.Errorf("offset %d: the slice does not verify", offset)
		}
	}
}

// A peer that is cut off, or lies, costs a candidate: the next one goes on from the last good group.
func TestFetchGoesOnElsewhere(t *testing.T) {
	a := newArtefact(t, 23, artefactSize)
	const good = 5 // groups that arrive before the trouble
	// The bytes of an answer up to the end of group k are found by decoding it.
	upTo := func(k int) int {
		full := a.answer(t, 0)
		r := bytes.NewReader(full[41:])
		n := 0
		_ = decodeSlice(writerFunc(func(p []byte) (int, error) {
			if n++; n > k {
				return 0, io.ErrClosedPipe
			}
			return len(p), nil
		}), &oneGroup{r}, a.BLAKE3, a.Size, 0)
		return len(full) - r.Len()
	}
	cut := upTo(good)
	lie := func(req fetchRequest) ([]byte, bool) {
		out := a.answer(t, req.offset)
		out[cut+groupBytes] ^= 1
		return out, false
	}
	for name, tc := range map[string]struct {
		bad    func(fetchRequest) ([]byte, bool)
		offset int64 // where the good peer is asked to begin; -1: at the trouble, -2: there or before
	}{
		// What was under way is lost with a reset, as the peer has no sign that it arrived.
		"reset":       {func(req fetchRequest) ([]byte, bool) { return a.answer(t, req.offset)[:cut], true }, -2},
		"truncated":   {func(req fetchRequest) ([]byte, bool) { return a.answer(t, req.offset)[:cut], false }, -1},
		"wrong bytes": {lie, -1},
		"cut head":    {func(fetchRequest) ([]byte, bool) { return []byte{0, 0, 0}, false }, 0},
		"wrong size": {func(fetchRequest) ([]byte, bool) {
			out := a.answer(t, 0)
			binary.BigEndian.PutUint64(out[1:], uint64(a.Size)+1)
			return out, false
		}, 0},
		"wrong size in the tree": {func(fetchRequest) ([]byte, bool) {
			out := a.answer(t, 0)
			binary.LittleEndian.PutUint64(out[41:], 1<<62)
			return out, false
		}, 0},
		"wrong hash": {func(fetchRequest) ([]byte, bool) { return fetchHead{a.Size, [32]byte{1}}.encode(), false }, 0},
		"wrong tree": {func(fetchRequest) ([]byte, bool) { out := a.answer(t, 0); out[60] ^= 1; return out, false }, 0},
		"nothing":    {func(fetchRequest) ([]byte, bool) { return nil, false }, 0},
		"not here": {func(fetchRequest) ([]byte, bool) {
			return encodeRefusal(cellproto.Errorf("x", cellproto.NotFound, "no")), false
		}, 0},
		"odd refusal": {func(fetchRequest) ([]byte, bool) { return []byte{200, 0, 0, 0, 0, 255, 255}, false }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			asked.Store(-2)
			bad := fakeServer(t, tc.bad)
			next := fakeServer(t, func(req fetchRequest) ([]byte, bool) {
				asked.Store(req.offset)
				return a.answer(t, req.offset), false
			})
			got, err := fetchTo(t, a.File, false, infoOf(bad), infoOf(next))
			if err != nil || !bytes.Equal(got, a.data) {
				t.Fatal(err)
			}
			n := asked.Load()
			if tc.offset >= 0 && n != tc.offset {
				t.Errorf("the next peer was asked from %d on, want %d", n, tc.offset)
			}
			// Group good is the damaged one, or the first that is missing: all before it are kept, none after.
			if tc.offset < 0 && (tc.offset == -1 && n < (good-1)*groupBytes || n < 0 || n > (good+1)*groupBytes || n%groupBytes != 0) {
				t.Errorf("the next peer was asked from group %d on, the trouble is at %d", n/groupBytes, good)
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// oneGroup hands out few bytes at a time, so that nothing is read ahead of what is decoded.
type oneGroup struct{ r io.Reader }

func (o *oneGroup) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 64)]) }

// A damaged group is not accepted, not even in part.
func TestDecodeSliceStopsAtTheLie(t *testing.T) {
	a := newArtefact(t, 24, artefactSize)
	slice := a.answer(t, 0)[41:]
	for _, at := range []int{8, 40, 5000, len(slice) / 2, len(slice) - 1} {
		bad := bytes.Clone(slice)
		bad[at] ^= 0x80
		var got bytes.Buffer
		err := decodeSlice(&got, bytes.NewReader(bad), a.BLAKE3, a.Size, 0)
		wantKind(t, err, cellproto.Corrupt)
		if !bytes.HasPrefix(a.data, got.Bytes()) || got.Len()%groupBytes != 0 || got.Len() > at {
			t.Errorf("damage at byte %d: %d bytes were accepted", at, got.Len())
		}
	}
}

func TestFetchOnlyLiars(t *testing.T) {
	a := newArtefact(t, 25, artefactSize)
	liar := fakeServer(t, func(req fetchRequest) ([]byte, bool) {
		out := a.answer(t, req.offset)
		out[len(out)-1] ^= 1
		return out, false
	})
	_, err := fetchTo(t, a.File, false, infoOf(liar))
	wantKind(t, err, cellproto.Corrupt)
}

func TestFetchUnknown(t *testing.T) {
	a := newArtefact(t, 26, 1000)
	want := a.File
	want.BLAKE3[0] ^= 1
	want.CID = rawCID(t, []byte("never added"))
	_, err := fetchTo(t, want, false, a.self())
	wantKind(t, err, cellproto.NotFound)
	_, err = fetchTo(t, want, false)
	wantKind(t, err, cellproto.NotFound)
}

func TestFetchRefusesWants(t *testing.T) {
	a := newArtefact(t, 27, 1000)
	for name, tc := range map[string]struct {
		change func(*File)
		kind   cellproto.Kind
	}{
		"no hash":   {func(f *File) { f.BLAKE3 = [32]byte{} }, cellproto.BadInput},
		"negative":  {func(f *File) { f.Size = -1 }, cellproto.BadInput},
		"too large": {func(f *File) { f.Size = DefaultMaxFile + 1 }, cellproto.TooLarge},
		"shorter":   {func(f *File) { f.Size-- }, cellproto.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			want := a.File
			tc.change(&want)
			_, err := fetchTo(t, want, false, a.self())
			wantKind(t, err, tc.kind)
		})
	}
}

func TestFetchChangedFile(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"replaced": func(path string) error {
			if err := os.WriteFile(path+"2", noise(1, 1000), 0o600); err != nil {
				return err
			}
			return os.Rename(path+"2", path)
		},
		"appended": func(path string) error { return os.WriteFile(path, make([]byte, 1001), 0o600) },
		"touched":  func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) },
		"removed":  os.Remove,
		"no file": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArtefact(t, 28, 1000)
			if err := change(a.path); err != nil {
				t.Fatal(err)
			}
			_, err := fetchTo(t, a.File, false, a.self())
			wantKind(t, err, cellproto.NotFound)
			if a.files.byCID(a.CID) != nil {
				t.Error("it is still registered")
			}
		})
	}
}

// A peer that falls silent in the middle is left after the stall timeout.
func TestFetchSilentPeer(t *testing.T) {
	a := newArtefact(t, 29, artefactSize)
	h := newHost(t)
	h.SetStreamHandler(cellproto.ProtocolFetch, func(st network.Stream) {
		_, _ = st.Write(a.answer(t, 0)[:300_000]) // and then nothing, with the stream open
	})
	got, err := fetchTo(t, a.File, false, infoOf(silentHost(t)), infoOf(h), a.self())
	if err != nil || !bytes.Equal(got, a.data) {
		t.Fatal(err)
	}
}

// A handler that panics costs one stream; streams beyond the quota are reset.
func TestInboundGuards(t *testing.T) {
	a, b := newStore(t, Config{}, nil), newHost(t)
	stop := make(chan struct{})
	in := newInbound(quota{service: "test", perPeer: 2, total: 8, memory: 1}, func(ctx context.Context, st network.Stream) error {
		var b [1]byte
		if _, err := st.Read(b[:]); err == nil && b[0] == 'p' {
			panic("on purpose")
		}
		select {
		case <-stop:
		case <-ctx.Done():
		}
		_, err := st.Write(b[:])
		return err
	}, nil, nil, a.log)
	a.deps.Host.SetStreamHandler("/test", in.serve)
	defer in.stop()
	ctx := deadline(t, 10*time.Second)
	if err := b.Connect(ctx, a.self()); err != nil {
		t.Fatal(err)
	}
	open := func(say string) network.Stream {
		st, err := b.NewStream(ctx, a.self().ID, "/test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte(say)); err != nil {
			t.Fatal(err)
		}
		return st
	}
	var one [1]byte
	if _, err := open("p").Read(one[:]); err == nil {
		t.Fatal("the panic was answered")
	}
	first, second := open("x"), open("x")
	for held := 0; held < 2; { // the two have begun when the third is refused
		_, held = in.places.held(taker{peer: b.ID()})
	}
	if _, err := open("x").Read(one[:]); err == nil {
		t.Fatal("a third stream was served")
	}
	close(stop)
	for _, st := range []network.Stream{first, second} {
		if _, err := st.Read(one[:]); err != nil {
			t.Fatal(err)
		}
	}
}

// The wire format, byte by byte.
func TestFetchWire(t *testing.T) {
	sum := blake3.Sum256(nil)
	refusal := cellproto.Errorf("x", cellproto.Overloaded, "busy")
	refusal.RetryAfter = 1500 * time.Millisecond
	for name, tc := range map[string]struct {
		got  []byte
		want string
	}{
		"request by BLAKE3": {fetchRequest{sum: sum, offset: groupBytes}.encode(), "0029 01 0000000000010000" + hex.EncodeToString(sum[:])},
		"request by CID": {fetchRequest{cid: rawCID(t, nil)}.encode(),
			"002d 02 0000000000000000 01551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		"head":    {fetchHead{1000, sum}.encode(), "00 00000000000003e8" + hex.EncodeToString(sum[:])},
		"refusal": {encodeRefusal(refusal), "05 000005dc 0007 783a2062757379"},
	} {
		if want := strings.ReplaceAll(tc.want, " ", ""); hex.EncodeToString(tc.got) != want {
			t.Errorf("%s is %x, want %s", name, tc.got, want)
		}
	}
}

// Requests that must fail, each with its kind.
func TestFetchRequestMustFail(t *testing.T) {
	for in, kind := range map[string]cellproto.Kind{
		"":                                  cellproto.Unavailable,
		"00":                                cellproto.Unavailable,
		"0000":                              cellproto.BadInput,
		"0008 01 00000000000000":            cellproto.BadInput,
		"0009 01 0000000000000000":          cellproto.BadInput,
		"000a 01 0000000000000000 aa":       cellproto.BadInput,
		"000a 02 0000000000000000 aa":       cellproto.BadInput,
		"000a 03 0000000000000000 aa":       cellproto.Unsupported,
		"000a 02 0000000000000001 aa":       cellproto.BadInput,
		"000a 02 8000000000000000 aa":       cellproto.BadInput,
		"03ff":                              cellproto.TooLarge,
		"0029 01 0000000000000000 00112233": cellproto.Unavailable,
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		_, err = readFetchRequest(bytes.NewReader(raw))
		if got := cellproto.KindOf(err); got != kind {
			t.Errorf("%q is %q, want %q: %v", in, got, kind, err)
		}
	}
}
