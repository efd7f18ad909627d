package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/call"
)

func sampleHandover() *handover {
	wanted := "bafy"
	return &handover{
		Format: handoverFormat, Dir: "/c", From: "1.0.0", Begun: 1, Held: 2, Lock: 3, Cell: 4, Control: 5, Waiting: []int{6},
		Callers: []caller{{FD: 7, Handed: call.Handed{Conn: []byte{1}, Cell: "c", Wanted: &wanted, Nonce: make([]byte, 32), Until: 9}}},
		Program: []byte{2}, ProgramFiles: []int{8, 9}, Server: call.HandedServer{Served: 3, Latency: []byte("[]")},
		Release: "1.2.3", Binary: hashed{Inode: 1, BLAKE3: make([]byte, 32)},
		Configured: []string{"/ip4/127.0.0.1/tcp/0"}, Listening: []string{"/ip4/127.0.0.1/tcp/4711"},
	}
}

func TestHandoverState(t *testing.T) {
	h := sampleHandover()
	b, err := h.marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseHandover(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.marshal()
	if err != nil || !bytes.Equal(b, again) || *got.Callers[0].Handed.Wanted != "bafy" || len(got.files()) != 7 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHandoverStateMustFail(t *testing.T) {
	change := func(f func(*handover)) []byte {
		h := sampleHandover()
		f(h)
		b, err := handoverEncoder.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	unknown, err := cbor.Marshal(map[int]int{1: handoverFormat, 99: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct {
		data []byte
		kind cellproto.Kind
	}{
		"nothing":       {nil, cellproto.Corrupt},
		"cut":           {change(func(*handover) {})[:10], cellproto.Corrupt},
		"other format":  {change(func(h *handover) { h.Format++ }), cellproto.Unsupported},
		"unknown field": {unknown, cellproto.Corrupt},
		"stdin":         {change(func(h *handover) { h.Lock = 0 }), cellproto.Corrupt},
		"negative":      {change(func(h *handover) { h.Waiting = []int{-1} }), cellproto.Corrupt},
		"twice":         {change(func(h *handover) { h.ProgramFiles = []int{7} }), cellproto.Corrupt},
		"long text":     {change(func(h *handover) { h.Failed = strings.Repeat("x", maxHandedText+1) }), cellproto.Corrupt},
		"long address":  {change(func(h *handover) { h.Listening = []string{strings.Repeat("x", maxHandedText+1)} }), cellproto.Corrupt},
	} {
		if h, err := parseHandover(bad.data); cellproto.KindOf(err) != bad.kind {
			t.Errorf("%s: %+v, %v, want kind %v", name, h, err, bad.kind)
		}
	}
}

func FuzzHandoverState(f *testing.F) {
	b, err := sampleHandover().marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa1, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHandover(data)
		if err != nil {
			return
		}
		if _, err := h.marshal(); err != nil {
			t.Error(err)
		}
	})
}

func TestParseChecked(t *testing.T) {
	version, formats, err := parseChecked([]byte("handover: 1 2\ncelld: 1.2.3\nlater: x\n"))
	if err != nil || version != "1.2.3" || len(formats) != 2 || formats[1] != 2 {
		t.Errorf("%q, %v, %v", version, formats, err)
	}
	for _, bad := range []string{"", "hello", "handover: 1\n", "celld: 1\n", "handover: x\ncelld: 1\n", "handover: -1\ncelld: 1\n", "handover: \ncelld: 1\n"} {
		if version, formats, err := parseChecked([]byte(bad)); err == nil {
			t.Errorf("%q: %q, %v", bad, version, formats)
		}
	}
	if version, _, err := parseChecked([]byte("handover: 1\ncelld: \x1b[31mred\n")); err != nil || strings.Contains(version, "\x1b") {
		t.Errorf("%q, %v", version, err)
	}
}

func FuzzParseChecked(f *testing.F) {
	f.Add([]byte("handover: 1\ncelld: dev\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		version, formats, err := parseChecked(data)
		if err == nil && (version == "" || len(formats) == 0) {
			t.Errorf("%q, %v", version, formats)
		}
	})
}

// What was hashed is believed only while it is the same file, unchanged.
func TestHashed(t *testing.T) {
	if !canHandOver {
		t.Skip("this system does not tell files apart by a number")
	}
	path := filepath.Join(t.TempDir(), "program")
	write := func(text string) os.FileInfo {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	info := write("one")
	h := identify(info, signed.Digest{7})
	if sum, ok := h.of(info); !ok || sum != (signed.Digest{7}) {
		t.Errorf("%x, %v", sum, ok)
	}
	if _, ok := h.of(write("other")); ok {
		t.Error("another content")
	}
	if _, ok := (hashed{}).of(info); ok {
		t.Error("nothing was hashed")
	}
	if _, ok := identify(nil, signed.Digest{}).of(info); ok {
		t.Error("no file was hashed")
	}
}
