package call

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// The callers protocol, /cell/callers/1: the asker sends a big-endian u16 length and as many bytes, a question that the
// owner of the cell has signed (signed.Question). The answer is a list of Claim in canonical CBOR. See exchange.

// Limits of an answer.
const (
	MaxClaims     = 32 // schemas
	MaxClaimNames = 16 // callers of one schema that are named; the others are counted

	maxClaimed    = 32 << 10 // bytes of a list; Claim in CBOR is at most 0.9 KiB
	maxClaimCount = 1 << 20  // callers of one schema
)

// Claim is what a peer says of those who use a schema. Nothing of it is proven.
type Claim struct {
	Schema  cellproto.SchemaHash
	Callers []peer.ID // at most MaxClaimNames, the last to call first
	More    int       // callers besides, who are not named
	Last    time.Time // call of any of them, whole s; zero: not known
}

type wireClaim struct {
	Schema  []byte   `cbor:"1,keyasint"`
	Callers [][]byte `cbor:"2,keyasint"` // binary peer IDs
	More    uint32   `cbor:"3,keyasint,omitempty"`
	Last    uint64   `cbor:"4,keyasint,omitempty"` // unix s
}

var (
	claimEnc = mustMode(cbor.CoreDetEncOptions().EncMode())
	claimDec = mustMode(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 4, MaxArrayElements: MaxClaims,
		MaxMapPairs: 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid, TagsMd: cbor.TagsForbidden,
	}.DecMode())
)

// mustMode is for options that are constants.
func mustMode[T any](mode T, err error) T {
	if err != nil {
		panic(err)
	}
	return mode
}

// ServeCallers answers one stream with what the owner is told whose account has signed the question; its error is
// told instead.
func ServeCallers(s network.Stream, tell func(q *signed.Question, owner peer.ID) ([]Claim, error)) error {
	if err := s.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	raw, err := readSized(s, cellproto.MaxQuestion)
	if err != nil {
		return err
	}
	q, owner, err := signed.OpenQuestion(raw, s.Conn().RemotePeer(), s.Conn().LocalPeer(), time.Now())
	var claims []Claim
	if err == nil {
		claims, err = tell(q, owner)
	}
	var body []byte
	if err == nil {
		body, err = marshalClaims(claims)
	}
	werr := sendAnswer(s, body, err)
	if kind := cellproto.KindOf(err); kind == cellproto.BadInput || kind == cellproto.TooLarge || kind == cellproto.Corrupt {
		return err // it is told, and charged
	}
	return werr
}

// AskCallers puts a question that names both hosts to a peer. Its errors are those of exchange, and BadInput.
func AskCallers(ctx context.Context, h host.Host, to peer.ID, question []byte) ([]Claim, error) {
	body, err := exchange(ctx, h, to, cellproto.ProtocolCallers, appendSized(nil, question), maxClaimed)
	if err != nil {
		return nil, err
	}
	return parseClaims(body)
}

func marshalClaims(claims []Claim) ([]byte, error) {
	wire := []wireClaim{}
	for _, c := range claims {
		w := wireClaim{Schema: c.Schema[:], Callers: [][]byte{}, More: uint32(c.More)}
		for _, p := range c.Callers {
			w.Callers = append(w.Callers, []byte(p))
		}
		if !c.Last.IsZero() {
			w.Last = uint64(c.Last.Unix())
		}
		wire = append(wire, w)
	}
	return claimEnc.Marshal(wire)
}

// parseClaims reads an answer: BadInput for what is none, TooLarge past its limits.
func parseClaims(body []byte) ([]Claim, error) {
	const op = "read who calls"
	var wire []wireClaim
	if err := claimDec.Unmarshal(body, &wire); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	claims := make([]Claim, 0, len(wire))
	seen := map[cellproto.SchemaHash]bool{}
	for _, w := range wire {
		c := Claim{More: int(w.More)}
		if copy(c.Schema[:], w.Schema) != len(w.Schema) || len(w.Schema) != len(c.Schema) || seen[c.Schema] || c.Schema.IsZero() {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%x is no hash of a schema, or there twice", w.Schema[:min(len(w.Schema), 40)])
		}
		seen[c.Schema] = true
		if len(w.Callers) > MaxClaimNames || w.More > maxClaimCount || w.Last > uint64(maxClaimTime) || len(w.Callers)+c.More == 0 {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%d callers named, %d not, last at %d", len(w.Callers), w.More, w.Last)
		}
		for _, raw := range w.Callers {
			p, err := peer.IDFromBytes(raw)
			if err != nil || len(raw) > maxCID {
				return nil, cellproto.Errorf(op, cellproto.BadInput, "a caller's name is no peer ID")
			}
			c.Callers = append(c.Callers, p)
		}
		if w.Last != 0 {
			c.Last = time.Unix(int64(w.Last), 0)
		}
		claims = append(claims, c)
	}
	return claims, nil
}

const maxClaimTime int64 = 253402300799 // unix s: the end of the year 9999, for JSON has no later time

// Claims is what the owner of a cell is told of those who use it: who has said which schema it was made for, by its peer
// ID. What the peer ID of a caller on this machine is, that caller itself has said. The others are counted, and neither
// addresses nor users of this machine are named.
func Claims(used []Used) (claims []Claim) {
	for _, row := range used {
		i := slices.IndexFunc(claims, func(c Claim) bool { return c.Schema == row.Schema })
		if i < 0 {
			if len(row.Users) == 0 || len(claims) == MaxClaims {
				continue
			}
			i, claims = len(claims), append(claims, Claim{Schema: row.Schema})
		}
		for _, one := range row.Users {
			claims[i].add(one)
		}
	}
	return claims
}

func (c *Claim) add(u User) {
	id, ok := u.peer()
	if ok && u.Says && len(c.Callers) < MaxClaimNames {
		if slices.Contains(c.Callers, id) {
			return
		}
		c.Callers = append(c.Callers, id)
	} else {
		c.More++
	}
	if u.Last.After(c.Last) {
		c.Last = u.Last
	}
}

// Is says whether a caller is a peer.
func (u *User) Is(p peer.ID) bool {
	id, ok := u.peer()
	return ok && id == p
}

// peer gives the peer ID in a caller's name, if there is one.
func (u *User) peer() (peer.ID, bool) {
	_, name, found := strings.Cut(u.Who, " ")
	if !found {
		name = u.Who
	}
	id, err := peer.Decode(name)
	return id, err == nil
}
