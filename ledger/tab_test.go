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

// What only this store reads nobody has signed. So it does not count where it may be a part of a peer's entry that has changed.
func TestTabInADamagedEntry(t *testing.T) {
	tab := func(provider byte) []byte {
		return append([]byte{tabMark}, must1[[]byte](t)(encode(&Tab{Provider: pub(provider), Sent: 1}))...)
	}
	known := func(b []byte, want ...byte) {
		t.Helper()
		d := newDisk(t, 1)
		ino := &inode{data: b, safe: b}
		d.live[segmentName(0)], d.safe[segmentName(0)] = ino, ino
		l, r, err := Open(testConfig(2, 1), d, testTime)
		if err != nil || len(r.Damaged) != 1 || len(l.tabs) != len(want) {
			t.Fatalf("%v, %+v, %d tabs", err, r, len(l.tabs))
		}
		for _, p := range want {
			if l.tabs[pub(p)].Sent != 1 {
				t.Errorf("the tab of %d is gone", p)
			}
		}
	}
	entry := filled(500, 5)
	at := 20
	for _, p := range []byte{3, 4} {
		at += copy(entry[at:], appendRecord(nil, tab(p)))
	}
	b := oneSegment(entry, tab(5), filled(maxRecord, 7), tab(6))
	b[len(segmentMagic)+recordHead]++ // it says where it ends
	known(b, 5, 6)
	b[len(segmentMagic)+5]++ // and now it does not
	known(b, 6)
}
