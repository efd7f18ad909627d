package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
)

// Delegation is what a key log says of one host.
type Delegation struct {
	Cell     string
	NotAfter uint64 // ms since 1970
	Revoked  bool
	Epoch    uint32 // the lowest of its registers that it still writes, after Heal
}

// KeyState is an identity after some entries of its log. The zero value with Net and ID is that before
// the first.
type KeyState struct {
	Net     Net
	ID      Key
	Len     uint64 // entries
	Head    Hash   // body of the last
	Key     Key    // in force; of no use for a pool
	Next    Hash   // of the key after it
	Hosts   map[Key]Delegation
	Members []Key // of a pool; nil for a person
	T       uint8 // how many of them sign
	Runner  RunnerBudget

	links, linkBytes int // of the entries that have changed who signs: each proof of a fork has them all
}

// Apply gives the state after e; s stays as it was. Kinds: Corrupt for a signature that is false or not
// of those who may sign, BadInput for what does not follow from s.
func (s *KeyState) Apply(e *KeyEntry) (*KeyState, error) {
	const op = "apply key entry"
	if e.Net != s.Net || e.ID != s.ID || e.Seq != s.Len || e.Prev != s.Head {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "it is not the next entry of this log")
	}
	body, err := e.Body()
	if err != nil {
		return nil, err
	}
	if err := s.authorised(op, e, body); err != nil {
		return nil, err
	}
	next := *s
	next.Len, next.Head = s.Len+1, bodyID(body)
	if why := next.take(e.Payload, s); why != "" {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%s", why)
	}
	if new(authority).follow(e.Payload) {
		next.links++
		next.linkBytes += len(body) + entryHead + keySigSize*max(1, len(s.Members))
	}
	if !next.provable() {
		return nil, cellproto.Errorf(op, cellproto.Denied, "its keys, or its members, have changed as often as a proof of a fork has room for").
			WithHint("They stay as they are from now on. What was given and taken stays too; a new account or pool begins anew.")
	}
	return &next, nil
}

// Sizes in a proof, in bytes: what an entry has besides its body and signatures, a signature, and the most that a
// body has.
const (
	entryHead  = 5
	keySigSize = 68
	maxKeyBody = 440
)

// provable says whether two entries for the next place would fit into a proof: what cannot be proven has no ban.
func (s *KeyState) provable() bool {
	const head = 8
	entry := entryHead + min(maxKeyBody+keySigSize*max(1, len(s.Members)), cellproto.MaxLedgerEntry)
	return s.links <= maxChain && head+s.linkBytes+2*entry <= MaxProof
}

// authorised checks that those sign who may: the key in force, the key that a rotation brings, or enough
// members of a pool.
func (s *KeyState) authorised(op string, e *KeyEntry, body []byte) error {
	a := authority{key: s.Key, next: s.Next, members: s.Members, t: s.T}
	if s.Len == 0 {
		a.key = s.ID
	}
	return a.check(op, e, body)
}

// take changes s by a payload; before is the state without it. What it replaces it copies first.
func (s *KeyState) take(p Payload, before *KeyState) (why string) {
	switch p := p.(type) {
	case *Genesis:
		s.Key, s.Next = s.ID, p.Next
	case *Rotate:
		s.Key, s.Next = p.Key, p.Next // authorised has compared the hash
	case *Delegate:
		if !p.Consented(s.Net, s.ID) {
			return "the host has not agreed"
		}
		d := s.Hosts[p.Host]
		if d.Revoked {
			return "a host that was revoked does not come back: it needs a new key"
		}
		if _, known := s.Hosts[p.Host]; !known && len(s.Hosts) >= maxHosts {
			return "an account has at most 256 hosts"
		}
		s.setHost(p.Host, Delegation{Cell: p.Cell, NotAfter: p.NotAfter, Epoch: d.Epoch})
	case *Revoke:
		d, ok := s.Hosts[p.Host]
		if !ok {
			return "the host was never one of the account's"
		}
		d.Revoked = true
		s.setHost(p.Host, d)
	case *PoolMembers:
		s.Members, s.T = p.Keys, p.T
	case *RunnerBudget:
		if len(s.Members) == 0 {
			return "only a pool has a runner"
		}
		s.Runner = *p
	case *Checkpoint:
		if p.State != before.Digest() {
			return "the checkpoint is of another state"
		}
	case *Heal:
		d, ok := s.Hosts[p.Host]
		if !ok || p.Epoch <= d.Epoch {
			return "epochs only grow, and only of the account's hosts"
		}
		d.Epoch = p.Epoch
		s.setHost(p.Host, d)
	}
	return ""
}

// maxHosts bounds what one identity can make everybody remember.
const maxHosts = 256

func (s *KeyState) setHost(host Key, d Delegation) {
	hosts := maps.Clone(s.Hosts)
	if hosts == nil {
		hosts = map[Key]Delegation{}
	}
	hosts[host] = d
	s.Hosts = hosts
}

// Digest is a hash over the state (Checkpoint.State).
func (s *KeyState) Digest() Hash {
	type host struct {
		_    struct{} `cbor:",toarray"`
		Host Key
		D    []any
	}
	hosts := make([]host, 0, len(s.Hosts))
	for _, k := range slices.SortedFunc(maps.Keys(s.Hosts), func(a, b Key) int { return bytes.Compare(a[:], b[:]) }) {
		d := s.Hosts[k]
		hosts = append(hosts, host{Host: k, D: []any{d.Cell, d.NotAfter, d.Revoked, d.Epoch}})
	}
	b, err := encode([]any{s.Net, s.ID, s.Len, s.Head, s.Key, s.Next, hosts, s.Members, s.T, s.Runner.Runner, s.Runner.Budget, s.Runner.NotAfter})
	if err != nil {
		return Hash{} // not for these types
	}
	return sha256.Sum256(b)
}

// active says whether what a host signs now counts for the account. At the time 0, when an export is checked,
// it is not known whether it was signed before the delegation ended, and it does.
func (d Delegation) active(nowMS uint64) bool { return nowMS == 0 || !d.Revoked && nowMS <= d.NotAfter }

// authority is who may sign the next entry of a log.
type authority struct {
	key     Key
	next    Hash
	members []Key
	t       uint8
}

func (a *authority) check(op string, e *KeyEntry, body []byte) error {
	refuse := func(why string) error { return cellproto.Errorf(op, cellproto.Corrupt, "%s", why) }
	if len(a.members) > 0 {
		if _, ok := e.Payload.(*Rotate); ok {
			return refuse("a pool changes its members, it has no key to rotate")
		}
		if len(e.Sigs) < int(a.t) {
			return refuse("too few members have signed")
		}
		for _, s := range e.Sigs {
			if int(s.Index) >= len(a.members) || !Verify(a.members[s.Index], RoleKey, body, s.Sig) {
				return badSignature(op, RoleKey)
			}
		}
		return nil
	}
	key := a.key
	if r, ok := e.Payload.(*Rotate); ok {
		if HashKey(r.Key) != a.next {
			return refuse("the new key is not the one that was announced")
		}
		key = r.Key
	}
	if len(e.Sigs) != 1 || e.Sigs[0].Index != 0 || !Verify(key, RoleKey, body, e.Sigs[0].Sig) {
		return badSignature(op, RoleKey)
	}
	return nil
}

// follow changes a by an entry that it has authorised, and reports whether there was anything to change.
func (a *authority) follow(p Payload) bool {
	switch p := p.(type) {
	case *Genesis:
		a.next = p.Next
	case *Rotate:
		a.key, a.next = p.Key, p.Next
	case *PoolMembers:
		a.members, a.t = p.Keys, p.T
	default:
		return false
	}
	return true
}

// maxLog is how many entries of one identity are kept.
const maxLog = 4096

// keyLog is the log of one identity, as far as it is known.
type keyLog struct {
	state   *KeyState
	entries []*KeyEntry
}

func (l *keyLog) hash(seq uint64) Hash {
	if seq+1 < uint64(len(l.entries)) {
		return l.entries[seq+1].Prev
	}
	return l.state.Head
}

// chain gives the entries before seq that say who may sign it.
func (l *keyLog) chain(seq uint64) (chain []*KeyEntry, a authority) {
	a.key = l.state.ID
	for _, e := range l.entries[:seq] {
		if a.follow(e.Payload) {
			chain = append(chain, e)
		}
	}
	return chain, a
}

// KeyEntries reads a sequence of key entries (RFC 8742), of which nothing is checked but the form. Kind:
// BadInput.
func KeyEntries(r io.Reader) (list []*KeyEntry, err error) {
	const op = "read key log"
	dec := decMode.NewDecoder(io.LimitReader(r, maxExport))
	for {
		var raw cbor.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "entry %d: %w", len(list)+1, err)
		}
		e, err := DecodeKeyEntry(raw)
		if err != nil {
			return nil, cellproto.Errorf(op, cellproto.BadInput, "entry %d: %w", len(list)+1, err)
		}
		list = append(list, e)
	}
}

// Follow gives the state of a key log after entries, of which the last may lack signatures: then it is that before
// it. Kinds: those of KeyState.Apply.
func Follow(net Net, list []*KeyEntry) (*KeyState, error) {
	const op = "follow key log"
	if len(list) == 0 {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "it is empty")
	}
	s := &KeyState{Net: net, ID: list[0].ID}
	if list[0].Net != net {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "it is of another network")
	}
	for i, e := range list {
		next, err := s.Apply(e)
		draft := i > 0 && i == len(list)-1 && len(s.Members) > 0 && len(e.Sigs) < int(s.T)
		switch {
		case err == nil:
			s = next
		case draft && e.ID == s.ID && e.Seq == s.Len && e.Prev == s.Head:
		default:
			return nil, cellproto.Errorf(op, cellproto.KindOf(err), "entry %d: %w", i+1, err)
		}
	}
	return s, nil
}
