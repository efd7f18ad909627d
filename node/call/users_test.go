package call

import (
	"fmt"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

func TestUsersAreBoundedAndTheOldestGo(t *testing.T) {
	had := cellproto.SchemaHash{1}
	u := newUsers(func(h cellproto.SchemaHash) bool { return h == had })
	at := time.Unix(1000, 0)
	u.of(had, "first", true).last.Store(at.UnixNano())
	for i := range maxUsedSchemas + 10 { // strangers' inventions do not push out what the cell had
		u.of(cellproto.SchemaHash{2, byte(i)}, "liar", true).last.Store(at.Add(time.Hour).UnixNano())
	}
	for i := range maxUsers + 10 {
		u.of(had, fmt.Sprint("more ", i), false).last.Store(at.Add(time.Duration(i+1) * time.Second).UnixNano())
	}
	rows := u.rows(at)
	if len(rows) != maxUsedSchemas {
		t.Fatalf("%d schemas are remembered, want %d", len(rows), maxUsedSchemas)
	}
	for _, row := range rows {
		if row.Schema != had {
			continue
		}
		if len(row.Users) != maxUsers || row.Users[0].Who != fmt.Sprint("more ", maxUsers+9) {
			t.Errorf("%d callers, the last %q; want %d, and the one that called last", len(row.Users), row.Users[0].Who, maxUsers)
		}
		for _, one := range row.Users {
			if one.Who == "first" {
				t.Error("the one that has not called for the longest time is still there")
			}
		}
		return
	}
	t.Error("the schema that the cell had was forgotten")
}

func TestUsersWhoHaveNotCalledForLongDoNotCount(t *testing.T) {
	u := newUsers(nil)
	now := time.Unix(1_000_000, 0)
	u.of(cellproto.SchemaHash{1}, "gone", true).last.Store(now.Add(-2 * time.Hour).UnixNano())
	u.of(cellproto.SchemaHash{2}, "gone", true).last.Store(now.Add(-2 * time.Hour).UnixNano())
	u.of(cellproto.SchemaHash{2}, "here", false).last.Store(now.UnixNano())
	rows := u.rows(now.Add(-time.Hour))
	if len(rows) != 1 || len(rows[0].Users) != 1 || rows[0].Users[0] != (User{Who: "here", Last: now}) {
		t.Errorf("in use are %+v, want only the second schema, by the one who has called", rows)
	}
}

func TestTakeMade(t *testing.T) {
	hash := cellproto.SchemaHash{3}
	for _, tc := range []struct {
		meta map[string]string
		made string
		left int
	}{
		{nil, "", 0},
		{map[string]string{"a": "1"}, "", 1},
		{map[string]string{cellproto.MetaMadeFor: hash.String()}, string(hash[:]), 0},
		{map[string]string{cellproto.MetaMadeFor: hash.String(), "a": "1"}, string(hash[:]), 1},
		{map[string]string{cellproto.MetaMadeFor: "nonsense"}, "", 0},
	} {
		before := len(tc.meta)
		req, made := takeMade(&cellproto.Request{Header: cellproto.Header{Meta: tc.meta}})
		if made != tc.made || len(req.Header.Meta) != tc.left || len(tc.meta) != before {
			t.Errorf("%v: %x and %v", tc.meta, made, req.Header.Meta)
		}
	}
}
