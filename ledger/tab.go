package ledger

import (
	"bytes"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Tab is what a consumer knows of its own calls to a provider, over all lives of its nucleus. With it, what was used
// before a restart can be signed for after it, and a restart is worth nothing to a provider.
type Tab struct {
	_                 struct{} `cbor:",toarray"`
	Provider          Key
	WallNS, Sent, Got uint64 // since it was begun
	Before            Meter  // of all that was signed for to the provider, what was used before that
}

// Records that only this store reads, by their first byte, with which no entry begins.
const (
	draftMark = 0x00 // what was signed as a member of a pool
	tabMark   = 0x01
)

func isLocal(data []byte) bool { return len(data) > 0 && data[0] <= giftMark }

// maxTabs bounds the providers that are remembered.
const maxTabs = 4096

// KeepTabs remembers tabs in the place of older ones. What a crash takes of it is what was written since the last sync.
func (l *Ledger) KeepTabs(now time.Time, tabs []Tab) error {
	l.change()
	defer l.changed()
	var slots []Hash
	var datas [][]byte
	for _, t := range tabs {
		data, err := encode(&t)
		if err != nil {
			return cellproto.Errorf("keep tab", cellproto.BadInput, "%w", err)
		}
		if _, known := l.tabs[t.Provider]; !known && len(l.tabs) >= maxTabs {
			l.dropTab()
		}
		l.tabs[t.Provider] = t
		slots, datas = append(slots, tabSlot(t.Provider)), append(datas, append([]byte{tabMark}, data...))
	}
	if len(datas) == 0 {
		return nil
	}
	return l.onDisk(func(s *Store) error { return s.AppendBatch(now, slots, datas, false) })
}

// dropTab makes room for another provider: any of them has to go.
func (l *Ledger) dropTab() {
	for p := range l.tabs {
		delete(l.tabs, p)
		l.store.Forget(tabSlot(p))
		return
	}
}

// Tabs gives what is remembered of each provider.
func (l *Ledger) Tabs() []Tab {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Tab, 0, len(l.tabs))
	for _, t := range l.tabs {
		list = append(list, t)
	}
	return list
}

func (l *Ledger) loadTab(data []byte) (Hash, bool) {
	var t Tab
	if decode("read tab", data, &t) != nil {
		return Hash{}, false
	}
	l.tabs[t.Provider] = t
	return tabSlot(t.Provider), true
}

func tabSlot(p Key) Hash { return bodyID(append([]byte("tab"), p[:]...)) }

// loadLocal takes in a record that only this store reads.
func (l *Ledger) loadLocal(data []byte) (Hash, bool) {
	switch data[0] {
	case tabMark:
		return l.loadTab(bytes.Clone(data[1:]))
	case giftMark:
		return l.loadGift(data[1:])
	}
	return l.loadDraft(data[1:])
}
