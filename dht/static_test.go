package dht

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

const (
	somePeer  = "12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA"
	otherPeer = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"
	someAddr  = "/ip4/127.0.0.1/tcp/4001/p2p/" + somePeer
)

func TestParseAdvertAddr(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, data string
		addrs      int // 0: refused
		kind       cellproto.Kind
	}{
		{"one", `{"addr":"` + someAddr + `"}`, 1, 0},
		{"list", `{"addr":["` + someAddr + `","/ip4/127.0.0.1/udp/4001/quic-v1/p2p/` + somePeer + `"]}`, 2, 0},
		{"other fields", `{"name":"x","load":{"p50_us":1},"addr":"` + someAddr + `","expires":"never"}`, 1, 0},
		{"no addr", `{"name":"x"}`, 0, cellproto.BadInput},
		{"null", `{"addr":null}`, 0, cellproto.BadInput},
		{"empty list", `{"addr":[]}`, 0, cellproto.BadInput},
		{"a number", `{"addr":7}`, 0, cellproto.BadInput},
		{"numbers", `{"addr":[7]}`, 0, cellproto.BadInput},
		{"no peer", `{"addr":"/ip4/127.0.0.1/tcp/4001"}`, 0, cellproto.BadInput},
		{"no address", `{"addr":"/p2p/` + somePeer + `"}`, 0, cellproto.BadInput},
		{"two peers", `{"addr":["` + someAddr + `","/ip4/127.0.0.1/tcp/1/p2p/` + otherPeer + `"]}`, 0, cellproto.BadInput},
		{"no multiaddr", `{"addr":"https://example.org"}`, 0, cellproto.BadInput},
		{"half", `{"addr":"` + someAddr, 0, cellproto.BadInput},
		{"not JSON", "addr: x", 0, cellproto.BadInput},
		{"nothing", "", 0, cellproto.BadInput},
		{"too many", `{"addr":["` + strings.Repeat(someAddr+`","`, 16) + someAddr + `"]}`, 0, cellproto.TooLarge},
		{"too long", `{"addr":"` + someAddr + `"}` + strings.Repeat(" ", cellproto.MaxAdvert), 0, cellproto.TooLarge},
	} {
		info, err := parseAdvertAddr([]byte(tt.data))
		if len(info.Addrs) != tt.addrs || cellproto.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, %v (kind %v)", tt.name, info, err, cellproto.KindOf(err))
		}
	}
}

func TestStaticSources(t *testing.T) {
	t.Parallel()
	advert := []byte(`{"addr":"` + someAddr + `"}`)
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(advert) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/good", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	dir := t.TempDir()
	file := filepath.Join(dir, "advert.json")
	if err := os.WriteFile(file, advert, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newStatic(nil)
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]cellproto.Kind{
		file:                          0,
		server.URL + "/good":          0,
		server.URL + "/moved":         0,
		server.URL + "/missing":       cellproto.NotFound,
		server.URL + "/long":          cellproto.TooLarge,
		server.URL + "/loop":          cellproto.Unavailable,
		"http://127.0.0.1:1/":         cellproto.Unavailable,
		filepath.Join(dir, "nothing"): cellproto.NotFound,
		dir:                           cellproto.BadInput,
		pipe:                          cellproto.BadInput,
	} {
		info, err := s.readOne(within(t), source)
		if got := cellproto.KindOf(err); got != want {
			t.Errorf("%s: kind %v (%v), want %v", source, got, err, want)
		}
		if want == 0 && info.ID.String() != somePeer {
			t.Errorf("%s: %v", source, info)
		}
	}
}

// The peer of an advert is given by Find once, and the bad entries cost nothing.
func TestFindReadsStaticSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "advert.json")
	if err := os.WriteFile(file, []byte(`{"addr":"`+someAddr+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{
		Network: "static",
		Static: []string{
			filepath.Join(dir, "missing.json"), "http://127.0.0.1:1/advert.json", file, file,
			"/ip4/127.0.0.1/tcp/1/p2p/" + otherPeer,
		},
	})
	var order []string
	for p := range d.Find(within(t), cidOf(t, "x")) {
		if p.Source != SourceStatic {
			t.Errorf("source = %s", p.Source)
		}
		order = append(order, p.Info.ID.String())
	}
	if len(order) != 2 || order[0] != otherPeer || order[1] != somePeer {
		t.Errorf("found %v", order)
	}
}

func FuzzParseAdvertAddr(f *testing.F) {
	f.Add([]byte(`{"addr":"` + someAddr + `"}`))
	f.Add([]byte(`{"addr":["` + someAddr + `"]}`))
	f.Add([]byte(`{"addr":[]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := parseAdvertAddr(data)
		if err != nil {
			if cellproto.KindOf(err) != cellproto.BadInput && cellproto.KindOf(err) != cellproto.TooLarge {
				t.Errorf("kind %v", cellproto.KindOf(err))
			}
			return
		}
		if info.ID.Validate() != nil || len(info.Addrs) == 0 || len(info.Addrs) > cellproto.MaxAdvertAddrs {
			t.Errorf("took %v", info)
		}
		for _, a := range info.Addrs {
			if _, id := peer.SplitAddr(a); id != "" {
				t.Errorf("address %v has a peer at its end", a)
			}
		}
	})
}
