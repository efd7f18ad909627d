package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// Which account the cells of this machine belong to, and its keys. An account is named by its first key, for ever;
// what signs for it is the key in force. Files under keys/ of the home cell, besides account.key and next.key:
const (
	accountIDFile = "account.id" // the account's peer ID, since it has another key than its first
	joinedFile    = "joined.id"  // the peer ID of the account that this computer belongs to, if its key is on another one
	thenKeyFile   = "then.key"   // that which follows next.key, from the beginning of a rotation to its end, or is the first of those
	begunFile     = "log.begun"  // a logMark, once the account's key log has an entry: another first one would be a fork
	maxIDFile     = 128          // bytes
)

// personKey gives the person's key as it is now: a rotation replaces its file. last is what it was when the
// nucleus started.
func personKey(home string, last crypto.PrivKey) func() crypto.PrivKey {
	var mu sync.Mutex
	return func() crypto.PrivKey {
		mu.Lock()
		defer mu.Unlock()
		if key, err := readKey(filepath.Join(home, "keys", accountKeyFile)); err == nil {
			last = key
		}
		return last
	}
}

// keyring is the account's keys, in the home cell's directory. A rotation is, in this order: prepare, the entry in
// the key log, install, advance. Wherever it is cut off, settle does the rest of it, as far as the log says that
// there was one.
type keyring struct {
	home   string
	joined bool // the account's key is on another computer
	id     ledger.Key

	marking sync.Mutex
	log     logMark

	mu  sync.Mutex
	key ed25519.PrivateKey // as far as is known that in force
}

// openKeyring reads the account's key, and which account it is that this machine's cells belong to.
func openKeyring(home string) (r *keyring, id ledger.Key, err error) {
	r = &keyring{home: home}
	if r.key, err = r.read(accountKeyFile); err != nil {
		return nil, id, err
	}
	r.id, r.joined, err = readID(r.path(joinedFile))
	if err != nil || r.joined {
		return r, r.id, err
	}
	id, known, err := readID(r.path(accountIDFile))
	if !known {
		id = ledger.KeyOf(r.key)
	}
	r.id, r.log = id, r.readMark(id)
	return r, id, err
}

func (r *keyring) path(name string) string { return filepath.Join(r.home, "keys", name) }

// inForce gives the key that signs for the account.
func (r *keyring) inForce() ed25519.PrivateKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.key
}

// read gives one of the keys.
func (r *keyring) read(name string) (ed25519.PrivateKey, error) {
	key, err := readKey(r.path(name))
	if err != nil {
		return nil, err
	}
	return rawKey(r.path(name), key)
}

func rawKey(path string, key crypto.PrivKey) (ed25519.PrivateKey, error) {
	raw, err := key.Raw()
	if err != nil || len(raw) != ed25519.PrivateKeySize {
		return nil, cellproto.Errorf("read "+path, cellproto.Unsupported, "it is no Ed25519 key")
	}
	return ed25519.PrivateKey(raw), nil
}

// make is read, of a key that is made if there is none.
func (r *keyring) make(name string) (ed25519.PrivateKey, error) {
	key, err := loadKey(r.home, name)
	if err != nil {
		return nil, err
	}
	return rawKey(r.path(name), key)
}

// prepare gives the key that comes into force and the one that follows it, after the account's name and that key
// are on the disk. s is the account's state.
func (r *keyring) prepare(s *ledger.KeyState) (next, then ed25519.PrivateKey, err error) {
	const op = "rotate the account's key"
	next, err = r.read(nextKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, cellproto.Errorf(op, cellproto.NotFound, "there is no %s, the key that comes next", r.path(nextKeyFile)).
			WithHint("Put it back from where you keep it, readable for you alone (mode 0600).")
	}
	if err != nil {
		return nil, nil, err
	}
	if ledger.HashKey(ledger.KeyOf(next)) != s.Next {
		return nil, nil, cellproto.Errorf(op, cellproto.Corrupt, "%s is not the key that was announced", r.path(nextKeyFile)).
			WithHint("Put that one back: no other can replace the account's key.")
	}
	if err := writeID(r.path(accountIDFile), s.ID); err != nil {
		return nil, nil, err
	}
	then, err = r.make(thenKeyFile)
	return next, then, err
}

// settle makes the files fit what the key log says. s is the account's state. Kinds: Denied if the key in force is
// not here, Unavailable if it is not known which one that is.
func (r *keyring) settle(s *ledger.KeyState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joined {
		return cellproto.Errorf("sign for the account", cellproto.Denied, "the key of this computer's account, %s, is on another one", textOf(s.ID)).
			WithHint("Do it there. cellctl wallet join self has this computer have an account of its own.")
	}
	if s.Len == 0 {
		if ledger.KeyOf(r.key) != s.ID {
			return cellproto.Errorf("sign for the account", cellproto.Unavailable, "the account's key log is not known here, and its key was replaced before").
				WithHint("Neighbours have it: wait until some are connected, or restore ledger/ of the home cell from a backup.")
		}
		return nil
	}
	if err := r.install(s); err != nil {
		return err
	}
	return r.advance(s)
}

// install has the key in force be the account's, also in its file. r.mu is held.
func (r *keyring) install(s *ledger.KeyState) error {
	if ledger.KeyOf(r.key) == s.Key {
		return nil
	}
	for _, name := range []string{accountKeyFile, nextKeyFile, thenKeyFile} {
		key, err := r.read(name)
		if err != nil || ledger.KeyOf(key) != s.Key {
			continue // none of them need be there
		}
		if name != accountKeyFile {
			if err := r.replace(name); err != nil {
				return cellproto.Errorf("replace "+r.path(accountKeyFile), cellproto.KindOf(err), "%w", err)
			}
		}
		r.key = key
		return r.sync()
	}
	return cellproto.Errorf("sign for the account", cellproto.Denied, "the account's key was replaced, and %s does not have the one in force", r.path("")).
		WithHint("Put it back as %s from where it was rotated.", r.path(accountKeyFile))
}

// replace puts another of the keys in the place of account.key, by a link: a copy could be left behind by a crash,
// and be there when that key is to be destroyed.
func (r *keyring) replace(by string) error {
	const link = accountKeyFile + ".new"
	if err := os.Remove(r.path(link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(r.path(by), r.path(link)); err != nil {
		return err
	}
	return os.Rename(r.path(link), r.path(accountKeyFile))
}

// advance has the key after that in force be next.key, where it was made. r.mu is held.
func (r *keyring) advance(s *ledger.KeyState) error {
	then, err := r.read(thenKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || ledger.HashKey(ledger.KeyOf(then)) != s.Next {
		return err // of a rotation that did not come about yet
	}
	if err := os.Rename(r.path(thenKeyFile), r.path(nextKeyFile)); err != nil {
		return cellproto.Errorf("replace "+r.path(nextKeyFile), cellproto.KindOf(err), "%w", err)
	}
	return r.sync()
}

// sync has what was done to the files be on the disk.
func (r *keyring) sync() error {
	if err := syncDir(r.path("")); err != nil {
		return cellproto.Errorf("sync "+r.path(""), cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// readID reads a file that has the peer ID of an account, if there is one.
func readID(path string) (id ledger.Key, known bool, err error) {
	op := "read " + path
	data, err := readBounded(path, maxIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err == nil {
		id, err = keyOfText(op, strings.TrimSpace(string(data)))
	}
	if err != nil {
		return id, false, cellproto.Errorf(op, cellproto.Corrupt, "%w", err).WithHint("It has the account's peer ID, and nothing else.")
	}
	return id, true, nil
}

// writeID is readID's other half: the file is there and whole, or is not.
func writeID(path string, id ledger.Key) error {
	return writeSynced(path, textOf(id)+"\n")
}

// append adds an entry to the account's key log, and tells of it. o.writing is held.
func (o *account) append(now time.Time, p ledger.Payload) error {
	signer := o.keys.inForce()
	_, err := o.a.led.AppendKey(now, p, signer)
	if s := o.state(o.id); err != nil && s.Len > 0 && s.Key != ledger.KeyOf(signer) {
		// A rotation had waited for the disk, and came first.
		if err = o.keys.settle(s); err == nil {
			_, err = o.a.led.AppendKey(now, p, o.keys.inForce())
		}
	}
	if err == nil {
		o.mark(true)
		o.a.travel.Spread(o.id)
	}
	return err
}

func (n *nucleus) ctlRotate(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	o, err := n.signer(ctx, "rotate the account's key", w)
	if err != nil {
		return nil, err
	}
	return o.rotate(ctx, time.Now(), r.URL.Query().Has("force"))
}

// rotate replaces the account's key by the one that was announced, and announces another. A
// pool that would stand still after that keeps it from it, unless with force.
func (o *account) rotate(ctx context.Context, now time.Time, force bool) (out ctl.Rotated, err error) {
	if err := o.begin(ctx, now); err != nil {
		return out, err
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	s := o.state(o.id)
	next, then, err := o.keys.prepare(s)
	if err != nil {
		return out, err
	}
	key := ledger.KeyOf(next)
	stuck, pools, err := o.bound(s.Key, key)
	if err != nil {
		return out, err
	}
	if len(stuck) > 0 && !force {
		return out, cellproto.Errorf("rotate the account's key", cellproto.Denied, "the pool %s stands still without the present key", stuck[0]).
			WithHint("First: cellctl pool members %s --replace %s=%s. Or, if that key was stolen: --force", stuck[0], textOf(s.Key), textOf(key))
	}
	_, err = o.a.led.AppendKey(now, &ledger.Rotate{Key: key, Next: ledger.HashKey(ledger.KeyOf(then))}, next)
	after := o.state(o.id)
	if err != nil && after.Key != key { // else it had waited for the disk since the last try, and was written first
		return out, err
	}
	o.mark(true)
	o.a.travel.Spread(o.id)
	if err := o.keys.settle(after); err != nil {
		return out, cellproto.Errorf("rotate the account's key", cellproto.KindOf(err), "it is rotated, but not in its file yet: %w", err).
			WithHint("The files are set right when the home cell starts, or signs something: cellctl restart %s", quote(o.home))
	}
	o.reseal(now)
	return ctl.Rotated{Account: textOf(o.id), Before: textOf(s.Key), Key: textOf(key), NextFile: o.keys.path(nextKeyFile), Pools: slices.Sorted(slices.Values(append(stuck, pools...)))}, nil
}
