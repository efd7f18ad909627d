package node

import (
	"testing"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/node/call"
)

// Schemas that somebody has invented do not hide the callers by those that the cell had, and the owner is not told of
// its own calls.
func TestTellable(t *testing.T) {
	owner, far := newPeer(t), newPeer(t)
	real := cellproto.SchemaHash{0xff}
	var used []call.Used
	for i := range call.MaxClaims {
		used = append(used, call.Used{Schema: cellproto.SchemaHash{byte(i + 1)}, Users: []call.User{{Who: newPeer(t).String(), Says: true}}})
	}
	used = append(used, call.Used{Schema: real, Users: []call.User{
		{Who: "uid:7 " + owner.String(), Says: true}, {Who: owner.String(), Says: true}, {Who: far.String(), Says: true},
	}})
	claims := call.Claims(tellable(used, owner, func(h cellproto.SchemaHash) bool { return h == real }))
	if len(claims) != call.MaxClaims || claims[0].Schema != real || len(claims[0].Callers) != 1 || claims[0].Callers[0] != far || claims[0].More != 0 {
		t.Errorf("%d claims, the first is %+v", len(claims), claims[0])
	}
	if n := len(used[call.MaxClaims].Users); n != 3 {
		t.Errorf("%d users are left in what is noted", n)
	}
}

// A stranger hears that another account owns a cell only if everybody can find out who serves it.
func TestStrangerIsNotToldWhatIsServed(t *testing.T) {
	cell := cid.MustParse("bafyreibb23pvonc7ax6xhgpyap22gk3zayds27jgcyl6fvyd67li4ozy7q")
	owner, stranger := newPeer(t), newPeer(t)
	n := &nucleus{
		cfg: &celltoml.Config{}, locked: newLocked(t.TempDir(), zap.NewNop()),
		serving: &serving{manifest: &signed.Manifest{Owner: cellproto.PeerID(owner.String())}, id: cell},
	}
	q := &signed.Question{Cells: []cid.Cid{cell}, Asker: stranger}
	for _, tc := range []struct {
		listen []string
		want   cellproto.Kind
	}{{nil, cellproto.NotFound}, {[]string{"/ip4/127.0.0.1/tcp/0"}, cellproto.Denied}} {
		n.cfg.Network.Listen = tc.listen
		if claims, err := n.callersFor(q, stranger); cellproto.KindOf(err) != tc.want || len(claims) > 0 {
			t.Errorf("one that listens at %q: %v, %v; want %v", tc.listen, claims, err, tc.want)
		}
	}
}
