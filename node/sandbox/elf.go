package sandbox

import (
	"encoding/binary"
	"io"
)

// From the ELF specification.
const (
	elfInterp    = 3  // PT_INTERP: the program is started by a dynamic linker
	elfMaxHeads  = 64 // program headers that are looked at; linkers make a dozen
	elfHead32    = 52
	elfHead64    = 64
	elfProgram32 = 32
	elfProgram64 = 56
)

// needsLinker says whether the ELF file r needs a dynamic linker, which is a file of the system. ok is
// false if r is no ELF file that it can read. The file may be a hostile one.
func needsLinker(r io.ReaderAt) (needs, ok bool) {
	head := make([]byte, elfHead64)
	n, _ := r.ReadAt(head, 0)
	if n < elfHead32 || string(head[:4]) != "\x7fELF" {
		return false, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	var offset int64
	var size, count int
	switch {
	case head[4] == 1:
		offset, size, count = int64(order.Uint32(head[28:])), int(order.Uint16(head[42:])), int(order.Uint16(head[44:]))
	case head[4] == 2 && n == elfHead64:
		offset, size, count = int64(order.Uint64(head[32:])), int(order.Uint16(head[54:])), int(order.Uint16(head[56:]))
	default:
		return false, false
	}
	if offset < elfHead32 || offset > 1<<30 || size != elfProgram32 && size != elfProgram64 || count > elfMaxHeads {
		return false, false
	}
	table := make([]byte, size*count)
	if _, err := r.ReadAt(table, offset); err != nil {
		return false, false
	}
	for i := range count {
		if order.Uint32(table[i*size:]) == elfInterp {
			return true, true
		}
	}
	return false, true
}
