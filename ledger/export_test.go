package ledger

import (
	"bytes"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func TestExport(t *testing.T) {
	b := newTestBook(4)
	for _, e := range accountLog(t, 1, 2, 3) {
		b.expect(t, Stored, wire(t, e))
	}
	b.expect(t, Stored, wire(t, dual(t, testReceipt(7, 2, 1000), 7, 2)))
	b.expect(t, Stored, wire(t, ack(t, testReceipt(7, 3, 500), 7)))
	b.expect(t, Stored, wire(t, must1[*SignedCheque](t)(SealCheque(Cheque{Net: testNet, Donor: pub(1), To: pub(5), N: 1, Credit: 100}, testKey(1)))))
	unpaid := testReceipt(8, 4, 70) // of somebody who has left without signing
	b.expect(t, Stored, wire(t, claim(t, unpaid, 4)))
	b.expect(t, Stored, wire(t, ack(t, testReceipt(7, 4, 100), 7)))
	b.expect(t, Stored, wire(t, claim(t, testReceipt(7, 4, 150), 4)))
	fork := accountLog(t, 20, 21)
	b.expect(t, Stored, wire(t, fork[0]))
	b.expect(t, Stored, wire(t, fork[1]))
	b.expect(t, Forked, wire(t, accountLog(t, 20, 22)[1]))
	var file, again bytes.Buffer
	if err := b.Export(&file); err != nil {
		t.Fatal(err)
	}
	c, findings, err := Check(bytes.NewReader(file.Bytes()), testNet, 0)
	if err != nil || len(findings) > 0 {
		t.Fatal(findings, err)
	}
	if err := c.Export(&again); err != nil || !bytes.Equal(file.Bytes(), again.Bytes()) {
		t.Error("what was checked is not what was exported")
	}
	if given, _ := c.Balance(pub(4)); given != 100 {
		t.Errorf("%d were given, of which 100 are signed for", given)
	}
	if r, ok := c.Register(unpaid.RegKey()); !ok || r.Ack != nil || r.Claimed() != 70 {
		t.Errorf("what its provider alone says: %s", show(r))
	}
	given, taken := c.Balance(pub(1))
	if given != 1500 || taken != 100 || !c.Banned(pub(21)) {
		t.Errorf("%d %d", given, taken)
	}
	bad := bytes.Clone(file.Bytes())
	bad[len(bad)-700] ^= 1
	if _, findings, err = Check(bytes.NewReader(bad), testNet, 0); err == nil && len(findings) == 0 {
		t.Error("a changed byte is not noticed")
	}
	_, findings, err = Check(bytes.NewReader(file.Bytes()), NetOf("other"), 0)
	if err != nil || len(findings) == 0 {
		t.Error("an export of another network is taken")
	}
	_, _, err = Check(bytes.NewReader(file.Bytes()[:file.Len()-1]), testNet, 0)
	wantKind(t, "a file that is cut", err, cellproto.BadInput)
	_, _, err = Check(bytes.NewReader([]byte("hello")), testNet, 0)
	if err == nil {
		_, findings, _ = Check(bytes.NewReader([]byte("hello")), testNet, 0)
		if len(findings) == 0 {
			t.Error("text is no ledger")
		}
	}
}

func FuzzCheck(f *testing.F) {
	readVectors(f, "entries.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _, err := Check(bytes.NewReader(data), testNet, nowMS)
		if err != nil && cellproto.KindOf(err) != cellproto.BadInput {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := b.Export(&out); err != nil {
			t.Fatal(err)
		}
	})
}
