package ledger

import (
	"bytes"

	"github.com/celldnet/celld/cellproto"
)

// entriesPerLog is how many entries a log has on average, if there is no room for more.
const entriesPerLog = 4

// ingestKey takes one entry of a key log: the next of a log that is known, or one that conflicts with
// it, which makes a proof. The log of a banned identity is followed too: its hosts are banned with it.
func (b *Book) ingestKey(data []byte) Result {
	const op = "take key entry"
	e, err := DecodeKeyEntry(data)
	if err != nil {
		return refused(err)
	}
	if e.Net != b.cfg.Net {
		return Result{Verdict: Foreign}
	}
	r := b.ingestEntry(op, e, data)
	r.ID = e.ID
	return r
}

func (b *Book) ingestEntry(op string, e *KeyEntry, data []byte) Result {
	l := b.logs[e.ID]
	if l != nil && e.Seq < l.state.Len && bodyID(e.body) == l.hash(e.Seq) {
		return Result{Verdict: Stale}
	}
	own := e.ID == b.cfg.Account
	full := !own && (l == nil && len(b.logs) >= b.cfg.MaxLogs || b.others >= entriesPerLog*b.cfg.MaxLogs)
	if l == nil {
		l = &keyLog{state: &KeyState{Net: e.Net, ID: e.ID}}
	}
	switch {
	case e.Seq > l.state.Len || e.Seq > 0 && e.Prev != l.hash(e.Seq-1):
		// Where two branches part they have one entry before them: only there a proof can be made.
		return Result{Verdict: Missing, Err: cellproto.Errorf(op, cellproto.NotFound, "entry %d of this log, or the one before, is not known", e.Seq)}
	case e.Seq < l.state.Len:
		return b.conflict(l, e)
	case len(l.entries) >= maxLog:
		return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.TooLarge, "a log of %d entries", len(l.entries))}
	}
	next, err := l.state.Apply(e)
	if err != nil {
		return refused(err)
	}
	var gone []Hash
	if full {
		if gone = b.makeRoom(e.ID); gone == nil {
			return Result{Verdict: Beyond, Err: cellproto.Errorf(op, cellproto.Overloaded, "there is no room for more of a key log")}
		}
	}
	l.state, l.entries = next, append(l.entries, e)
	b.logs[e.ID] = l
	if !own {
		b.others++
	}
	r := Result{Verdict: Stored, Slot: bodyID(e.body), Record: data, Durable: own, Lost: own, Gone: gone}
	switch p := e.Payload.(type) {
	case *Delegate:
		if b.claimHost(p, e.ID) {
			r.Host, r.Account = p.Host, e.ID
		}
	case *Revoke:
		if other, ok := b.owner[p.Host]; ok && !b.logs[other].state.Hosts[p.Host].Revoked {
			b.owner[p.Host] = e.ID
		}
	}
	return r
}

// makeRoom forgets a key log of whose identity nothing else is known, and gives the slots of its entries: anybody can
// begin logs, and those that are known for their work want room. A look at a few has to find one, other than keep.
func (b *Book) makeRoom(keep Key) (gone []Hash) {
	const few = 64
	looked := 0
	for id, l := range b.logs {
		if looked++; looked > few {
			break
		}
		given, taken := b.Balance(id)
		if id == keep || given > 0 || taken > 0 || b.bans[id] != nil || b.Concerns(id) {
			continue
		}
		for host := range l.state.Hosts {
			if b.owner[host] == id {
				delete(b.owner, host)
			}
		}
		for _, e := range l.entries {
			gone = append(gone, bodyID(e.body))
		}
		b.others -= len(l.entries)
		delete(b.logs, id)
		break
	}
	return gone
}

// claimHost makes a host an account's. When it has agreed to two, the longer delegation counts, so
// that all see it alike; but one that an account has revoked stays that one's, and revoked: whoever has stolen its
// key can agree to what he likes.
func (b *Book) claimHost(d *Delegate, id Key) bool {
	if other, ok := b.owner[d.Host]; ok && other != id {
		held := b.logs[other].state.Hosts[d.Host]
		if held.Revoked || held.NotAfter > d.NotAfter || held.NotAfter == d.NotAfter && bytes.Compare(other[:], id[:]) < 0 {
			return false
		}
	}
	b.owner[d.Host] = id
	return true
}

// conflict makes a proof out of an entry that stands where another one does.
func (b *Book) conflict(l *keyLog, e *KeyEntry) Result {
	chain, _ := l.chain(e.Seq)
	p := &ForkProof{Chain: chain, A: l.entries[e.Seq], B: e}
	if bytes.Compare(p.A.body, p.B.body) > 0 {
		p.A, p.B = p.B, p.A // whoever finds it makes the same proof
	}
	return b.ban(p)
}

// IngestProof takes a fork proof that somebody has sent. It is checked here and now: nobody is banned
// on hearsay. Stale means that the ban stands already, so that each host passes a proof on once.
func (b *Book) IngestProof(data []byte) Result {
	p, err := DecodeProof(data)
	if err != nil {
		return refused(err)
	}
	id := p.ID()
	stranger := b.logs[id] == nil && b.given[id] == 0 && b.taken[id] == 0
	switch {
	case p.A.Net != b.cfg.Net:
		return Result{Verdict: Foreign}
	case stranger && b.bans[id] == nil && b.outcasts >= max(b.cfg.MaxLogs/outcastPart, 1):
		return Result{Verdict: Beyond, Err: cellproto.Errorf("take fork proof", cellproto.Overloaded, "there is no room for more proofs against identities that nothing is known of")}
	}
	r := b.ban(p)
	if stranger && r.Verdict == Forked {
		b.outcasts++
	}
	return r
}

// outcastPart is which part of the room for key logs there is for proofs against identities that nothing else is known
// of: anybody can make those up, and prove that they have forked.
const outcastPart = 10

func (b *Book) ban(p *ForkProof) Result {
	if b.bans[p.ID()] != nil {
		return Result{Verdict: Stale}
	}
	if err := p.Verify(); err != nil {
		return refused(err)
	}
	data, err := p.Encode()
	if err != nil {
		return refused(err)
	}
	b.bans[p.ID()] = p
	id := p.ID()
	return Result{Verdict: Forked, Slot: bodyID(append([]byte("ban"), id[:]...)), Record: data, Proof: p}
}

// Banned says whether the log of this account or pool, or of the account that has this host, has forked.
func (b *Book) Banned(k Key) bool { return b.bans[k] != nil || b.bannedHost(k) }

func (b *Book) bannedHost(host Key) bool { return len(b.bans) > 0 && b.bans[b.Owner(host)] != nil }

// Owner gives the account that a host belongs to, else k itself.
func (b *Book) Owner(k Key) Key {
	if id, ok := b.owner[k]; ok {
		return id
	}
	return k
}

func (b *Book) delegation(host Key) (Delegation, bool) {
	id, ok := b.owner[host]
	if !ok {
		return Delegation{}, false
	}
	d, ok := b.logs[id].state.Hosts[host]
	return d, ok
}

// State gives the state of an identity's key log, which must not be changed, or nil.
func (b *Book) State(id Key) *KeyState {
	if l := b.logs[id]; l != nil {
		return l.state
	}
	return nil
}

// Log gives the entries of a key log from one on, for who has fewer.
func (b *Book) Log(id Key, from uint64) []*KeyEntry {
	l := b.logs[id]
	if l == nil || from >= uint64(len(l.entries)) {
		return nil
	}
	return l.entries[from:len(l.entries):len(l.entries)]
}

// Proof gives the proof by which an identity is banned, or nil.
func (b *Book) Proof(id Key) *ForkProof { return b.bans[id] }

// Register gives what is known of a register.
func (b *Book) Register(k RegKey) (Register, bool) {
	r, ok := b.regs[k]
	return r, ok
}

// Registers calls f for each register until f gives false, in no order.
func (b *Book) Registers(f func(RegKey, Register) bool) {
	for k, r := range b.regs {
		if !f(k, r) {
			return
		}
	}
}

// Balance gives what is known of what an account or pool, with all its hosts, has given and taken, by
// the word of who took. Both only grow, until a host becomes
// another account's. What its hosts did for each other counts on both sides.
func (b *Book) Balance(id Key) (given, taken uint64) {
	given, taken = b.given[id], b.taken[id]
	if s := b.State(id); s != nil {
		for host := range s.Hosts {
			if b.Owner(host) == id && host != id {
				given, taken = add(given, b.given[host]), add(taken, b.taken[host])
			}
		}
	}
	return given, taken
}

// Alone gives what is known of what one key has given and taken, without the account that it may belong to.
func (b *Book) Alone(k Key) (given, taken uint64) { return b.given[k], b.taken[k] }

// Served gives what this host has done for a caller, over all hosts of its account: what was signed
// for, and what was not.
func (b *Book) Served(caller Key) (acknowledged, unsigned uint64) {
	id := b.Owner(caller)
	hosts := []Key{id}
	if s := b.State(id); s != nil {
		for host := range s.Hosts {
			if host != id && b.Owner(host) == id {
				hosts = append(hosts, host)
			}
		}
	}
	for _, h := range hosts {
		s := b.served[h]
		acknowledged = add(acknowledged, s.acked)
		unsigned = add(unsigned, s.claimed-s.acked)
	}
	return acknowledged, unsigned
}
