package mirror

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const goodRecord = `{"cid":"bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua","name":"calculator","version":"1.0.0",` +
	`"source":"artefact","created":"2026-01-01T00:00:00Z","last_used":"2026-01-02T00:00:00Z","state":"ready"}`

const repoRecord = `{"name":"calculator","version":"1.0.0","source":"x","created":"2026-01-01T00:00:00Z","last_used":"2026-01-02T00:00:00Z",` +
	`"state":"ready","repo":"https://example.org/x","commit":"0123456789abcdef0123456789abcdef01234567"}`

func TestParseRecord(t *testing.T) {
	if r, err := ParseRecord([]byte(repoRecord)); err != nil || r.CID != "" || r.Repo != "https://example.org/x" {
		t.Fatalf("%+v: %v", r, err)
	}
	if r, err := ParseRecord([]byte(goodRecord)); err != nil || r.Name != "calculator" {
		t.Fatalf("%+v: %v", r, err)
	}
	for name, c := range map[string]struct {
		text string
		kind cellproto.Kind
	}{
		"nothing":                 {"", cellproto.BadInput},
		"no JSON":                 {"ready", cellproto.BadInput},
		"too long":                {goodRecord + strings.Repeat(" ", maxRecord), cellproto.TooLarge},
		"no CID":                  {strings.Replace(goodRecord, "bafyrei", "../", 1), cellproto.BadInput},
		"CID of other things":     {strings.Replace(goodRecord, "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", 1), cellproto.BadInput},
		"name that leads outside": {strings.Replace(goodRecord, `"calculator"`, `"../x"`, 1), cellproto.BadInput},
		"no commit":               {strings.Replace(repoRecord, "0123456789abcdef", "", 1), cellproto.BadInput},
		"no repository":           {strings.Replace(repoRecord, "https://example.org/x", "", 1), cellproto.BadInput},
		"unknown state":           {strings.Replace(goodRecord, "ready", "half", 1), cellproto.BadInput},
		"used before it was made": {strings.Replace(goodRecord, "2026-01-02", "2025-01-02", 1), cellproto.BadInput},
		"no dates":                {strings.Replace(goodRecord, `"created":"2026-01-01T00:00:00Z",`, "", 1), cellproto.BadInput},
	} {
		if r, err := ParseRecord([]byte(c.text)); cellproto.KindOf(err) != c.kind || r != nil {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestReadRecord(t *testing.T) {
	dir := t.TempDir()
	if r, err := ReadRecord(dir); r != nil || err != nil {
		t.Errorf("of a cell that is no mirror: %+v, %v", r, err)
	}
	path := filepath.Join(dir, RecordFile)
	if err := os.Symlink("/dev/zero", path); err != nil {
		t.Fatal(err)
	}
	if r, err := ReadRecord(dir); r != nil || err == nil {
		t.Errorf("of a link: %+v, %v", r, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(goodRecord), 0o600); err != nil {
		t.Fatal(err)
	}
	used := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{used, used.Add(-time.Hour)} { // it never goes back
		if err := Touch(dir, at); err != nil {
			t.Fatal(err)
		}
		if r, err := ReadRecord(dir); err != nil || !r.LastUsed.Equal(used) || r.Name != "calculator" {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// What several nuclei note of a mirror at the same time is all noted.
func TestRecordIsChangedByMany(t *testing.T) {
	dir := t.TempDir()
	if err := Touch(filepath.Join(dir, "none"), time.Now()); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
	for i := range 200 {
		if err := os.WriteFile(filepath.Join(dir, RecordFile), []byte(goodRecord), 0o600); err != nil {
			t.Fatal(err)
		}
		used := time.Date(2026, 2, 1, 0, 0, i, 0, time.UTC)
		var all sync.WaitGroup
		for _, note := range []func() error{
			func() error { return Touch(dir, used) },
			func() error { return Replace(dir, "newer") },
		} {
			all.Go(func() {
				if err := note(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if r, err := ReadRecord(dir); err != nil || !r.LastUsed.Equal(used) || r.ReplacedBy != "newer" {
			t.Fatalf("the %dth time: %+v, %v", i, r, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(goodRecord))
	f.Add([]byte(`{"cid":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		again, err := r.marshal()
		if err != nil {
			t.Fatal(err)
		}
		second, err := ParseRecord(again)
		if err != nil && len(again) <= maxRecord {
			t.Fatalf("%q is read, and %q is not: %v", data, again, err)
		}
		if err == nil {
			a, _ := json.Marshal(r)
			b, _ := json.Marshal(second)
			if !bytes.Equal(a, b) {
				t.Fatalf("%s became %s", a, b)
			}
		}
	})
}
