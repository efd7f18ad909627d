package signed

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

func testQuestion() Question {
	return Question{
		Cells: []cid.Cid{testCID(cid.DagCBOR, "version 2"), testCID(cid.DagCBOR, "version 1")},
		Asker: testPeer(2), Asked: testPeer(3), Issued: testNow,
	}
}

func questionVectors(t testing.TB) vectorFile {
	q := testQuestion()
	file := vectorFile{
		About: "Questions of an owner who calls (libp2p envelopes), as the host asker put them to the host asked at now_ms. " +
			"kind: what opening them has to give; without one they open and were signed by owner.",
		Expect: map[string]string{"asker": q.Asker.String(), "asked": q.Asked.String(), "owner": testPeer(1).String(), "cell": q.Cells[0].String()},
		NowMS:  testNow.UnixMilli(),
	}
	add := func(name, kind string, data []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, Hex: hex.EncodeToString(data), Kind: kind})
	}
	data, err := SealQuestion(q, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	add("full", "", data)
	good := questionBody{
		V: 1, Cells: []Link{{q.Cells[0]}, {q.Cells[1]}}, Asker: q.Asker.String(), Asked: q.Asked.String(), Issued: q.Issued.UnixMilli(),
	}
	o := questionObject("", &good)
	file.Vectors = append(file.Vectors, envelopeVectors(t, o, encode(t, good), [2]string{domainToken, typeToken}, cellproto.MaxQuestion)...)
	for _, c := range []struct {
		name, kind string
		edit       func(*questionBody)
	}{
		{"by another host", "denied", func(b *questionBody) { b.Asker = testPeer(1).String() }},
		{"to another host", "denied", func(b *questionBody) { b.Asked = testPeer(1).String() }},
		{"too old", "denied", func(b *questionBody) { b.Issued -= cellproto.MaxClockSkew.Milliseconds() + 1 }},
		{"from the future", "denied", func(b *questionBody) { b.Issued += cellproto.MaxClockSkew.Milliseconds() + 1 }},
		{"about no cell", "bad input", func(b *questionBody) { b.Cells = nil }},
		{"about a missing cell", "bad input", func(b *questionBody) { b.Cells = []Link{{}} }},
		{"about what is no manifest", "bad input", func(b *questionBody) { b.Cells = []Link{{testCID(cid.Raw, "x")}} }},
		{"about 17 cells", "too large", func(b *questionBody) {
			for len(b.Cells) <= MaxQuestionCells {
				b.Cells = append(b.Cells, b.Cells[0])
			}
		}},
		{"issued at 0", "bad input", func(b *questionBody) { b.Issued = 0 }},
		{"asker is no peer ID", "bad input", func(b *questionBody) { b.Asker = "me" }},
		{"no asked", "bad input", func(b *questionBody) { b.Asked = "" }},
	} {
		b := good
		b.Cells = append([]Link(nil), good.Cells...)
		c.edit(&b)
		add(c.name, c.kind, envelope(t, o.domain, o.kind, encode(t, b), testKey(1)))
	}
	return file
}

func openQuestion(data []byte) (peer.ID, error) {
	_, owner, err := OpenQuestion(data, testPeer(2), testPeer(3), testNow)
	return owner, err
}

func TestQuestionVectors(t *testing.T) {
	for _, v := range vectors(t, "question.json", questionVectors(t)).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			owner, err := openQuestion(v.bytes(t))
			v.check(t, err)
			if err == nil && owner != testPeer(1) {
				t.Errorf("signed by %s", owner)
			}
		})
	}
}

func TestQuestionRoundTrip(t *testing.T) {
	full := testQuestion()
	for len(full.Cells) < MaxQuestionCells {
		full.Cells = append(full.Cells, full.Cells[0])
	}
	data, err := SealQuestion(full, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, owner, err := OpenQuestion(data, testPeer(2), testPeer(3), testNow.Add(time.Minute))
	if err != nil || owner != testPeer(1) || !reflect.DeepEqual(*got, full) {
		t.Errorf("%+v of %s, %v", got, owner, err)
	}
	everyFlip(t, data, func(b []byte) error { _, err := openQuestion(b); return err })
	if _, err := SealQuestion(Question{}, testKey(1)); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
}

func FuzzOpenQuestion(f *testing.F) {
	for _, v := range questionVectors(f).Vectors {
		f.Add(v.bytes(f))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q, _, err := OpenQuestion(data, testPeer(2), testPeer(3), testNow)
		if err == nil && (q == nil || len(q.Cells) == 0 || len(q.Cells) > MaxQuestionCells) {
			t.Errorf("it gives %+v", q)
		}
	})
}
