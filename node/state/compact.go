package state

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// A database keeps the pages of what was deleted for what comes. Files cannot have them before it is written anew.

const (
	compactFile = keysFile + ".new"
	// compactPart is what has to be free for that, as a part of the file: it costs as much as what is left, and a
	// program could have it done again and again.
	compactPart = 4
	compactStep = 1 << 20 // bytes of one transaction
)

// compact gives the room back that deleted keys have left in the file. Nothing writes to it meanwhile: s.quota is held.
// Whatever goes wrong, the keys are what they were.
func (k *keys) compact() {
	if k.size() == 0 { // nothing is kept, and nothing is made of it
		return
	}
	db, err := k.open()
	if err != nil {
		return // who wants keys is told
	}
	free := int64(0)
	err = guard(func() (err error) { free, err = freeBytes(db); return err })
	k.mu.RUnlock()
	if k.failed(db, err) != nil || free < max(growBy, k.size()/compactPart) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.db != db {
		return
	}
	if err := k.rewrite(); err != nil {
		k.s.log.Warn("cannot give the room of deleted keys back", zap.Error(err))
	}
}

// freeBytes is what of a database's file holds nothing.
func freeBytes(db *bolt.DB) (bytes int64, err error) {
	page := int64(db.Info().PageSize)
	err = db.View(func(tx *bolt.Tx) error {
		for id := range int(tx.Size() / page) {
			info, err := tx.Page(id)
			if err != nil {
				return err
			}
			if info != nil && info.Type == "free" {
				bytes += page
			}
		}
		return nil
	})
	return bytes, err
}

// rewrite puts a database that has no free pages in the place of this one, which is opened when it is needed next. k.mu
// is held.
func (k *keys) rewrite() error {
	if err := removeCompact(k.root); err != nil {
		return err
	}
	err := guard(func() error {
		fresh, err := bolt.Open(compactFile, fileMode, &bolt.Options{
			Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true, NoSync: true, OpenFile: openIn(k.root),
		})
		if err != nil {
			return err
		}
		fresh.AllocSize = growBy
		if err = bolt.Compact(fresh, k.db, compactStep); err == nil {
			err = fresh.Sync()
		}
		return errors.Join(err, fresh.Close())
	})
	if err == nil {
		err = guard(k.db.Close)
	}
	if err == nil {
		err = k.root.Rename(compactFile, keysFile)
		err = errors.Join(err, syncDir(k.root), k.root.Close())
		k.db, k.root = nil, nil
		return err
	}
	return errors.Join(err, removeCompact(k.root))
}

// removeCompact removes what a process that was killed has left.
func removeCompact(root *os.Root) error {
	if err := root.Remove(compactFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// openIn has bbolt open its files in a directory, and no link out of it.
func openIn(root *os.Root) func(name string, flag int, mode os.FileMode) (*os.File, error) {
	return func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return root.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
	}
}
