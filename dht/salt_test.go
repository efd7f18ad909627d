package dht

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

func TestSaltedKeysVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/salted-keys.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Network string
		Epoch   uint64
		CID     string
		Keys    []string
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		var got []string
		for _, key := range SaltedKeys(v.Network, v.Epoch, cid.MustParse(v.CID)) {
			got = append(got, key.String())
		}
		if !slices.Equal(got, v.Keys) {
			t.Errorf("%s, epoch %d: %v, want %v", v.Network, v.Epoch, got, v.Keys)
		}
	}
}

func TestEpoch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Unix(-5, 0), 0},
		{time.Unix(0, 0), 0},
		{time.Date(2026, 11, 1, 23, 59, 59, 0, time.UTC), 20758},
		{time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC), 20759},
		{time.Date(2026, 11, 2, 1, 0, 0, 0, time.FixedZone("", 2*3600)), 20758},
	} {
		if got := Epoch(tt.at); got != tt.want {
			t.Errorf("Epoch(%v) = %d, want %d", tt.at, got, tt.want)
		}
	}
}

// At every moment around the change of the epoch, whoever looks up asks for all salted keys of one
// epoch of everybody who announces: of one that has just begun to and whose clock is behind, and of
// one whose clock is ahead, by what it announced before its midnight. Records outlive epochs.
func TestKeysMeet(t *testing.T) {
	t.Parallel()
	c := cidOf(t, "met")
	midnight := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	for offset := -3 * time.Hour; offset <= 3*time.Hour; offset += 10 * time.Minute {
		now := midnight.Add(offset)
		for _, lead := range []time.Duration{epochOverlap / 2, epochOverlap} {
			for skew := -50 * time.Minute; skew <= 50*time.Minute; skew += 10 * time.Minute {
				records := announceKeys("public", c, now.Add(skew), lead)
				if skew > 0 {
					records = append(records, announceKeys("public", c, now.Add(skew-renewal), lead)...)
				}
				shared := 0
				for _, key := range findKeys("public", c, now) {
					if slices.Contains(records, key) {
						shared++
					}
				}
				if shared < 1+saltedKeys {
					t.Fatalf("at %v, lead %v, skew %v: %d keys in common", offset, lead, skew, shared)
				}
			}
		}
	}
	if n := len(announceKeys("public", c, midnight.Add(12*time.Hour), epochOverlap)); n != 1+saltedKeys {
		t.Errorf("%d keys at noon", n)
	}
	if n := len(announceKeys("public", c, midnight.Add(-time.Minute), epochOverlap)); n != 1+2*saltedKeys {
		t.Errorf("%d keys at the end of a day", n)
	}
	if n := len(findKeys("public", c, midnight.Add(time.Minute))); n != 1+2*saltedKeys {
		t.Errorf("%d keys to look up at the beginning of a day", n)
	}
}
