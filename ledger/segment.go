package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
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
	safe int64 // of these, the first that are on the disk
	live int64 // bytes of records that nothing has replaced
	bad  bool  // some of its bytes are not what was written
	torn bool  // its end is not known, or half a record that could not be cut off
}

// sync puts the segment on the disk. After a failure the kernel may have forgotten what it had to write, and says nothing the next time: what the
// disk has of the end is never known.
func (seg *segment) sync() error {
	err := seg.file.Sync()
	if seg.torn = seg.torn || err != nil; !seg.torn {
		seg.safe = seg.size
	}
	return err
}

func segmentName(num uint64) string { return fmt.Sprintf("%012d%s", num, segmentExt) }

// PutAside gives what damaged segments are called once they are put aside.
func PutAside(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = name + badExt
	}
	return list
}

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

// condition is how the bytes of a segment are.
type condition uint8

const (
	whole   condition = iota
	torn              // the last record is half written, as a crash leaves it, if nothing was written behind this segment
	changed           // a record is not as it was written
)

// finding is how a record was found.
type finding uint8

const (
	inOrder   finding = iota // all before it in its segment is good
	behindBad                // it was found behind a changed one: an attacker may have made it
	byBytes                  // and so near behind that it may be a part of it: where that ends is not known
)

// scan calls f for each good record of a segment and gives where the first bad byte is, or its end. last is for that behind which nothing was
// written: only its end can be torn, and is not looked into then. Behind a changed one it looks for the next that is good, which f is told: an
// attacker may have put what looks like a record into an entry. So it looks into a record only if it finds no other way to its end.
func scan(b []byte, last bool, f func(at int, data []byte, by finding)) (good int, how condition) {
	good = len(b)
	bad := func(at int, as condition) {
		if how == whole {
			good, how = at, as
		}
	}
	if !bytes.HasPrefix(b, []byte(segmentMagic)) {
		bad(0, changed)
	}
	begins, tries := true, maxTries // at is where a record begins
	within := 0                     // what begins before that may be a part of a changed record
	var runs []bool
	for at := len(segmentMagic); at < len(b); {
		data := recordAt(b[at:])
		if data != nil {
			switch {
			case how == whole:
				f(at, data, inOrder)
			case at < within:
				f(at, data, byBytes)
			default:
				f(at, data, behindBad)
			}
			begins = true
			at += recordHead + len(data)
			continue
		}
		if !begins {
			at++
			continue
		}
		if runs == nil {
			runs = runsToEnd(b, at)
		}
		size := followed(b, at)
		if size == 0 && tries > 0 {
			tries--
			size = otherSize(b[at:], runs[at:])
		}
		if size == 0 && last && how == whole && tornAt(b, at) && !slices.Contains(runs[at:len(b)], true) {
			bad(at, torn)
			break
		}
		bad(at, changed)
		if size == 0 && declared(b, at) == len(b) {
			size = len(b) - at
		}
		if begins = size > 0; !begins {
			within = at + recordHead + maxRecord
		}
		at += max(size, 1)
	}
	return good, how
}

// runsToEnd says of each place of b behind one, and of its end, whether good records run from there to just that end. What a crash has cut off is
// where a peer did not know, so it is not likely to have made them; and what it tries costs about as much as to look for records byte by byte.
func runsToEnd(b []byte, from int) []bool {
	runs := make([]bool, len(b)+1)
	runs[len(b)] = true
	for at := len(b) - 1; at > from; at-- {
		if end := declared(b, at); end <= len(b) && runs[end] {
			runs[at] = recordAt(b[at:]) != nil
		}
	}
	return runs
}

// maxTries bounds how often otherSize is asked of one segment: each costs as much as to read several MiB.
const maxTries = 16

// followed gives how many bytes the changed record at a place of b has by what it says, if another one begins behind it, or 0.
func followed(b []byte, at int) int {
	if end := declared(b, at); end < len(b) && recordAt(b[end:]) != nil {
		return end - at
	}
	return 0
}

// otherSize gives how many bytes the record at the start of b has if only what it says of its length has changed: its checksum is right with
// another one, and behind that b ends or runs says that it has good ones only. Else it gives 0.
func otherSize(b []byte, runs []bool) int {
	var length [2]byte
	for n := 1; n <= min(maxRecord, len(b)-recordHead); n++ {
		if !runs[recordHead+n] {
			continue
		}
		binary.BigEndian.PutUint16(length[:], uint16(n))
		sum := crc32.Update(crc32.Checksum(length[:], castagnoli()), castagnoli(), b[recordHead:recordHead+n])
		if sum == binary.BigEndian.Uint32(b) {
			return recordHead + n
		}
	}
	return 0
}

// declared gives where the record at a place of b ends by what it says of its length: behind the end of b if even that is missing.
func declared(b []byte, at int) int {
	if len(b)-at < recordHead {
		return len(b) + 1
	}
	return at + recordHead + int(binary.BigEndian.Uint16(b[at+4:]))
}

// sector is how much of a file a disk writes as one, in bytes.
const sector = 512

// tornAt says whether the bad record at a place of b can be what a crash has left of one: its end is missing, or its last sectors, which are
// zeros then, and all behind them too.
func tornAt(b []byte, at int) bool {
	end := declared(b, at)
	if end > len(b) && end <= at+recordHead+maxRecord {
		return true
	}
	zeros := len(bytes.TrimRight(b, "\x00"))
	return zeros <= at || (zeros+sector-1)/sector*sector < min(end, len(b))
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
