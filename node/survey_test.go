package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/dht"
	"github.com/celldnet/celld/node/call"
)

// peersNamed gives peers of one private network, which has no share of the places.
func peersNamed(name string, n int) (all []peer.AddrInfo) {
	for i := range n {
		all = append(all, peer.AddrInfo{ID: peer.ID(fmt.Sprint(name, i)), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/10.0.0.1/tcp/1")}})
	}
	return all
}

// surveyOf runs a survey for surveyTime at most. provide gives providers as they are found.
func surveyOf(near []peer.AddrInfo, says func(peer.ID) bool, provide func(ctx context.Context, out chan<- dht.Provider)) (s *survey, asked []peer.ID, all []said) {
	ctx, cancel := context.WithTimeout(context.Background(), surveyTime)
	defer cancel()
	s = newSurvey(&nucleus{log: zap.NewNop()}, "me", nil)
	for _, info := range near {
		s.near.add(info)
	}
	found, begun := make(chan dht.Provider), make(chan peer.ID, 1000)
	go func() {
		defer close(found)
		provide(ctx, found)
	}()
	all = s.run(ctx, found, func(ctx context.Context, info peer.AddrInfo) ([]call.Claim, error) {
		begun <- info.ID
		if says(info.ID) {
			return []call.Claim{{Schema: cellproto.SchemaHash{1}, More: 1}}, nil
		}
		<-ctx.Done()
		return nil, cellproto.Errorf("ask", cellproto.Timeout, "%w", ctx.Err())
	})
	close(begun)
	for id := range begun {
		asked = append(asked, id)
	}
	return s, asked, all
}

// Whoever is merely connected keeps no provider from being asked, however many they are and whatever they say.
func TestSurveyAsksProviders(t *testing.T) {
	late := peersNamed("late", 1)[0]
	for name, says := range map[string]func(peer.ID) bool{
		"silent strangers":    func(id peer.ID) bool { return id == late.ID },
		"talkative strangers": func(peer.ID) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, asked, all := surveyOf(peersNamed("near", 100), says, func(_ context.Context, out chan<- dht.Provider) {
					time.Sleep(surveyTime * 9 / 10) // of the bubble's clock
					out <- dht.Provider{Info: late}
				})
				if !slices.ContainsFunc(all, func(s said) bool { return s.by == late.ID }) {
					t.Errorf("the provider was not heard, only %d others", len(all))
				}
				near := len(asked) - 1
				if near > surveyNear || near < maxAsked {
					t.Errorf("%d neighbours were asked", near)
				}
				notes := strings.Join(s.notes(1), "; ")
				if want := fmt.Sprintf("%d connected peers were not asked", 100-near); !strings.Contains(notes, want) || strings.Contains(notes, "not over") {
					t.Errorf("%q, want %q", notes, want)
				}
			})
		})
	}
}

// A provider that waits is asked before those who are merely connected.
func TestSurveyAsksProvidersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := peersNamed("first", maxAsked+3)
		s, asked, _ := surveyOf(nil, func(peer.ID) bool { return false }, func(_ context.Context, out chan<- dht.Provider) {
			for _, info := range first {
				out <- dht.Provider{Info: info}
			}
		})
		if len(asked) != len(first) || s.silent != len(first) || s.cut {
			t.Errorf("%d asked, %d silent, cut short: %v", len(asked), s.silent, s.cut)
		}
		s = newSurvey(&nucleus{log: zap.NewNop()}, "me", nil)
		for _, info := range append(peersNamed("near", 2), first[0]) {
			s.near.add(info)
		}
		s.providers.add(first[0])
		for _, want := range []peer.ID{"first0", "near0", "near1"} {
			if info, ok := s.next(); !ok || info.ID != want {
				t.Errorf("%q is asked, want %q", info.ID, want)
			}
		}
		if info, ok := s.next(); ok {
			t.Errorf("%q is asked twice", info.ID)
		}
	})
}

// What could not be found out within the time is told.
func TestSurveySaysWhatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, asked, all := surveyOf(nil, func(peer.ID) bool { return false }, func(ctx context.Context, out chan<- dht.Provider) {
			for _, info := range peersNamed("provider", surveyPeers+5) {
				select {
				case out <- dht.Provider{Info: info}:
				case <-ctx.Done():
				}
			}
			<-ctx.Done()
		})
		notes := strings.Join(s.notes(surveyCells+2), "; ")
		for _, want := range []string{
			fmt.Sprintf("of %d peers who may serve its callers elsewhere %d did not say", len(asked), len(asked)),
			fmt.Sprintf("%d peers that may serve it were not asked", surveyPeers+5-len(asked)),
			"was not over after 5s", "2 older versions that it breaks were not looked for",
		} {
			if !strings.Contains(notes, want) {
				t.Errorf("%q, want %q", notes, want)
			}
		}
		if len(all) > 0 || len(asked) > surveyPeers || len(asked) < 3*maxAsked {
			t.Errorf("%d were asked", len(asked))
		}
	})
}

// What others say comes after what was seen, once for each caller, and never about what the cell never had.
func TestJoin(t *testing.T) {
	had, never := cellproto.SchemaHash{1}, cellproto.SchemaHash{2}
	self, seen, far, mirror, other := newPeer(t), newPeer(t), newPeer(t), newPeer(t), newPeer(t)
	now := time.Unix(1_000_000, 0)
	before := []call.Used{{Schema: had, Users: []call.User{{Who: "uid:7 " + seen.String(), Says: true, Last: now}}}}
	used := join(before, []said{
		{mirror, call.Claim{Schema: had, Callers: []peer.ID{seen, far, self}, More: 3, Last: now.Add(time.Hour)}},
		{other, call.Claim{Schema: had, Callers: []peer.ID{far}, Last: now}},
		{other, call.Claim{Schema: never, Callers: []peer.ID{far}, Last: now}},
		{other, call.Claim{Schema: cellproto.SchemaHash{3}, Callers: []peer.ID{far}, Last: now.Add(-2 * time.Hour)}},
		{other, call.Claim{Schema: cellproto.SchemaHash{4}, Callers: []peer.ID{self}}},
	}, self, func(h cellproto.SchemaHash) bool { return h != never }, now.Add(-time.Hour), now)
	if len(used) != 1 || len(used[0].Users) != 3 || len(before[0].Users) != 1 {
		t.Fatalf("%+v", used)
	}
	for i, want := range []call.User{
		{Who: "uid:7 " + seen.String(), Says: true, Last: now},
		{Who: far.String(), Says: true, Last: now, By: mirror.String()},
		{Last: now, By: mirror.String(), More: 3},
	} {
		if got := used[0].Users[i]; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A refusal says whose word it is, and what to do without it only if there is such.
func TestRefusalSaysWhoSaysSo(t *testing.T) {
	old, next := schemaOfText(t, `"gone":{},"add":{}`), schemaOfText(t, `"add":{}`)
	get := func(cellproto.SchemaHash) *cellproto.Schema { return old }
	for _, tc := range []struct {
		name string
		user call.User
		want string
		seen bool
	}{
		{"seen", call.User{Who: "uid:7", Last: time.Unix(1000, 0)}, "used by uid:7, last at ", false},
		{"told", call.User{Who: "12D3far", By: "12D3mirror", Last: time.Unix(1000, 0)}, ", says 12D3mirror)", true},
		{"made for it", call.User{Who: "12D3far", By: "12D3far"}, "used by 12D3far, says 12D3far)", true},
		{"not named", call.User{By: "12D3mirror", More: 2}, "used by 2 callers without a name, says 12D3mirror)", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := weigh(old, next, []call.Used{{Schema: old.Hash(), Users: []call.User{tc.user}}}, get)
			err := v.refuse("swap a", "1.0.0", "cellctl swap")
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(cellproto.HintOf(err), "--seen") != tc.seen {
				t.Errorf("%v; %s", err, cellproto.HintOf(err))
			}
		})
	}
}
