package signed

import (
	"reflect"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

const advertFileText = `{"name":"calculator","version":"1.2.0","socket":"/cells/calculator/run/cell.sock",` +
	`"addr":"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",` +
	`"load":{"p50_us":180,"p99_us":2100,"queue":3},"capacity":100,"expires":1700000015000,` +
	`"repo":"https://example.org/calculator.git","ref":"v1.2.0",` +
	`"schemas_provided":["0101010101010101010101010101010101010101010101010101010101010101"],` +
	`"schemas_accepted":["0101010101010101010101010101010101010101010101010101010101010101",` +
	`"0202020202020202020202020202020202020202020202020202020202020202"],` +
	`"binary_blake3":"0404040404040404040404040404040404040404040404040404040404040404"}` + "\n"

func TestAdvertFile(t *testing.T) {
	a := testAdvert()
	f := a.File("/cells/calculator/run/cell.sock")
	data, err := f.Marshal()
	if err != nil || string(data) != advertFileText {
		t.Errorf("%v\n got %s\nwant %s", err, data, advertFileText)
	}
	got, err := ParseAdvertFile([]byte(advertFileText))
	if err != nil || !reflect.DeepEqual(*got, f) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, f)
	}
	if !got.ExpiresAt().Equal(a.Expires) {
		t.Error(got.ExpiresAt())
	}
	for i, want := range []string{
		"/dns4/example.org/tcp/4001/p2p/" + a.Peer.String(),
		"/ip4/198.51.100.1/tcp/4001/p2p/" + testPeer(3).String() + "/p2p-circuit/p2p/" + a.Peer.String(),
	} {
		b := a
		b.Addrs = a.Addrs[i+1:]
		if got := b.File("").Addr; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestAdvertFileByHand(t *testing.T) {
	f, err := ParseAdvertFile([]byte(`{"name": "echo", "socket": "/run/echo.sock"}`))
	if err != nil || f.Socket != "/run/echo.sock" || !f.ExpiresAt().IsZero() {
		t.Errorf("%+v, %v", f, err)
	}
	data, err := f.Marshal()
	if err != nil || !strings.Contains(string(data), `"schemas_provided":[]`) {
		t.Errorf("%s, %v", data, err)
	}
	if _, err := (AdvertFile{Name: "x"}).Marshal(); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
	big := AdvertFile{Name: "x", Socket: "/" + strings.Repeat("x", cellproto.MaxAdvert)}
	if _, err := big.Marshal(); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Error(err)
	}
}

var badAdvertFiles = map[string]string{
	"nothing":              ``,
	"a list":               `[]`,
	"null":                 `null`,
	"no name":              `{"socket":"/x"}`,
	"nothing to ask":       `{"name":"x"}`,
	"key twice":            `{"name":"x","name":"y","socket":"/x"}`,
	"unknown key":          `{"name":"x","socket":"/x","cid":"y"}`,
	"key in capitals":      `{"Name":"x","socket":"/x"}`,
	"null name":            `{"name":null,"socket":"/x"}`,
	"name of wrong type":   `{"name":1,"socket":"/x"}`,
	"name with a slash":    `{"name":"../x","socket":"/x"}`,
	"relative socket":      `{"name":"x","socket":"x.sock"}`,
	"socket with a zero":   `{"name":"x","socket":"/x\u0000"}`,
	"address of no peer":   `{"name":"x","addr":"/ip4/192.0.2.1/tcp/1"}`,
	"no address":           `{"name":"x","addr":"192.0.2.1:80"}`,
	"load a number":        `{"name":"x","socket":"/x","load":1}`,
	"load with other keys": `{"name":"x","socket":"/x","load":{"p50":1}}`,
	"load with null":       `{"name":"x","socket":"/x","load":{"p50_us":null}}`,
	"p50 below zero":       `{"name":"x","socket":"/x","load":{"p50_us":-1}}`,
	"fraction":             `{"name":"x","socket":"/x","capacity":1.5}`,
	"capacity past 32 bit": `{"name":"x","socket":"/x","capacity":4294967296}`,
	"expires below zero":   `{"name":"x","socket":"/x","expires":-1}`,
	"short hash":           `{"name":"x","socket":"/x","schemas_provided":["01"]}`,
	"null hash":            `{"name":"x","socket":"/x","schemas_provided":[null]}`,
	"hash in capitals":     `{"name":"x","socket":"/x","binary_blake3":"` + strings.Repeat("0A", 32) + `"}`,
	"repo by ssh":          `{"name":"x","socket":"/x","repo":"ssh://example.org/x"}`,
	"something behind":     `{"name":"x","socket":"/x"}{}`,
}

func TestParseAdvertFileMustFail(t *testing.T) {
	for name, text := range badAdvertFiles {
		if _, err := ParseAdvertFile([]byte(text)); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := `{"name":"x","socket":"/x"}` + strings.Repeat(" ", cellproto.MaxAdvert)
	if _, err := ParseAdvertFile([]byte(big)); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Error(err)
	}
}

func FuzzParseAdvertFile(f *testing.F) {
	f.Add([]byte(advertFileText))
	for _, text := range badAdvertFiles {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseAdvertFile(data)
		if err != nil {
			if k := cellproto.KindOf(err); k != cellproto.BadInput && k != cellproto.TooLarge {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		again, err := file.Marshal()
		if cellproto.KindOf(err) == cellproto.TooLarge {
			return // escapes and the fields that were left out take room
		}
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseAdvertFile(again); err != nil || back.Name != file.Name || back.Socket != file.Socket || back.Addr != file.Addr {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
