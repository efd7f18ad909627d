package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"sync"
)

const (
	segmentExt   = ".seg"
	badExt       = ".bad" // behind that: its bytes have changed, and what was good in it is elsewhere
	segmentMagic = "cellseg1"
	segmentSize  = 1 << 20
	recordHead   = 6 // CRC32C u32 over the rest, length u16, big-endian
	maxRecord    = MaxProof
)

// castagnoli is made when a record is read or written: every command of cellctl links this package.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// segment is one file of the log.
type segment struct {
	num  uint64
	file File
	size int64 // bytes, magic included
	live int64 // bytes of records that nothing has replaced
	bad  bool  // some of its bytes are not what was written
}

func segmentName(num uint64) string { return fmt.Sprintf("%012d%s", num, segmentExt) }

func segmentNum(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentExt)
	num, err := strconv.ParseUint(digits, 10, 63)
	return num, ok && err == nil && segmentName(num) == name
}

// appendRecord adds a record's bytes to buf.
func appendRecord(buf, data []byte) []byte {
	at := len(buf)
	buf = append(buf, 0, 0, 0, 0)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(data)))
	buf = append(buf, data...)
	binary.BigEndian.PutUint32(buf[at:], crc32.Checksum(buf[at+4:], castagnoli()))
	return buf
}

// recordAt gives the record at the start of b, a part of b, or nil.
func recordAt(b []byte) []byte {
	if len(b) < recordHead {
		return nil
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n == 0 || n > maxRecord || len(b) < recordHead+n ||
		crc32.Checksum(b[4:recordHead+n], castagnoli()) != binary.BigEndian.Uint32(b) {
		return nil
	}
	return b[recordHead : recordHead+n]
}

// scan calls f for each good record of a segment and gives where the first bad byte is, or its end.
// Behind a bad one it looks for the next that is good, which f is told: an attacker may have put what
// looks like a record into an entry.
func scan(b []byte, f func(at int, data []byte, suspect bool)) (good int, whole bool) {
	good, whole = len(b), true
	if len(b) < len(segmentMagic) || string(b[:len(segmentMagic)]) != segmentMagic {
		good, whole = 0, false
	}
	for at := len(segmentMagic); at < len(b); {
		data := recordAt(b[at:])
		if data == nil {
			if whole {
				good, whole = at, false
			}
			at++
			continue
		}
		f(at, data, !whole)
		at += recordHead + len(data)
	}
	return good, whole
}

// maxSegment is how many bytes of one file are read: none that this program writes is longer.
const maxSegment = segmentSize + recordHead + maxRecord

func readAll(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, maxSegment))
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}
