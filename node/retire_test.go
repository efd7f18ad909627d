package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/mirror"
	"github.com/celldnet/celld/node/call"
)

// A mirror retires when a newer version serves and nobody has called it for a while: not before, not beneath a
// call, and not at all as long as it is the newest.
func TestRetire(t *testing.T) {
	dir, start := t.TempDir(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	record := mirror.Record{
		CID: "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", Name: "x", State: mirror.StateReady, Created: start, LastUsed: start,
	}
	data, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, mirror.RecordFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	load := call.Load{LastEnded: start}
	var users []call.Used
	r := retiree{dir, func() call.Load { return load }, func() []call.Used { return users }}
	look := func(after time.Duration, want bool, wantAgain time.Duration) {
		t.Helper()
		got, again, err := r.look(start.Add(after))
		if err != nil || got != want || again != wantAgain {
			t.Errorf("after %v: %v, again after %v, %v; want %v and %v", after, got, again, err, want, wantAgain)
		}
	}
	look(mirror.RetireIdle*100, false, retireEvery)
	if err := mirror.Replace(dir, "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"); err != nil {
		t.Fatal(err)
	}
	look(mirror.RetireIdle-5*time.Second, false, 5*time.Second)
	load.LastEnded = start.Add(time.Minute)
	look(mirror.RetireIdle, false, retireEvery)
	load.InFlight = 1
	look(mirror.RetireIdle*2, false, retireEvery)
	load.InFlight = 0
	look(mirror.RetireIdle+time.Minute, true, 0)
	// Who calls rarely, and was made for what the newer version does not serve any more, keeps it.
	old, served := cellproto.SchemaHash{1}, cellproto.SchemaHash{2}
	users = []call.Used{{Schema: served, Users: []call.User{{Who: "a", Says: true}}}, {Schema: old, Users: []call.User{{Who: "b"}, {Who: "c", Says: true}}}}
	look(mirror.RetireIdle+time.Minute, true, 0) // what it serves is not known
	const by = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	if err := mirror.Replace(dir, by, served); err != nil {
		t.Fatal(err)
	}
	look(mirror.RetireIdle*20, false, retireEvery)
	users[1].Users = users[1].Users[:1] // who says nothing takes what there is
	look(mirror.RetireIdle*20, true, 0)
	users[1].Users[0].Says = true
	if err := mirror.Replace(dir, by, served, old); err != nil {
		t.Fatal(err)
	}
	look(mirror.RetireIdle*20, true, 0)
	// A newer copy is told of itself only.
	if r, err := mirror.ReadRecord(dir); err != nil || r.ReplacedBy == "" || !r.LastUsed.Equal(start) {
		t.Errorf("%+v: %v", r, err)
	}
	if err := os.Remove(filepath.Join(dir, mirror.RecordFile)); err != nil {
		t.Fatal(err)
	}
	look(mirror.RetireIdle*2, false, retireEvery)
}
