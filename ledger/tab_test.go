package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// The newest tab of each provider is there after a restart, and as many as there is room for.
func TestTabs(t *testing.T) {
	d := newDisk(t, 1)
	l := openLedger(t, testConfig(1, 1), d)
	keep := func(tabs ...Tab) {
		t.Helper()
		if err := l.KeepTabs(testTime, tabs); err != nil {
			t.Fatal(err)
		}
	}
	keep(Tab{Provider: pub(2), WallNS: 1, Sent: 2}, Tab{Provider: pub(3), Got: 1 << 62, Before: Meter{CPU: 5}})
	keep(Tab{Provider: pub(2), WallNS: 9, Sent: 9})
	keep()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, testConfig(1, 1), d)
	got := map[Key]Tab{}
	for _, tab := range l.Tabs() {
		got[tab.Provider] = tab
	}
	if len(got) != 2 || got[pub(2)].WallNS != 9 || got[pub(3)].Before.CPU != 5 || got[pub(3)].Got != 1<<62 {
		t.Errorf("%+v", got)
	}
	for i := range uint32(maxTabs + 10) {
		keep(Tab{Provider: sha256.Sum256(binary.BigEndian.AppendUint32(nil, i))})
	}
	if n := len(l.Tabs()); n != maxTabs {
		t.Errorf("%d providers are remembered", n)
	}
	for _, data := range [][]byte{{tabMark}, {tabMark, 0x80}, {tabMark, 0xff, 0xff}, {draftMark}, {draftMark, 1}} {
		if _, ok := l.loadLocal(data); ok {
			t.Errorf("%x was read", data)
		}
	}
	if r := l.Ingest(testTime, []byte{tabMark, 0x80}); r.Verdict != Malformed {
		t.Errorf("a peer's tab is %v", r.Verdict)
	}
}
