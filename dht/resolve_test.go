package dht

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/celldnet/celld/cellproto"
)

// dnsServer answers TXT queries over UDP on loopback until the test ends. A name that it does not
// have does not exist; one with an empty list it does not answer at all.
func dnsServer(t testing.TB, txt map[string][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerTXT(buf[:n], txt); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answerTXT makes the answer to one query, nil for none.
func answerTXT(query []byte, txt map[string][]string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	texts, ok := txt[name]
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case len(texts) == 0:
		return nil
	}
	for _, text := range texts {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.TXTResource{TXT: []string{text}},
		})
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}

func TestResolveDNSLink(t *testing.T) {
	t.Parallel()
	direct, named := cidOf(t, "direct"), cidOf(t, "named")
	host := newHost(t, nil, "/ip4/127.0.0.1/tcp/0")
	key := newKey(t)
	records := map[string][]string{
		"_dnslink.direct.example.org": {"v=spf1 -all", "dnslink=/ipfs/" + direct.String()},
		"_dnslink.bare.example.org":   {"dnslink=/ipfs/" + direct.String() + "/"},
		"_dnslink.chain.example.org":  {"dnslink=/ipns/direct.example.org"},
		"_dnslink.loop.example.org":   {"dnslink=/ipns/loop.example.org"},
		"_dnslink.none.example.org":   {"v=spf1 -all"},
		"_dnslink.bad.example.org":    {"dnslink=/ipfs/notacid"},
		"_dnslink.path.example.org":   {"dnslink=/ipfs/" + direct.String() + "/index.html"},
		"_dnslink.other.example.org":  {"dnslink=https://example.org"},
		"_dnslink.two.example.org":    {"dnslink=/ipns/bad.example.org", "dnslink=/ipfs/" + direct.String()},
		"_dnslink.silent.example.org": {},
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	records["_dnslink.ipns.example.org"] = []string{"dnslink=/ipns/" + id.String()}
	d := startWith(t, Config{Network: "dnslink"}, Deps{Host: host, DNS: dnsServer(t, records)})
	_, _ = d.PublishName(within(t), key, named) // alone, but it resolves here

	for domain, want := range map[string]string{
		"direct.example.org":       direct.String(),
		"/ipns/direct.example.org": direct.String(),
		"Direct.Example.ORG.":      direct.String(),
		"bare.example.org":         direct.String(),
		"chain.example.org":        direct.String(),
		"ipns.example.org":         named.String(),
		"two.example.org":          direct.String(), // the first by its bytes
	} {
		if got, err := d.ResolveName(within(t), domain); err != nil || got.String() != want {
			t.Errorf("%s = %v, %v, want %s", domain, got, err, want)
		}
	}
	for domain, want := range map[string]cellproto.Kind{
		"missing.example.org":            cellproto.NotFound,
		"none.example.org":               cellproto.NotFound,
		"loop.example.org":               cellproto.BadInput,
		"bad.example.org":                cellproto.BadInput,
		"path.example.org":               cellproto.BadInput,
		"other.example.org":              cellproto.BadInput,
		"":                               cellproto.BadInput,
		"calculator":                     cellproto.BadInput,
		"-.example.org":                  cellproto.BadInput,
		"a b.example.org":                cellproto.BadInput,
		strings.Repeat("a.", 200):        cellproto.BadInput,
		strings.Repeat("a", 64) + ".org": cellproto.BadInput,
	} {
		_, err := d.ResolveName(within(t), domain)
		if got := cellproto.KindOf(err); got != want {
			t.Errorf("%q: kind %v (%v), want %v", domain, got, err, want)
		}
		if want == cellproto.NotFound && cellproto.HintOf(err) == "" {
			t.Errorf("%q: no hint", domain)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.ResolveName(ctx, "silent.example.org"); cellproto.KindOf(err) != cellproto.Timeout {
		t.Errorf("silent server: %v, kind %v", err, cellproto.KindOf(err))
	}
}

func TestResolveUnknownName(t *testing.T) {
	t.Parallel()
	net := join(t, "unknown", 3)
	key := newKey(t)
	name, err := net[0].KeepName(key, cidOf(t, "x"))
	if err != nil {
		t.Fatal(err)
	}
	alone := start(t, newHost(t, nil, "/ip4/127.0.0.1/tcp/0"), Config{Network: "unknown"})
	_, err = alone.ResolveName(within(t), name)
	if cellproto.KindOf(err) != cellproto.Unavailable || !strings.Contains(cellproto.HintOf(err), "bootstrap") {
		t.Errorf("alone: %v, hint %q", err, cellproto.HintOf(err))
	}
	other, err := net[0].KeepName(newKey(t), cidOf(t, "y"))
	if err != nil {
		t.Fatal(err)
	}
	if other == name {
		t.Fatal("two keys have one name")
	}
	const nobodys = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r"
	_, err = net[1].ResolveName(within(t), nobodys)
	if cellproto.KindOf(err) != cellproto.NotFound || cellproto.HintOf(err) == "" {
		t.Errorf("unknown: %v, kind %v", err, cellproto.KindOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = net[1].ResolveName(ctx, nobodys); cellproto.KindOf(err) != cellproto.Canceled {
		t.Errorf("canceled: %v, kind %v", err, cellproto.KindOf(err))
	}
}

func TestIsName(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r": true,
		"12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA":           true,
		"/ipns/example.org":    true,
		"example.org":          true,
		"calculator":           false,
		"../calculator":        false,
		"":                     false,
		cidOf(t, "x").String(): false,
	} {
		if got := IsName(s); got != want {
			t.Errorf("IsName(%q) = %v", s, got)
		}
	}
}

func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"/ipfs/bafy", "/ipns/example.org/", "//", "", "/ipfs/", "/ipfs/a/b", "dnslink"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		namespace, root, err := splitPath(s)
		if err == nil && (root == "" || strings.Contains(root, "/") || namespace != "ipfs" && namespace != "ipns") {
			t.Errorf("splitPath(%q) = %q, %q", s, namespace, root)
		}
	})
}
