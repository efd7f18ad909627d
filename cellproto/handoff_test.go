package cellproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// handoffVectors are messages and what they are; the bad ones have a kind of error instead.
type handoffVectors struct {
	Good []struct {
		Name    string `json:"name"`
		Hex     string `json:"hex"`
		Type    uint8  `json:"type"`
		ID      uint32 `json:"id"`
		Subject string `json:"subject"`
	} `json:"good"`
	Bad []struct {
		Name string `json:"name"`
		Hex  string `json:"hex"`
		Kind string `json:"kind"`
	} `json:"bad"`
}

func TestHandoffVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/handoff.json")
	if err != nil {
		t.Fatal(err)
	}
	var v handoffVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for _, g := range v.Good {
		data, err := hex.DecodeString(g.Hex)
		if err != nil {
			t.Fatal(g.Name, err)
		}
		m, err := ParseHandoff(data)
		if want := (Handoff{HandoffType(g.Type), g.ID, g.Subject}); err != nil || m != want {
			t.Errorf("%s: %+v, %v, want %+v", g.Name, m, err, want)
		}
		if again, err := m.Append(nil); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: written again as %x, %v", g.Name, again, err)
		}
	}
	for _, b := range v.Bad {
		data, err := hex.DecodeString(b.Hex)
		if err != nil {
			t.Fatal(b.Name, err)
		}
		if _, err := ParseHandoff(data); KindOf(err).String() != b.Kind {
			t.Errorf("%s: %v, want %s", b.Name, err, b.Kind)
		}
	}
	if _, err := ParseHandoff(make([]byte, MaxHandoff+1)); KindOf(err) != TooLarge {
		t.Errorf("a long message: %v", err)
	}
	if _, err := (&Handoff{Type: HandoffConn, Subject: strings.Repeat("s", MaxSubject+1)}).Append(nil); KindOf(err) != TooLarge {
		t.Errorf("a long subject: %v", err)
	}
}

func FuzzHandoff(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Add([]byte("\x02\x00\x00\x00\x07uid:1000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseHandoff(data)
		if err != nil {
			return
		}
		if again, err := m.Append(nil); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x becomes %x, %v", data, again, err)
		}
	})
}

// TestPageIsTakenOnce: either the program takes connections, or the nucleus takes them back.
func TestPageIsTakenOnce(t *testing.T) {
	for range 100 {
		mem := make([]byte, PageSize)
		nucleus, program := NewPage(mem, 1), NewPage(mem, 0)
		taken := make(chan bool)
		go func() { taken <- program.Take() }()
		back := nucleus.TakeBack()
		if took := <-taken; took == back {
			t.Fatalf("taken by the program: %v, by the nucleus: %v", took, back)
		}
		if nucleus.TakeBack() || program.Take() {
			t.Fatal("taken twice")
		}
	}
}

func TestPage(t *testing.T) {
	mem := make([]byte, PageSize)
	nucleus, program := NewPage(mem, 100), NewPage(mem, 0)
	if program.Limit() != 100 {
		t.Error(program.Limit())
	}
	const workers, calls = 4, 1000
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range calls {
				if program.Begin() {
					program.Time(7 * time.Microsecond)
				}
				program.End()
			}
			program.Refuse()
		})
	}
	wg.Wait()
	program.Begin()
	if begun, ended, refused := nucleus.Counts(); begun-ended != 1 || ended != workers*calls || refused != workers {
		t.Error(begun, ended, refused)
	}
	times, seen := nucleus.Times(0)
	if len(times) == 0 || len(times) > 64 || times[0] != 7*time.Microsecond {
		t.Errorf("%d times", len(times))
	}
	if times, again := nucleus.Times(seen); len(times) != 0 || again != seen {
		t.Errorf("given twice: %v", times)
	}
	program.Time(-1)
	program.Time(1 << 62)
	if times, _ := nucleus.Times(seen); len(times) != 2 || times[0] != 0 || times[1] != (1<<32-1)*time.Microsecond {
		t.Error(times)
	}
}
