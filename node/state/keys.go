package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

const (
	keysFile = "keys.db"
	// lockTimeout bounds the wait for another process that has the file: a celld that is just ending.
	lockTimeout = 2 * time.Second
	// growBy is by how much the file of the keys grows once it is as large, in bytes.
	growBy = 1 << 20
	// deleteRoom is what may be taken over the limit for deleting something, which first writes.
	deleteRoom = 1 << 20
	// closeTime bounds the closing of a damaged database, whose locks may never be let go.
	closeTime = time.Second
	// pageBytes is how many bytes of keys one list gives.
	pageBytes = 48 << 10
)

var bucket = []byte("keys")

// keys is the part of a Store that holds keys with values: a bbolt database, opened when it is needed.
type keys struct {
	s *Store

	mu   sync.RWMutex // held for reading while db is used
	db   *bolt.DB     // nil: not open
	root *os.Root     // of db

	queueMu sync.Mutex
	queue   []*write
	commit  sync.Mutex // held by who writes for all that wait
	// free is how many bytes the list of free pages has, which each commit writes as a whole: there are many after many
	// keys were deleted.
	free atomic.Int64
}

// write is a change that waits to be committed with others.
type write struct {
	change func(*bolt.Bucket) error
	grows  bool // it needs room within the limit
	done   bool // set with commit held
	err    error
}

// damage is what a damaged database has the code that reads it do.
type damage struct{ why any }

func (d *damage) Error() string { return fmt.Sprint("it cannot be read: ", d.why) }

// guard turns a panic, or a fault in memory that is mapped from a file which has become shorter, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = &damage{v}
		}
	}()
	return f()
}

func damaged(err error) bool {
	var d *damage
	return errors.As(err, &d) || errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) ||
		errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, berrors.ErrBucketNotFound)
}

// open gives the database with k.mu held for reading.
func (k *keys) open() (*bolt.DB, error) {
	for {
		k.mu.RLock()
		if k.db != nil {
			return k.db, nil
		}
		k.mu.RUnlock()
		if err := k.openFile(); err != nil {
			return nil, err
		}
	}
}

func (k *keys) openFile() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.db != nil {
		return nil
	}
	root, err := k.s.openRoot(".")
	if err != nil {
		return err
	}
	if err := removeCompact(root); err != nil {
		root.Close()
		return diskError(err)
	}
	db, err := openDB(root)
	if damaged(err) {
		if err = k.moveAside(root, err); err == nil {
			db, err = openDB(root)
		}
	}
	if err != nil {
		root.Close()
		if errors.Is(err, berrors.ErrTimeout) {
			return cellproto.Errorf("", cellproto.Unavailable, "another process has the cell's state open")
		}
		return diskError(err)
	}
	k.db, k.root = db, root
	return nil
}

// openDB opens the database, or makes it, and reads all of it once: what is damaged is found now.
func openDB(root *os.Root) (db *bolt.DB, err error) {
	err = guard(func() error {
		if db, err = bolt.Open(keysFile, fileMode, &bolt.Options{
			Timeout: lockTimeout, FreelistType: bolt.FreelistMapType,
			OpenFile: openIn(root),
		}); err != nil {
			if info, serr := root.Stat(keysFile); serr == nil && info.Size() > 0 && info.Size() < 2*int64(os.Getpagesize()) {
				return &damage{err} // bbolt has no error of its own for a file that was cut
			}
			return err
		}
		db.AllocSize = growBy
		return check(db, root)
	})
	if err != nil && db != nil {
		closeDamaged(db)
		db = nil
	}
	return db, err
}

// check walks through a database, and makes its bucket.
func check(db *bolt.DB, root *os.Root) error {
	info, err := root.Stat(keysFile)
	if err != nil {
		return err
	}
	fresh := false
	if err := db.View(func(tx *bolt.Tx) error {
		if tx.Size() > info.Size() {
			return &damage{fmt.Sprintf("it has %d bytes of %d", info.Size(), tx.Size())}
		}
		b := tx.Bucket(bucket)
		if b == nil {
			first, _ := tx.Cursor().First()
			if fresh = first == nil; !fresh {
				return &damage{"it holds something else"}
			}
			return nil
		}
		var last []byte
		return b.ForEach(func(key, value []byte) error {
			if last != nil && bytes.Compare(last, key) >= 0 || len(key) > cellproto.MaxStateKey || len(value) > cellproto.MaxStateValue {
				return &damage{"its keys are not in order"}
			}
			last = append(last[:0], key...)
			return nil
		})
	}); err != nil || !fresh {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket(bucket); return err })
}

// moveAside gives a damaged database another name, under which its owner finds it. k.mu is held.
func (k *keys) moveAside(root *os.Root, why error) error {
	name := asideName(keysFile, time.Now())
	if err := root.Rename(keysFile, name); err != nil {
		return diskError(err)
	}
	k.s.log.Error("the keys that the program keeps are damaged: they were moved aside, and the program begins without any",
		zap.String("file", Dir+"/"+name), zap.Error(why))
	return nil
}

// closeDamaged closes a database that may have left its own locks taken when it panicked. It is left open then.
func closeDamaged(db *bolt.DB) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = guard(db.Close) // there is nothing to save
	}()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
	}
}

// failed looks at an error of db: a damaged one is moved aside, after one of the disk it is opened anew, so that
// what counts is what is on the disk.
func (k *keys) failed(db *bolt.DB, err error) error {
	var known *cellproto.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, berrors.ErrMaxSizeReached) {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.db == db {
		closeDamaged(db)
		if damaged(err) {
			if merr := k.moveAside(k.root, err); merr != nil {
				k.s.log.Error("cannot move the damaged keys aside", zap.Error(merr))
			}
		}
		k.root.Close()
		k.db, k.root = nil, nil
	}
	if damaged(err) {
		return cellproto.Errorf("", cellproto.Corrupt, "the keys were damaged, and were moved aside: %w", err).
			WithHint("The nucleus's log says where they are: cellctl logs --nucleus.")
	}
	return diskError(err)
}

func (k *keys) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.db != nil {
		if err := guard(k.db.Close); err != nil {
			k.s.log.Warn("cannot close the keys", zap.Error(err))
		}
		k.root.Close()
		k.db, k.root = nil, nil
	}
}

// size gives what the keys take of the disk.
func (k *keys) size() int64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var info os.FileInfo
	var err error
	if k.root == nil { // not opened yet
		info, err = os.Lstat(k.s.path(keysFile))
	} else {
		info, err = k.root.Stat(keysFile)
	}
	if err != nil {
		return 0
	}
	return info.Size()
}

func (k *keys) view(f func(*bolt.Bucket) error) error {
	db, err := k.open()
	if err != nil {
		return err
	}
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			if b == nil {
				return berrors.ErrBucketNotFound
			}
			return f(b)
		})
	})
	k.mu.RUnlock()
	return k.failed(db, err)
}

// update commits a change, together with those that wait meanwhile: each commit waits for the disk. change
// must have checked everything before it changes anything.
func (k *keys) update(grows bool, change func(*bolt.Bucket) error) error {
	w := &write{change: change, grows: grows}
	k.queueMu.Lock()
	k.queue = append(k.queue, w)
	k.queueMu.Unlock()
	k.commit.Lock()
	defer k.commit.Unlock()
	if w.done {
		return w.err
	}
	k.queueMu.Lock()
	batch := k.queue
	k.queue = nil
	k.queueMu.Unlock()
	if k.write(batch) && len(batch) > 1 { // there is no room for all: perhaps for some
		for i := range batch {
			batch[i].err = nil
			k.write(batch[i : i+1])
		}
	}
	for _, w := range batch {
		if w.done = true; errors.Is(w.err, berrors.ErrMaxSizeReached) {
			w.err = k.s.errFull()
		}
	}
	return w.err
}

// write commits a batch, and reports whether there was no room for it; then nothing was written.
func (k *keys) write(batch []*write) (full bool) {
	k.s.quota.Lock()
	defer k.s.quota.Unlock()
	used, err := k.s.files.used() // first: opening them may take time
	var db *bolt.DB
	if err == nil {
		db, err = k.open()
	}
	if err != nil {
		fail(batch, err)
		return false
	}
	limit := k.s.cfg.Size - used
	for _, w := range batch {
		if !w.grows {
			limit = max(limit, k.s.cfg.Size-used+deleteRoom)
		}
	}
	db.MaxSize = int(min(max(limit, 1), math.MaxInt)) // which 32 bits cannot say more than
	err = guard(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			if b == nil {
				return berrors.ErrBucketNotFound
			}
			for _, w := range batch {
				w.err = w.change(b)
			}
			return nil
		})
	})
	k.free.Store(int64(db.Stats().FreelistInuse))
	k.mu.RUnlock()
	if err = k.failed(db, err); err != nil {
		fail(batch, err)
	}
	return errors.Is(err, berrors.ErrMaxSizeReached)
}

func fail(batch []*write, err error) {
	for _, w := range batch {
		if w.err == nil {
			w.err = err
		}
	}
}

// checkKey refuses what is no key.
func checkKey(key []byte) error {
	if len(key) == 0 {
		return cellproto.Errorf("", cellproto.BadInput, "no key is given")
	}
	return nil
}

func (s *Store) get(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	if err := checkKey(a.Key); err != nil {
		return nil, err
	}
	r := &cellproto.StateReply{}
	err := s.keys.view(func(b *bolt.Bucket) error {
		r.Value = copyOf(b.Get(a.Key))
		return nil
	})
	if err == nil {
		err = s.pay(ctx, len(a.Key)+len(r.Value))
	}
	return r, err
}

// copyOf gives bytes of a transaction for later; nil stays nil, and what is empty does not become nil.
func copyOf(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// change pays for a change and commits it.
func (s *Store) change(ctx context.Context, a *cellproto.StateArgs, f func(*bolt.Bucket) error) error {
	if err := checkKey(a.Key); err != nil {
		return err
	}
	if err := s.pay(ctx, max(block, len(a.Key)+len(a.Value))+int(s.keys.free.Load())); err != nil {
		return err
	}
	return s.keys.update(a.Value != nil, f)
}

func (s *Store) put(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	if a.Value == nil {
		return nil, cellproto.Errorf("", cellproto.BadInput, "no value is given for the key %s", quote(a.Key))
	}
	return &cellproto.StateReply{}, s.change(ctx, a, func(b *bolt.Bucket) error { return b.Put(a.Key, a.Value) })
}

func (s *Store) delete(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	a.Value = nil
	r := &cellproto.StateReply{}
	return r, s.change(ctx, a, func(b *bolt.Bucket) error {
		r.Removed = b.Get(a.Key) != nil
		return b.Delete(a.Key)
	})
}

func (s *Store) swap(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	r := &cellproto.StateReply{}
	err := s.change(ctx, a, func(b *bolt.Bucket) error {
		*r = cellproto.StateReply{Value: copyOf(b.Get(a.Key))}
		if (r.Value == nil) != (a.Old == nil) || !bytes.Equal(r.Value, a.Old) {
			return nil
		}
		r.Value, r.Swapped = a.Value, true
		if a.Value == nil {
			return b.Delete(a.Key)
		}
		return b.Put(a.Key, a.Value)
	})
	return r, err
}

func (s *Store) listKeys(ctx context.Context, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	r, size, most := &cellproto.StateReply{}, 0, pageLimit(a)
	err := s.keys.view(func(b *bolt.Bucket) error {
		c := b.Cursor()
		from := a.Prefix
		if bytes.Compare(a.After, from) >= 0 && a.After != nil {
			from = append(bytes.Clone(a.After), 0) // the next key there can be
		}
		for key, _ := c.Seek(from); key != nil && bytes.HasPrefix(key, a.Prefix); key, _ = c.Next() {
			if size += len(key); len(r.Keys) == most || size > pageBytes {
				r.More = true
				return nil
			}
			r.Keys = append(r.Keys, bytes.Clone(key))
		}
		return nil
	})
	if err == nil {
		err = s.pay(ctx, size)
	}
	return r, err
}

// pageLimit gives how many entries a list may have.
func pageLimit(a *cellproto.StateArgs) int {
	if a.Limit == 0 || a.Limit > cellproto.MaxStatePage {
		return cellproto.MaxStatePage
	}
	return int(a.Limit)
}
