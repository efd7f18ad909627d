package cellproto

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestCallTable: it holds what a map would, whatever ids a peer chooses.
func TestCallTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table callTable
		want := map[uint32]uint64{}
		ids := rapid.OneOf(rapid.Uint32Range(1, 64), rapid.Map(rapid.Uint32Range(1, 4), func(n uint32) uint32 { return n * mostSlots }), rapid.Uint32Min(1))
		for step := range rapid.IntRange(1, 300).Draw(t, "steps") {
			id := ids.Draw(t, "id")
			_, there := want[id]
			switch e := table.find(id); {
			case there != (e != nil) || there && e.end != want[id]:
				t.Fatalf("id %d: found %v, want %v", id, e, there)
			case there:
				table.remove(id)
				delete(want, id)
			default:
				table.add(id, entry{end: uint64(step)})
				want[id] = uint64(step)
			}
			if table.len() != len(want) {
				t.Fatalf("%d calls, want %d", table.len(), len(want))
			}
		}
		var all []uint64
		for _, e := range table.takeAll() {
			all = append(all, e.end)
		}
		slices.Sort(all)
		if ends := slices.Sorted(maps.Values(want)); !slices.Equal(all, ends) || table.len() != 0 {
			t.Fatalf("taken %v, want %v", all, ends)
		}
	})
}
