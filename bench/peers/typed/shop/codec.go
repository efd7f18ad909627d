package shop

import "github.com/celldnet/celld/cellproto/wire"

// Encode and Decode are what the generated methods do with an item, for who measures that alone.
func Encode(w *wire.Writer, v *Item) { appendItem(w, v) }

// Decode reads an item.
func Decode(r *wire.Reader) (out Item) {
	parseItem(r, &out)
	return out
}
