package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/ledger"
)

// logMark is what is noted beside the keys of the account's key log, and so outlives the ledger. It is a text: the account's peer ID,
// then lines of "entries N", "doubt", "shown PEER" and "shown many". Old programs have written the first line alone.
type logMark struct {
	entries uint64    // that were on the disk
	doubt   bool      // fewer were found, and nobody has said since that what is here is all
	shown   []peer.ID // who has got entries of it from here
	many    bool      // so have others, or it is not known who

	filed bool  // it is so on the disk
	bad   error // why the file cannot be read: it is not replaced
}

const (
	maxMark  = 4 << 10 // bytes
	maxShown = 16      // peers; what more have seen is known to who looks for them
)

// readMark reads the mark of an account. One that cannot be read says that there was a log; so does next.key without one: old programs
// have made it just before, and left no mark.
func (r *keyring) readMark(id ledger.Key) logMark {
	data, err := readBounded(r.path(begunFile), maxMark)
	if err == nil {
		of, m, perr := parseMark(string(data))
		if perr == nil && of == id {
			return m
		}
		err = perr
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return logMark{entries: 1, many: true, bad: cellproto.Errorf("read "+r.path(begunFile), cellproto.Corrupt, "%w", err)}
	}
	if _, err := os.Lstat(r.path(nextKeyFile)); err == nil {
		return logMark{entries: 1, many: true}
	}
	return logMark{}
}

func parseMark(text string) (id ledger.Key, m logMark, err error) {
	const op = "read mark"
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if id, err = keyOfText(op, strings.TrimSpace(lines[0])); err != nil {
		return id, m, err
	}
	m = logMark{entries: 1, many: len(lines) == 1, filed: true}
	for _, line := range lines[1:] {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "doubt":
			m.doubt = true
		case line == "shown many":
			m.many = true
		case word == "entries":
			m.entries, err = strconv.ParseUint(rest, 10, 63)
		case word == "shown":
			var p peer.ID
			p, err = peer.Decode(rest)
			m.shown = append(m.shown, p)
		default:
			err = fmt.Errorf("the line %.80q", line)
		}
		if err != nil {
			return id, m, cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
		}
	}
	return id, m, nil
}

func (m *logMark) text(id ledger.Key) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nentries %d\n", textOf(id), m.entries)
	if m.doubt {
		b.WriteString("doubt\n")
	}
	for _, p := range m.shown {
		fmt.Fprintf(&b, "shown %s\n", p)
	}
	if m.many {
		b.WriteString("shown many\n")
	}
	return b.String()
}

// marked gives the mark as it is now.
func (r *keyring) marked() logMark {
	r.marking.Lock()
	defer r.marking.Unlock()
	m := r.log
	m.shown = slices.Clone(m.shown)
	return m
}

// change has change change the mark, and writes it. What cannot be written is so in this life of the nucleus, and is written with
// the next change.
func (r *keyring) change(change func(*logMark) bool) error {
	r.marking.Lock()
	defer r.marking.Unlock()
	if r.joined {
		return nil
	}
	if !change(&r.log) && (r.log.filed || r.log.entries == 0) {
		return nil
	}
	if r.log.bad != nil {
		return r.log.bad
	}
	r.log.filed = false
	err := writeSynced(r.path(begunFile), r.log.text(r.id))
	r.log.filed = err == nil
	return err
}

// writeSynced writes a file of the owner's: it is there and whole, or is as before.
func writeSynced(path, text string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = renameio.WriteFile(path, []byte(text), 0o600)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// begun says whether the account's key log was begun here before.
func (r *keyring) begun() bool { return r.marked().entries > 0 }

// mark notes how long the key log is. s is the account's state. fresh says that its first entry was made in this life of the nucleus,
// so that it is known who was shown it.
func (r *keyring) mark(s *ledger.KeyState, fresh bool) error {
	if s.Len == 0 {
		return nil
	}
	return r.change(func(m *logMark) bool {
		if m.entries == 0 {
			m.many = !fresh
		}
		grown := s.Len > m.entries
		m.entries = max(m.entries, s.Len)
		return grown
	})
}

// suspect notes that entries of the key log are missing: what comes back of it may be a part.
func (r *keyring) suspect(s *ledger.KeyState) error {
	return r.change(func(m *logMark) bool {
		missing := s.Len < m.entries && !m.doubt
		m.doubt = m.doubt || missing
		return missing
	})
}

// resolve notes that the log, as it is here, is all that there is.
func (r *keyring) resolve(s *ledger.KeyState) error {
	return r.change(func(m *logMark) bool {
		m.doubt, m.entries = false, s.Len
		return true
	})
}

// showed notes who gets entries of the log. Who does while some are missing gets what others had before.
func (r *keyring) showed(p peer.ID) error {
	return r.change(func(m *logMark) bool {
		switch {
		case m.many || m.entries == 0 || m.doubt || slices.Contains(m.shown, p):
			return false
		case len(m.shown) >= maxShown:
			m.shown, m.many = nil, true
		default:
			m.shown = append(m.shown, p)
		}
		return true
	})
}
