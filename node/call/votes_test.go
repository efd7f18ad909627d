package call

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/race"
)

func TestGroupOf(t *testing.T) {
	const relay = "/p2p/12D3KooWGRUaD8GkFs5Cn7eqqEZzQr8LqpzAxcPNzq2xTPCm1oYC/p2p-circuit"
	for addr, want := range map[string]string{
		"/ip4/192.0.2.7/tcp/1":                  "192.0.2.0/24",
		"/ip4/192.0.2.200/udp/1/quic-v1":        "192.0.2.0/24",
		"/ip4/198.51.100.1/tcp/1" + relay:       "relayed",
		"/ip4/203.0.113.1/tcp/1" + relay:        "relayed",
		"/ip4/10.1.2.3/tcp/1" + relay:           "relayed",
		"/ip6/2001:db8:1:2::1/tcp/1":            "2001:db8:1::/48",
		"/ip6/2001:db8:1:ffff::1/udp/1/quic-v1": "2001:db8:1::/48",
		"/ip6/::ffff:192.0.2.7/tcp/1":           "192.0.2.0/24",
		"/ip4/127.0.0.1/tcp/1":                  "local",
		"/ip4/10.1.2.3/tcp/1":                   "local",
		"/ip4/192.168.1.2/tcp/1":                "local",
		"/ip4/169.254.1.1/tcp/1":                "local",
		"/ip6/fd00::1/tcp/1":                    "local",
		"/ip6/::1/tcp/1":                        "local",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":       "local",
		"/dns4/example.org/tcp/1":               "",
		"/unix/run/x":                           "",
	} {
		group, local := groupOf(multiaddr.StringCast(addr), "p")
		if local {
			if group != "p" {
				t.Errorf("%s: a private address has the group %q", addr, group)
			}
			group = "local"
		}
		if group != want {
			t.Errorf("%s is of the group %q, want %q", addr, group, want)
		}
	}
}

func TestDrawTakesOneOfEachGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var voters []voter
		for i, g := range rapid.SliceOfN(rapid.IntRange(0, 5), 0, 20).Draw(t, "groups") {
			v := voter{group: fmt.Sprint(g)}
			v.Peer = cellproto.PeerID(fmt.Sprint("p", i))
			voters = append(voters, v)
		}
		but := fmt.Sprint(rapid.IntRange(0, 6).Draw(t, "but"))
		out := draw(voters, rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed"))), but)
		want := groups(voters)
		seen := map[string]bool{}
		for _, v := range out {
			if seen[v.group] || v.group == but {
				t.Fatalf("the group %s twice, or though it was not to be asked", v.group)
			}
			seen[v.group] = true
		}
		for _, v := range voters {
			if v.group == but {
				want--
				break
			}
		}
		if len(out) != want {
			t.Fatalf("%d of %d groups", len(out), want)
		}
	})
}

func TestDigestOf(t *testing.T) {
	reply := func(codec cellproto.Codec, payload string) attempt {
		return attempt{reply: &cellproto.Reply{Header: cellproto.Header{Codec: codec}, Payload: []byte(payload)}}
	}
	failed := func(kind cellproto.Kind, text string) attempt {
		return attempt{sent: true, err: cellproto.Errorf("call", kind, "%s", text)}
	}
	for name, c := range map[string]struct {
		a, b attempt
		same bool
	}{
		"order of keys":        {reply(cellproto.JSON, `{"a":1,"b":[2, 3]}`), reply(cellproto.JSON, ` {"b":[2,3],"a":1}`), true},
		"escapes":              {reply(cellproto.JSON, `"\u00e4"`), reply(cellproto.JSON, `"ä"`), true},
		"order of elements":    {reply(cellproto.JSON, `[1,2]`), reply(cellproto.JSON, `[2,1]`), false},
		"number and text":      {reply(cellproto.JSON, `1`), reply(cellproto.JSON, `"1"`), false},
		"no JSON":              {reply(cellproto.JSON, `{`), reply(cellproto.JSON, `{`), true},
		"CBOR, order of keys":  {reply(cellproto.CBOR, "\xa2\x61b\x02\x61a\x01"), reply(cellproto.CBOR, "\xa2\x61a\x01\x61b\x02"), true},
		"CBOR, longer head":    {reply(cellproto.CBOR, "\x18\x01"), reply(cellproto.CBOR, "\x01"), true},
		"CBOR, another value":  {reply(cellproto.CBOR, "\x01"), reply(cellproto.CBOR, "\x02"), false},
		"no CBOR":              {reply(cellproto.CBOR, "\xff"), reply(cellproto.CBOR, "\xfe"), false},
		"raw":                  {reply(cellproto.Raw, `{"a":1}`), reply(cellproto.Raw, `{"a": 1}`), false},
		"another codec":        {reply(cellproto.Raw, `1`), reply(cellproto.JSON, `1`), false},
		"text of an error":     {failed(cellproto.FuncError, "in /a"), failed(cellproto.FuncError, "in /b"), true},
		"kind of an error":     {failed(cellproto.FuncError, "x"), failed(cellproto.BadInput, "x"), false},
		"an error and a reply": {failed(cellproto.FuncError, "x"), reply(cellproto.JSON, `1`), false},
	} {
		if !answers(&c.a) || !answers(&c.b) {
			t.Errorf("%s: no answers", name)
		}
		if same := digestOf(&c.a) == digestOf(&c.b); same != c.same {
			t.Errorf("%s: same is %v", name, same)
		}
	}
	for _, kind := range []cellproto.Kind{cellproto.Unavailable, cellproto.Timeout, cellproto.Overloaded, cellproto.MayHaveRun, cellproto.Denied} {
		if a := failed(kind, "x"); answers(&a) {
			t.Errorf("%v is no answer", kind)
		}
	}
	if a := (attempt{err: cellproto.Errorf("", cellproto.BadInput, "no address")}); answers(&a) {
		t.Error("what was not sent is not answered")
	}
}

func TestCount(t *testing.T) {
	for _, c := range []struct {
		votes   string
		need    int
		decided bool
		dissent bool
		agreed  int
	}{
		{"", 2, false, false, 0}, {"a", 2, false, false, 1}, {"aa", 2, true, false, 2}, {"ab", 2, false, true, 1},
		{"aba", 2, true, true, 2}, {"abc", 2, false, true, 1}, {"abab", 2, false, true, 2}, {"abbab", 2, true, true, 3},
		{"aabc", 2, false, true, 2}, {"aabcab", 2, false, true, 3}, {"aaaabbcc", 2, false, true, 4}, {"aaaaabbc", 3, true, true, 5}, {"aab", 3, false, true, 2},
	} {
		var votes []vote
		for i, d := range c.votes {
			v := vote{digest: [32]byte{byte(d)}}
			v.Ranked = race.Ranked{Candidate: race.Candidate{Peer: cellproto.PeerID(fmt.Sprint(i))}}
			votes = append(votes, v)
		}
		got := count(votes)
		if got.clear(c.need) && (!got.decided(c.need) || got.dissent && 3*got.agreed < 2*got.votes) {
			t.Errorf("%q of %d is clear: %+v", c.votes, c.need, got)
		}
		if got.decided(c.need) != c.decided || got.dissent != c.dissent || got.agreed != c.agreed || got.votes != len(c.votes) {
			t.Errorf("%q of %d: %+v", c.votes, c.need, got)
		}
	}
}

func TestClear(t *testing.T) {
	for _, c := range []struct {
		agreed, votes int
		clear         bool
	}{{1, 1, false}, {2, 2, true}, {2, 3, true}, {3, 4, true}, {3, 5, false}, {5, 8, false}, {6, 8, true}, {2, 4, false}, {8, 8, true}} {
		got := tally{agreed: c.agreed, votes: c.votes, dissent: c.votes > c.agreed}
		if got.clear(2) != c.clear {
			t.Errorf("%d of %d: clear is %v", c.agreed, c.votes, got.clear(2))
		}
	}
}

// Who differs is suspected once those who are still to be heard cannot outvote the others, and no longer than they are more.
func TestSuspect(t *testing.T) {
	for name, steps := range map[string][]struct {
		votes         string // a: who is called now
		open, waiting int
		suspects      bool
	}{
		"who votes fastest":            {{"abb", 1, 1, false}, {"abba", 1, 0, false}, {"abbaa", 0, 0, false}},
		"more than half of all":        {{"abb", 5, 0, false}, {"abbb", 4, 0, false}, {"abbbbb", 2, 0, true}, {"aaabbbbb", 0, 0, true}},
		"others fall silent":           {{"abb", 1, 0, false}, {"abb", 0, 0, true}},
		"others are found":             {{"abb", 0, 0, true}, {"abb", 0, 3, true}, {"abba", 2, 0, false}, {"abbaa", 1, 0, false}},
		"as many as a quorum, no more": {{"ab", 0, 0, false}, {"aab", 0, 0, false}},
	} {
		p := &poll{c: &Caller{}, want: cellproto.Quorum{Agree: 2, Ask: 2}}
		for _, s := range steps {
			p.votes = nil
			for i, d := range s.votes {
				v := vote{digest: [32]byte{byte(d)}}
				v.Peer = cellproto.PeerID(fmt.Sprint(i))
				p.votes = append(p.votes, v)
			}
			p.waiting, p.open = make([]voter, s.waiting), map[cellproto.PeerID]time.Time{}
			for i := range s.open {
				p.open[cellproto.PeerID(fmt.Sprint("open", i))] = time.Time{}
			}
			p.suspect()
			if got := p.c.shuns("0"); got != s.suspects {
				t.Errorf("%s: after %s with %d more who is called is suspected: %v", name, s.votes, s.open+s.waiting, got)
			}
		}
		p.trust()
		if p.c.asked.shuns.Load() > 0 {
			t.Errorf("%s: somebody is suspected after that", name)
		}
	}
}

// Replies come from strangers.
func FuzzDigestOf(f *testing.F) {
	for _, s := range []string{`{"a":1}`, "\xa1\x61a\x01", "\x9f\x01\xff", "\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00", "\xc2\x41\x01", ""} {
		f.Add(s, uint8(cellproto.JSON))
		f.Add(s, uint8(cellproto.CBOR))
	}
	f.Fuzz(func(t *testing.T, payload string, codec uint8) {
		one := attempt{reply: &cellproto.Reply{Header: cellproto.Header{Codec: cellproto.Codec(codec)}, Payload: []byte(payload)}}
		if first := digestOf(&one); digestOf(&one) != first {
			t.Error("it differs from itself")
		}
		if string(one.reply.Payload) != payload {
			t.Error("the reply was changed")
		}
	})
}
