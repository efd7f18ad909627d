package node

import (
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/ledger"
	"github.com/celldnet/celld/node/call"
)

// heldFiles is a real directory whose syncs can be held up.
type heldFiles struct {
	ledger.Files
	hold *hold
}

type hold struct {
	mu sync.Mutex
	at chan struct{} // nil: nothing is held up
	on chan struct{}
}

func (h *hold) wait() {
	h.mu.Lock()
	at := h.at
	h.mu.Unlock()
	if at != nil {
		at <- struct{}{}
		<-h.on
	}
}

func (h *hold) set(at chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = at
}

func (f heldFiles) Create(name string) (ledger.File, error) {
	file, err := f.Files.Create(name)
	return heldFile{file, f.hold}, err
}

type heldFile struct {
	ledger.File
	hold *hold
}

func (f heldFile) Sync() error {
	f.hold.wait()
	return f.File.Sync()
}

// A call that waits for its place is ranked while this host writes down whom it has called, or what callers owe.
func TestRankDoesNotWaitForTheDisk(t *testing.T) {
	_, caller, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := ledger.KeyOf(caller)
	p, err := peerOf(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(*accounts){
		"whom it has called": func(a *accounts) {
			spent := map[string]call.Usage{}
			for range ledger.SyncEntries {
				_, k, err := ed25519.GenerateKey(nil)
				if err != nil {
					t.Error(err)
				}
				q, err := peerOf(ledger.KeyOf(k))
				if err != nil {
					t.Error(err)
				}
				spent[q.String()] = call.Usage{Calls: 1, Wall: uint64(time.Second)}
			}
			a.keepTabs(time.Now(), spent, true)
		},
		"what callers owe": func(a *accounts) {
			a.mu.Lock()
			defer a.mu.Unlock()
			for i := range ledger.SyncEntries {
				d := &debtor{key: key, peer: p}
				d.base = ledger.Receipt{Net: a.net, Consumer: key, Provider: a.self, Epoch: uint32(i)}
				if err := a.claim(d, call.Usage{Calls: 1, CPU: uint64(time.Second)}, time.Now()); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, self, err := ed25519.GenerateKey(nil)
			if err != nil {
				t.Fatal(err)
			}
			files, err := ledger.OpenDir(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			h := &hold{on: make(chan struct{})}
			a := accountsOn(t, self, heldFiles{files, h})
			at := make(chan struct{})
			h.set(at)
			written := make(chan struct{})
			go func() {
				defer close(written)
				write(a)
			}()
			<-at
			ranked := make(chan string, 1)
			go func() {
				a.owner(key)
				class, weight := a.rank(p.String(), key)
				ranked <- fmt.Sprint(class, weight)
			}()
			select {
			case got := <-ranked:
				if got != "stranger 1" {
					t.Error(got)
				}
			case <-time.After(10 * time.Second): // then it never is: the disk waits for this test
				t.Error("the call waits for the disk")
			}
			h.set(nil)
			close(h.on)
			<-written
		})
	}
}
