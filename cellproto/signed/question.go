package signed

import (
	"errors"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// MaxQuestionCells is how many versions one question is about.
const MaxQuestionCells = 16

// Question is what the owner of a cell asks those who serve or call it: who calls, and by which schemas. The owner's
// account key signs it, so that nobody else is told; it names both hosts and the time, so that it is of use to nobody
// else.
type Question struct {
	Cells  []cid.Cid // manifests of the owner's, 1 to MaxQuestionCells
	Asker  peer.ID   // whose host asks
	Asked  peer.ID   // whose host is asked
	Issued time.Time // whole ms
}

type questionBody struct {
	V      uint64 `cbor:"v"`
	Cells  []Link `cbor:"cells"`
	Asker  string `cbor:"asker"`
	Asked  string `cbor:"asked"`
	Issued int64  `cbor:"issued"`
}

// SealQuestion signs q with the account key of the cells' owner. Kinds: BadInput, TooLarge for MaxQuestion and
// MaxQuestionCells.
func SealQuestion(q Question, key crypto.PrivKey) ([]byte, error) {
	const op = "seal question"
	b := questionBody{V: version, Asker: q.Asker.String(), Asked: q.Asked.String(), Issued: q.Issued.UnixMilli()}
	for _, c := range q.Cells {
		b.Cells = append(b.Cells, Link{c})
	}
	if _, err := b.question(op); err != nil {
		return nil, err
	}
	return questionObject(op, &b).seal(key, cellproto.MaxQuestion)
}

// OpenQuestion checks a question that the host from has put to the host self, and gives whose account key has signed it:
// whether that owns the cells is for the reader. Denied: it was signed for others, or more than MaxClockSkew before or
// after now. Else the kinds of every envelope, and TooLarge for MaxQuestionCells.
func OpenQuestion(data []byte, from, self peer.ID, now time.Time) (q *Question, owner peer.ID, err error) {
	const op = "open question"
	var b questionBody
	if owner, err = questionObject(op, &b).open(data, cellproto.MaxQuestion); err != nil {
		return nil, "", err
	}
	if q, err = b.question(op); err != nil {
		return nil, "", err
	}
	switch age := now.Sub(q.Issued); {
	case q.Asker != from || q.Asked != self:
		return nil, "", cellproto.Errorf(op, cellproto.Denied, "%s asks %s by it", q.Asker, q.Asked)
	case age > cellproto.MaxClockSkew || age < -cellproto.MaxClockSkew:
		return nil, "", cellproto.Errorf(op, cellproto.Denied, "it was asked at %s, and it is %s", utc(q.Issued), utc(now)).
			WithHint("Set the clocks of both machines right.")
	}
	return q, owner, nil
}

func questionObject(op string, b *questionBody) object {
	return object{op: op, domain: domainQuestion, kind: typeQuestion, body: b}
}

// question checks the fields and gives them their types.
func (b *questionBody) question(op string) (*Question, error) {
	if n := len(b.Cells); n > MaxQuestionCells {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d cells, the limit is %d", n, MaxQuestionCells)
	}
	asker, errAsker := parsePeer(b.Asker)
	asked, errAsked := parsePeer(b.Asked)
	for _, f := range []struct {
		name string
		err  error
	}{
		{"v", checkV(b.V)},
		{"cells", b.checkCells()},
		{"asker", errAsker},
		{"asked", errAsked},
		{"issued", checkInt(b.Issued, 1)},
	} {
		if f.err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "%s: %w", f.name, f.err)
		}
	}
	q := &Question{Asker: asker, Asked: asked, Issued: time.UnixMilli(b.Issued)}
	for _, l := range b.Cells {
		q.Cells = append(q.Cells, l.Cid)
	}
	return q, nil
}

func (b *questionBody) checkCells() error {
	if len(b.Cells) == 0 {
		return errors.New("none is named")
	}
	for _, l := range b.Cells {
		if !l.Defined() {
			return errors.New("one is missing")
		}
		if err := checkManifestCID(l.Cid); err != nil {
			return err
		}
	}
	return nil
}
