package node

import (
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/call"
)

// What others say comes after what was seen, once for each caller, and never about what the cell never had.
func TestJoin(t *testing.T) {
	had, never := cellproto.SchemaHash{1}, cellproto.SchemaHash{2}
	self, seen, far, mirror, other := newPeer(t), newPeer(t), newPeer(t), newPeer(t), newPeer(t)
	now := time.Unix(1_000_000, 0)
	before := []call.Used{{Schema: had, Users: []call.User{{Who: "uid:7 " + seen.String(), Says: true, Last: now}}}}
	used := join(before, []said{
		{mirror, call.Claim{Schema: had, Callers: []peer.ID{seen, far, self}, More: 3, Last: now}},
		{other, call.Claim{Schema: had, Callers: []peer.ID{far}, Last: now}},
		{other, call.Claim{Schema: never, Callers: []peer.ID{far}, Last: now}},
		{other, call.Claim{Schema: cellproto.SchemaHash{3}, Callers: []peer.ID{far}, Last: now.Add(-2 * time.Hour)}},
		{other, call.Claim{Schema: cellproto.SchemaHash{4}, Callers: []peer.ID{self}}},
	}, self, func(h cellproto.SchemaHash) bool { return h != never }, now.Add(-time.Hour))
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
