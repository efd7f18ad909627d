package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/ledger"
)

// Pools of the account, in the nucleus of the home cell. What a pool is its key log says; here are the names
// that its owner calls them by, and the file that members hand to each other: the entries of the log, and behind
// them one that not enough have signed yet.

const (
	poolsFile    = "pools.json" // under data/ of the home cell
	maxPoolsFile = 1 << 20      // bytes
	maxPools     = 256
	maxPoolName  = 63
)

// poolNames is what the owner calls pools.
type poolNames struct {
	path string
	mu   sync.Mutex
}

// read gives names by peer ID.
func (p *poolNames) read() (map[string]string, error) {
	names := map[string]string{}
	data, err := readBounded(p.path, maxPoolsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return names, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &names)
	}
	if err != nil {
		return nil, cellproto.Errorf("read "+p.path, cellproto.Corrupt, "%w", err).WithHint("Remove it: pools have their peer IDs, too.")
	}
	return names, nil
}

// set gives a pool a name that no other has.
func (p *poolNames) set(id, name string) error {
	op := "name a pool"
	if err := p.check(id, name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	names, err := p.read()
	if err != nil {
		return err
	}
	if names[id] == "" && len(names) >= maxPools {
		return cellproto.Errorf(op, cellproto.Overloaded, "%d pools have a name already", len(names))
	}
	names[id] = name
	data, err := json.Marshal(names)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.path), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(p.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

// check refuses a name that could be taken for something else, or is another pool's.
func (p *poolNames) check(id, name string) error {
	const op = "name a pool"
	ok := name != "" && len(name) <= maxPoolName && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	})
	if _, err := peer.Decode(name); !ok || err == nil || name == "self" {
		return cellproto.Errorf(op, cellproto.BadInput, "%.80q is no name for a pool", name).
			WithHint("Small letters, digits and -, at most 63 of them.")
	}
	names, err := p.read()
	if err != nil {
		return err
	}
	for other, n := range names {
		if n == name && other != id {
			return cellproto.Errorf(op, cellproto.BadInput, "another pool is called %s here", name).WithHint("Choose another --name.")
		}
	}
	return nil
}

// resolve gives whom a text names: a peer ID, or the name of a pool.
func (o *account) resolve(op, text string) (ledger.Key, error) {
	if _, err := peer.Decode(text); err == nil {
		return keyOfText(op, text)
	}
	names, err := o.pools.read()
	if err != nil {
		return ledger.Key{}, err
	}
	for id, name := range names {
		if name == text {
			return keyOfText(op, id)
		}
	}
	return ledger.Key{}, cellproto.Errorf(op, cellproto.NotFound, "%.80q is neither a peer ID nor the name of a pool", text).
		WithHint("cellctl wallet status shows an account's peer ID, cellctl pool status the names of pools.")
}

// pool is resolve for what has to be a pool whose key log is known.
func (o *account) pool(op, text string) (ledger.Key, error) {
	id, err := o.resolve(op, text)
	if err == nil && len(o.state(id).Members) == 0 {
		err = cellproto.Errorf(op, cellproto.NotFound, "no pool %.80q is known here", text).
			WithHint("cellctl pool join FILE, with a file of one of its members")
	}
	return id, err
}

func (n *nucleus) ctlPools(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	const op = "show pools"
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	if err := o.here(op); err != nil {
		return nil, err
	}
	o.gather(ctx)
	var ids []ledger.Key
	if text := r.URL.Query().Get("pool"); text != "" {
		ids = make([]ledger.Key, 1)
		if ids[0], err = o.pool(op, text); err != nil {
			return nil, err
		}
	} else if ids, err = o.named(); err != nil {
		return nil, err
	}
	rows := []ctl.PoolRow{}
	for _, id := range ids {
		rows = append(rows, o.poolRow(id))
	}
	slices.SortFunc(rows, func(x, y ctl.PoolRow) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Pool, y.Pool))
	})
	return rows, nil
}

// named gives the pools that have a name here, and so were made or joined: anybody can name this account as a
// member of another one.
func (o *account) named() (ids []ledger.Key, err error) {
	names, err := o.pools.read()
	for text := range names {
		if id, err := keyOfText("show pools", text); err == nil && len(o.state(id).Members) > 0 {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// poolRow describes a pool whose key log is known.
func (o *account) poolRow(id ledger.Key) ctl.PoolRow {
	row := ctl.PoolRow{Pool: textOf(id), Proposals: []ctl.PoolProposal{}}
	if names, err := o.pools.read(); err == nil {
		row.Name = names[row.Pool]
	}
	var s *ledger.KeyState
	o.a.led.View(func(b *ledger.Book) {
		if s = b.State(id); s == nil {
			return
		}
		row.Given, row.Spent = b.Balance(id)
		row.Banned = b.Banned(id)
		row.Donations = donations(b, func(c *ledger.SignedCheque) bool { return c.Donor == id || c.To == id })
	})
	if s == nil {
		return row
	}
	row.Members, row.Threshold, row.Entries = textsOf(s.Members), int(s.T), s.Len
	if run := s.Runner; run.Budget > 0 {
		row.Runner, row.Budget, row.Until = textOf(run.Runner), run.Budget, int64(min(run.NotAfter, 1<<62))
		if time.Now().UnixMilli() <= row.Until {
			row.Left = run.Budget - min(row.Spent, run.Budget)
		}
	}
	for _, e := range o.a.led.Drafts(id) {
		row.Proposals = append(row.Proposals, proposalOf(e, s))
	}
	return row
}

func textsOf(keys []ledger.Key) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, textOf(k))
	}
	return out
}

// proposalOf describes an entry that waits for signatures.
func proposalOf(e *ledger.KeyEntry, s *ledger.KeyState) ctl.PoolProposal {
	p := ctl.PoolProposal{Entry: e.Seq, Signed: []string{}}
	switch b := e.Payload.(type) {
	case *ledger.RunnerBudget:
		p.Runner, p.Budget, p.Until = textOf(b.Runner), b.Budget, int64(min(b.NotAfter, 1<<62))
	case *ledger.PoolMembers:
		p.Members, p.Threshold = textsOf(b.Keys), int(b.T)
	}
	for _, sig := range e.Sigs {
		if int(sig.Index) < len(s.Members) {
			p.Signed = append(p.Signed, textOf(s.Members[sig.Index]))
		}
	}
	p.Missing = max(int(s.T)-len(p.Signed), 0)
	return p
}

func (n *nucleus) ctlPoolCreate(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "create a pool"
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	t, err := strconv.Atoi(q.Get("threshold"))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the threshold is no number")
	}
	others, err := keysOfTexts(op, q["member"])
	if err != nil {
		return nil, err
	}
	members := []ledger.Key{o.signerOf(o.id)}
	for _, k := range others {
		if k = o.signerOf(k); !slices.Contains(members, k) {
			members = append(members, k)
		}
	}
	if err := checkMembers(op, len(members), t); err != nil {
		return nil, err
	}
	if err := o.pools.check("", q.Get("name")); err != nil {
		return nil, err
	}
	if err := o.ready(ctx, op, w); err != nil {
		return nil, err
	}
	if err := o.begin(ctx, time.Now()); err != nil { // its members are accounts
		return nil, err
	}
	id, err := o.a.led.FoundPool(time.Now(), members, t)
	if err != nil {
		return nil, err
	}
	o.a.travel.Spread(id)
	if err := o.pools.set(textOf(id), q.Get("name")); err != nil {
		return nil, err
	}
	return o.poolFile(id, nil, true)
}

// poolFile gives what members hand to each other. draft may be nil.
func (o *account) poolFile(id ledger.Key, draft *ledger.KeyEntry, done bool) (ctl.PoolFile, error) {
	out := ctl.PoolFile{Pool: o.poolRow(id), Done: done}
	var errs []error
	put := func(e *ledger.KeyEntry) {
		data, err := e.Encode()
		errs, out.Bytes = append(errs, err), append(out.Bytes, data...)
	}
	o.a.led.View(func(b *ledger.Book) {
		for _, e := range b.Log(id, 0) {
			put(e)
		}
	})
	if draft != nil && !done {
		put(draft)
		p := proposalOf(draft, o.state(id))
		out.Proposal = &p
	}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	if len(out.Bytes) > ctl.MaxPoolFile {
		return out, cellproto.Errorf("write a pool's file", cellproto.TooLarge, "%d bytes, the limit is %d", len(out.Bytes), ctl.MaxPoolFile)
	}
	return out, nil
}

func (n *nucleus) ctlPoolBudget(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "propose a budget"
	o, err := n.signer(ctx, op, w)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	uwh, err := amount(op, q, 0)
	if err != nil {
		return nil, err
	}
	until, err := strconv.ParseInt(q.Get("until"), 10, 64)
	if err != nil || until <= time.Now().UnixMilli() {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "the budget would have ended already")
	}
	id, err := o.pool(op, q.Get("pool"))
	if err != nil {
		return nil, err
	}
	runner := o.id
	if text := q.Get("runner"); text != "" {
		if runner, err = keyOfText(op, text); err != nil {
			return nil, err
		}
	}
	runner = o.signerOf(runner)
	e, done, err := o.a.led.Draft(time.Now(), id, &ledger.RunnerBudget{Runner: runner, Budget: uwh, NotAfter: uint64(until)}, o.keys.inForce())
	if err != nil {
		return nil, err
	}
	o.a.travel.Spread(id)
	return o.poolFile(id, e, done)
}

func (n *nucleus) ctlPoolTake(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	const op = "read a pool's file"
	o, err := n.account()
	if err != nil {
		return nil, err
	}
	if err := o.here(op); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, ctl.MaxPoolFile+1))
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.Failed, "%w", err)
	}
	if len(data) > ctl.MaxPoolFile {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "more than %d bytes", ctl.MaxPoolFile)
	}
	list, err := ledger.KeyEntries(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	id, err := o.takePool(op, list, r.URL.Query().Get("name"))
	if err != nil {
		return nil, err
	}
	draft := list[len(list)-1]
	if draft.Seq < o.state(id).Len {
		if !o.signed(id, draft) {
			return nil, cellproto.Errorf(op, cellproto.Denied, "another entry was signed in the place of what is proposed, which is void").
				WithHint("cellctl pool status shows what holds. Who proposed it can do so again.")
		}
		return o.poolFile(id, nil, true)
	}
	sign := r.URL.Query().Get("sign")
	if sign == ctl.SignNothing {
		return o.poolFile(id, draft, false)
	}
	if err := signable(draft, sign); err != nil {
		return nil, err
	}
	if err := o.ready(ctx, op, w); err != nil {
		return nil, err
	}
	done, err := o.a.led.SignDraft(time.Now(), draft, o.keys.inForce())
	if err != nil {
		return nil, err
	}
	o.a.travel.Spread(id)
	return o.poolFile(id, draft, done)
}

// signed says whether an entry is the one of its log at its place.
func (o *account) signed(id ledger.Key, e *ledger.KeyEntry) (is bool) {
	body, err := e.Body()
	o.a.led.View(func(b *ledger.Book) {
		if there := b.Log(id, e.Seq); err == nil && len(there) > 0 {
			other, err := there[0].Body()
			is = err == nil && bytes.Equal(body, other)
		}
	})
	return is
}

// signable refuses to sign anything but what the owner has said: a member could hand others a proposal to replace them.
func signable(e *ledger.KeyEntry, sign string) error {
	const op = "sign for a pool"
	switch e.Payload.(type) {
	case *ledger.RunnerBudget:
		if sign == ctl.SignBudget {
			return nil
		}
		return cellproto.Errorf(op, cellproto.BadInput, "a budget is proposed, no other members").WithHint("cellctl pool sign, without --members")
	case *ledger.PoolMembers:
		if sign == ctl.SignMembers {
			return nil
		}
		return cellproto.Errorf(op, cellproto.Denied, "other members of the pool are proposed, or how many of them sign together").
			WithHint("cellctl pool join FILE shows them; if you agree: cellctl pool sign FILE --members")
	}
	return cellproto.Errorf(op, cellproto.Unsupported, "neither a budget nor other members are proposed")
}

// takePool takes in what of a pool's file is in force, and names the pool if it has no name. All is about one
// pool, of which this account is a member or the runner.
func (o *account) takePool(op string, list []*ledger.KeyEntry, name string) (id ledger.Key, err error) {
	if len(list) == 0 {
		return id, cellproto.Errorf(op, cellproto.BadInput, "it is empty")
	}
	id = list[0].ID
	state, err := ledger.Follow(o.a.net, list)
	if err != nil {
		return id, err
	}
	if len(state.Members) == 0 {
		return id, cellproto.Errorf(op, cellproto.BadInput, "it is not the key log of a pool")
	}
	if !o.among(append(state.Members, state.Runner.Runner)...) {
		return id, cellproto.Errorf(op, cellproto.Denied, "this account, %s, is neither a member nor the runner of the pool", textOf(o.id)).
			WithHint("Its members say who is one: cellctl pool members POOL --add %s", textOf(o.signerOf(o.id)))
	}
	if o.poolRow(id).Name == "" && name != "" {
		if err := o.pools.set(textOf(id), name); err != nil {
			return id, err
		}
	}
	for _, e := range list[:min(state.Len, uint64(len(list)))] {
		data, err := e.Encode()
		if err != nil {
			return id, err
		}
		r := o.a.led.Ingest(time.Now(), data)
		switch o.a.travel.Pass(r); r.Verdict {
		case ledger.Stored, ledger.Stale:
		case ledger.Forked:
			return id, cellproto.Errorf(op, cellproto.Denied, "entry %d contradicts what is known here: the pool is banned", e.Seq)
		default:
			return id, cellproto.Errorf(op, cellproto.BadInput, "entry %d is %s: %v", e.Seq, r.Verdict, r.Err)
		}
	}
	return id, nil
}
