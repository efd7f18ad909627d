package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// FoundPool makes a pool of these members, t of whom sign, of whom this account is one. The key that it
// begins with is known to nobody any more when it is there: with it the members could be replaced.
// Kinds: BadInput, Denied, Failed.
func (l *Ledger) FoundPool(now time.Time, members []Key, t int) (id Key, err error) {
	const op = "found pool"
	l.change()
	defer l.changed()
	if !slices.ContainsFunc(members, l.book.OwnKey) {
		return id, cellproto.Errorf(op, cellproto.BadInput, "this account is not among the members")
	}
	if t < 0 || t > MaxMembers {
		t = 0 // refused by the entry itself
	}
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Key) int { return bytes.Compare(a[:], b[:]) })
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return id, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	defer clear(key)
	id = Key(pub)
	nobody := Hash{} // there is no key after it
	state := &KeyState{Net: l.cfg.Net, ID: id}
	var slots []Hash
	var datas [][]byte
	for _, p := range []Payload{&Genesis{Next: nobody}, &PoolMembers{Keys: members, T: uint8(t)}} {
		e := &KeyEntry{Net: l.cfg.Net, ID: id, Seq: state.Len, Prev: state.Head, T: ms(now), Payload: p}
		if err := e.Sign(key, 0); err != nil {
			return id, err
		}
		if state, err = state.Apply(e); err != nil {
			return id, err
		}
		data, err := e.Encode()
		if err != nil {
			return id, err
		}
		slots, datas = append(slots, bodyID(e.body)), append(datas, data)
	}
	if err := l.onDisk(func(s *Store) error { return s.AppendBatch(now, slots, datas, true) }); err != nil {
		return id, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	for _, data := range datas {
		r := l.book.Ingest(ms(now), data)
		l.follow(r)
		if r.Verdict != Stored {
			return id, cellproto.Errorf(op, cellproto.Denied, "%s: %v", r.Verdict, r.Err)
		}
	}
	return id, nil
}

// Draft makes the next entry of a pool's log and signs it as this account, a member. What the account has
// signed for that place before, if it says the same, is given again. See SignDraft.
func (l *Ledger) Draft(now time.Time, pool Key, p Payload, key ed25519.PrivateKey) (e *KeyEntry, done bool, err error) {
	l.change()
	defer l.changed()
	state := l.book.State(pool)
	if state == nil {
		return nil, false, unknownPool("propose to a pool")
	}
	e = &KeyEntry{Net: l.cfg.Net, ID: pool, Seq: state.Len, Prev: state.Head, T: ms(now), Payload: p}
	if old := l.drafts[poolPlace(pool, state.Len)]; old != nil && samePayload(old.Payload, p) {
		again := *old
		e = &again
	}
	done, err = l.signDraft(now, e, key)
	return e, done, err
}

func samePayload(a, b Payload) bool {
	setType(a)
	setType(b)
	x, errX := encode(a)
	y, errY := encode(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func unknownPool(op string) error {
	return cellproto.Errorf(op, cellproto.NotFound, "the key log of this pool is not known").
		WithHint("cellctl pool join FILE, with a file of one of its members")
}

// SignDraft adds this account's signature to an entry that another member of a pool has made. When
// enough have signed, the entry is taken in, and done. Kinds: NotFound for a pool that is not known,
// Denied for who is no member, or has signed another entry for that place, BadInput for what cannot be
// the next entry, Corrupt for false signatures.
func (l *Ledger) SignDraft(now time.Time, e *KeyEntry, key ed25519.PrivateKey) (done bool, err error) {
	l.change()
	defer l.changed()
	return l.signDraft(now, e, key)
}

func (l *Ledger) signDraft(now time.Time, e *KeyEntry, key ed25519.PrivateKey) (done bool, err error) {
	const op = "sign for a pool"
	state := l.book.State(e.ID)
	if state == nil {
		return false, unknownPool(op)
	}
	me := slices.Index(state.Members, KeyOf(key))
	if me < 0 {
		return false, cellproto.Errorf(op, cellproto.Denied, "this account is not a member of the pool")
	}
	body, err := e.Body()
	if err != nil {
		return false, err
	}
	if have := l.book.Log(e.ID, e.Seq); len(have) > 0 && bodyID(have[0].body) == bodyID(body) {
		return true, nil
	}
	if err := state.fits(op, e, body); err != nil {
		return false, err
	}
	if known := l.drafts[poolPlace(e.ID, e.Seq)]; known != nil && bodyID(known.body) == bodyID(body) {
		e.addSigs(known) // others', from another copy of the file
	}
	if err := l.coSign(now, e, key, uint8(me)); err != nil {
		return false, err
	}
	if len(e.Sigs) < int(state.T) {
		return false, nil
	}
	data, err := e.Encode()
	if err != nil {
		return false, err
	}
	if r := l.ingest(now, data); r.Verdict != Stored {
		return false, cellproto.Errorf(op, cellproto.Failed, "%s: %v", r.Verdict, r.Err)
	}
	return true, nil
}

// fits says whether e can be the next entry of a pool's log once enough members have signed it, and the
// signatures that it has are of members.
func (s *KeyState) fits(op string, e *KeyEntry, body []byte) error {
	if e.Net != s.Net || e.Seq != s.Len || e.Prev != s.Head {
		return cellproto.Errorf(op, cellproto.BadInput, "it is for place %d of the pool's log, which has %d entries, or follows other ones", e.Seq, s.Len).
			WithHint("Propose it again.")
	}
	a := authority{members: s.Members, t: uint8(len(e.Sigs))}
	if err := a.check(op, e, body); err != nil {
		return err
	}
	next := *s
	if why := next.take(e.Payload, s); why != "" {
		return cellproto.Errorf(op, cellproto.BadInput, "%s", why)
	}
	return nil
}

// addSigs adds the signatures of another copy of one entry.
func (e *KeyEntry) addSigs(from *KeyEntry) {
	for _, s := range from.Sigs {
		if at, found := slices.BinarySearchFunc(e.Sigs, s.Index, func(x KeySig, i uint8) int { return int(x.Index) - int(i) }); !found {
			e.Sigs = slices.Insert(e.Sigs, at, s)
		}
	}
}

// coSign signs an entry of a pool's log as its member with this index. For one place in the log a
// member signs one entry, ever, and that is on the disk before the signature is there.
func (l *Ledger) coSign(now time.Time, e *KeyEntry, key ed25519.PrivateKey, index uint8) error {
	const op = "sign for a pool"
	id, err := e.Hash()
	if err != nil {
		return err
	}
	place := poolPlace(e.ID, e.Seq)
	if other, ok := l.signed[place]; ok && other != id {
		return cellproto.Errorf(op, cellproto.Denied, "another entry was signed for place %d of this pool's log", e.Seq).
			WithHint("Sign that one, or have the other members sign this one.")
	}
	if l.unread {
		return cellproto.Errorf(op, cellproto.Unavailable, "a part of the ledger was damaged, or cannot be read: another entry may have been signed for this place").
			WithHint("cellctl doctor names the file. If it can be read again: cellctl restart of the home cell. If the other members say that this account has signed no other proposal: remove the file before.")
	}
	l.signed[place] = id
	made := *e
	made.Sigs = slices.Clone(e.Sigs)
	if err := made.Sign(key, index); err != nil {
		return err
	}
	data, err := made.Encode()
	if err != nil {
		return err
	}
	if err := l.append(now, place, slices.Concat([]byte{draftMark}, data), true); err != nil {
		return err
	}
	e.Sigs, l.drafts[place] = made.Sigs, &made
	return nil
}

// Drafts gives the entries of a pool that this account has signed and not enough others have yet.
func (l *Ledger) Drafts(pool Key) (drafts []*KeyEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := l.book.State(pool)
	for _, e := range l.drafts {
		if state != nil && e.ID == pool && e.Seq >= state.Len {
			one := *e
			drafts = append(drafts, &one)
		}
	}
	return drafts
}

func (l *Ledger) loadDraft(data []byte) (Hash, bool) {
	e, err := DecodeKeyEntry(bytes.Clone(data))
	if err != nil {
		return Hash{}, false
	}
	place := poolPlace(e.ID, e.Seq)
	l.signed[place], l.drafts[place] = bodyID(e.body), e
	return place, true
}

func poolPlace(id Key, seq uint64) Hash {
	return bodyID(binary.BigEndian.AppendUint64(append([]byte("pool"), id[:]...), seq))
}
