package call

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

func TestClaims(t *testing.T) {
	at := time.Unix(2000, 0)
	h1, _ := newHost(t)
	h2, _ := newHost(t)
	a, b := h1.ID(), h2.ID()
	many := Used{Schema: cellproto.SchemaHash{2}}
	for range MaxClaimNames + 3 {
		h, err := peer.IDFromPrivateKey(newKeyPair(t))
		if err != nil {
			t.Fatal(err)
		}
		many.Users = append(many.Users, User{Who: h.String(), Says: true, Last: at})
	}
	claims := Claims([]Used{
		{Schema: cellproto.SchemaHash{1}, Users: []User{
			{Who: a.String(), Says: true, Last: at}, {Who: "uid:1000 " + b.String(), Says: true, Last: at.Add(time.Hour)},
			{Who: "uid:1000", Says: true, Last: at}, {Who: b.String(), Last: at},
		}},
		many,
		{Schema: cellproto.SchemaHash{3}},
		{Schema: cellproto.SchemaHash{1}, Users: []User{{Who: a.String(), Says: true}}},
	})
	if len(claims) != 2 {
		t.Fatalf("%+v", claims)
	}
	want := Claim{Schema: cellproto.SchemaHash{1}, Callers: []peer.ID{a, b}, More: 2, Last: at.Add(time.Hour)}
	if !reflect.DeepEqual(claims[0], want) {
		t.Errorf("%+v, want %+v", claims[0], want)
	}
	if len(claims[1].Callers) != MaxClaimNames || claims[1].More != 3 {
		t.Errorf("%d are named and %d counted", len(claims[1].Callers), claims[1].More)
	}
	body, err := marshalClaims(claims)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(body, []byte("uid")) {
		t.Error("users of this machine are told")
	}
	if back, err := parseClaims(body); err != nil || !reflect.DeepEqual(back, claims) {
		t.Errorf("%+v, %v", back, err)
	}
}

// The longest answer that there can be fits.
func TestClaimsAreWithinTheirBytes(t *testing.T) {
	var used []Used
	for i := range MaxClaims + 5 {
		row := Used{Schema: cellproto.SchemaHash{byte(i + 1)}}
		for j := range 300 {
			id, err := peer.IDFromPrivateKey(newKeyPair(t))
			if err != nil {
				t.Fatal(err)
			}
			row.Users = append(row.Users, User{Who: id.String(), Says: true, Last: time.Unix(maxClaimTime-int64(j), 0)})
		}
		used = append(used, row)
	}
	claims := Claims(used)
	body, err := marshalClaims(claims)
	if err != nil || len(claims) != MaxClaims || len(body) > maxClaimed {
		t.Errorf("%d claims in %d bytes, %v", len(claims), len(body), err)
	}
}

func TestParseClaimsRefuses(t *testing.T) {
	hash := bytes.Repeat([]byte{5}, 32)
	for name, wire := range map[string]any{
		"no list":                 map[int]int{1: 1},
		"a short hash":            []wireClaim{{Schema: hash[:31], More: 1}},
		"a long hash":             []wireClaim{{Schema: append(hash, 1), More: 1}},
		"no schema":               []wireClaim{{Schema: make([]byte, 32), More: 1}},
		"a schema twice":          []wireClaim{{Schema: hash, More: 1}, {Schema: hash, More: 1}},
		"nobody":                  []wireClaim{{Schema: hash}},
		"a name that is none":     []wireClaim{{Schema: hash, Callers: [][]byte{[]byte("\x1b[2J")}}},
		"more than can be":        []wireClaim{{Schema: hash, More: maxClaimCount + 1}},
		"past the end of time":    []wireClaim{{Schema: hash, More: 1, Last: 1 << 62}},
		"past the year 9999":      []wireClaim{{Schema: hash, More: 1, Last: uint64(maxClaimTime) + 1}},
		"more schemas than fit":   make([]wireClaim, MaxClaims+1),
		"more callers than named": []wireClaim{{Schema: hash, Callers: make([][]byte, MaxClaimNames+1)}},
		"a key that is not known": []map[int]any{{1: hash, 2: [][]byte{}, 3: 1, 9: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := claimEnc.Marshal(wire)
			if err != nil {
				t.Fatal(err)
			}
			if claims, err := parseClaims(body); cellproto.KindOf(err) != cellproto.BadInput {
				t.Errorf("%+v, %v", claims, err)
			}
		})
	}
}

func FuzzParseClaims(f *testing.F) {
	good, err := marshalClaims([]Claim{{Schema: cellproto.SchemaHash{1}, More: 2, Last: time.Unix(9, 0)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, last := range []int64{maxClaimTime, 1 << 40} {
		late, err := marshalClaims([]Claim{{Schema: cellproto.SchemaHash{1}, More: 2, Last: time.Unix(last, 0)}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(late)
	}
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		claims, err := parseClaims(data)
		if err != nil {
			return
		}
		for _, c := range claims {
			if len(c.Callers) > MaxClaimNames || c.More < 0 || c.Schema.IsZero() {
				t.Errorf("%+v", c)
			}
			if _, err := c.Last.UTC().MarshalJSON(); err != nil {
				t.Errorf("%s: %v", fmt.Sprint(c.Last), err)
			}
		}
	})
}
