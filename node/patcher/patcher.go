package patcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/cellproto/patch/delta"
	"github.com/celldnet/celld/internal/ctl"
)

// Swapper replaces a running program.
type Swapper interface {
	// Swap has the program's file, which has just been replaced, run in place of whatever runs, and
	// returns when new requests go to it. When it fails, what ran before runs on, or nothing does.
	Swap(ctx context.Context) error
	// Settled waits until the program of the last Swap has proven itself. Its error is why that is no
	// more in use.
	Settled(ctx context.Context) error
}

// Config says which cell it is. Dir and Program must be set.
type Config struct {
	Dir     string      // of the cell, absolute
	Program string      // relative to Dir
	Trusted []patch.Key // whose patches are applied
	UID     int         // whose files are taken, besides root's
}

// Deps is what a Patcher needs of others.
type Deps struct {
	Swap Swapper
	Log  *zap.Logger // nil: silent
}

// Patcher applies the patches of one cell. Start and Stop are called once each.
type Patcher struct {
	cfg     Config
	swap    Swapper
	log     *zap.Logger
	dir     string // patch/
	program string // the program's file

	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	entries []ctl.Patch

	// For the goroutine that works only.
	looked  map[string]looked // by name, of the last look
	current hashed
	base    hashed
	retry   bool              // a change has failed for a reason that may pass
	trial   *trial            // nil: the program that runs has proven itself, or none runs
	at      func(step string) // called before each step of a change, in tests
}

// New makes a patcher that does nothing yet. It makes the directory patch/ if that is not there.
func New(cfg Config, deps Deps) (*Patcher, error) {
	if !filepath.IsAbs(cfg.Dir) || !filepath.IsLocal(cfg.Program) {
		return nil, cellproto.Errorf("check patcher config", cellproto.BadInput, "%q and %q are no cell and program", cfg.Dir, cfg.Program)
	}
	p := &Patcher{
		cfg: cfg, swap: deps.Swap, log: deps.Log, dir: filepath.Join(cfg.Dir, "patch"), program: filepath.Join(cfg.Dir, cfg.Program),
		at: func(string) {},
	}
	if p.log == nil {
		p.log = zap.NewNop()
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, cellproto.Errorf("make "+p.dir, cellproto.KindOf(err), "%w", err)
	}
	return p, nil
}

// Start begins to watch. Patches that are there already are applied at once, in the background.
func (p *Patcher) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.work.Go(func() { p.run(ctx) })
}

// Stop ends the work and waits for it. A change that has begun is finished, or undone at the next start.
func (p *Patcher) Stop() {
	p.cancel()
	p.work.Wait()
}

// Status gives what became of each patch, by name, as of the last look.
func (p *Patcher) Status() []ctl.Patch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.entries)
}

// swapTimeout bounds one swap: a start, a drain and what proves a program.
const swapTimeout = 2 * time.Minute

// scan looks at the directory and does what is to be done.
func (p *Patcher) scan(ctx context.Context) {
	if err := p.sweep(); err != nil {
		p.log.Warn("cannot tidy patch/.base up", zap.Error(err))
	}
	// Each round settles one patch for good or is the last.
	for range cellproto.MaxPatches + 2 {
		files, err := p.list()
		if err != nil {
			p.publish([]ctl.Patch{{File: ".", State: ctl.PatchRefused, Reason: reasonOf(err)}})
			return
		}
		rec := p.load()
		err = p.hash(p.program, &p.current) // also when there is nothing to do: the next patch finds it done
		if len(files) == 0 && rec.Chain == nil && rec.Failed == nil {
			p.publish(nil)
			return
		}
		if err != nil {
			p.publish(refuse(files, err))
			return
		}
		haveBase := p.hash(p.kept(baseFile), &p.base) == nil && p.base.hash == rec.Base
		pl := decide(p.current.hash, rec, haveBase, files)
		if p.done(rec, pl) {
			p.publish(pl.entries)
			return
		}
		again, err := p.change(ctx, rec, pl, haveBase)
		if p.retry = err != nil; err != nil {
			p.log.Warn("cannot change the program", zap.Error(err))
			p.publish(refuse(files, err))
		}
		if !again || ctx.Err() != nil {
			return
		}
	}
}

// refuse says of all patches that nothing was changed.
func refuse(files []found, err error) []ctl.Patch {
	var out []ctl.Patch
	for _, f := range files {
		reason := reasonOf(err)
		if f.err != nil {
			reason = reasonOf(f.err)
		}
		out = append(out, ctl.Patch{File: f.File, State: ctl.PatchRefused, Reason: reason})
	}
	return out
}

// publish shows entries, and logs what is new about them.
func (p *Patcher) publish(entries []ctl.Patch) {
	p.mu.Lock()
	before := p.entries
	p.entries = entries
	p.mu.Unlock()
	for _, e := range entries {
		if !slices.Contains(before, e) {
			p.log.Info("patch", zap.String("file", e.File), zap.String("state", e.State), zap.String("reason", e.Reason))
		}
	}
	for _, e := range before {
		if !slices.ContainsFunc(entries, func(now ctl.Patch) bool { return now.File == e.File }) {
			p.log.Info("patch deleted", zap.String("file", e.File), zap.String("state", e.State))
		}
	}
}

// done reports that the program is what it is to be and has run, and keeps the record up to date.
func (p *Patcher) done(rec record, pl plan) bool {
	if pl.target != p.current.hash || p.trial == nil && !rec.Proven && len(rec.Chain) > 0 && rec.ours(p.current.hash) {
		return false
	}
	if pl.held || p.trial != nil {
		return true // the record still says what is wanted
	}
	var err error
	if len(pl.chain) == 0 && len(pl.failed) == 0 {
		err = os.RemoveAll(p.kept(""))
	} else if !slices.Equal(rec.Chain, pl.chain) || !slices.Equal(rec.Failed, pl.failed) || rec.Base != pl.base {
		rec.Base, rec.Chain, rec.Failed, rec.Proven = pl.base, pl.chain, pl.failed, true
		if err = os.MkdirAll(p.kept(""), 0o700); err == nil {
			err = p.save(rec)
		}
	}
	if err != nil {
		p.log.Warn("cannot write down which patches are applied", zap.Error(err))
	}
	return true
}

// change makes the program what pl says and has it run. again says to look once more: something has
// been settled, for better or worse. With err nothing was changed, and nothing is settled.
func (p *Patcher) change(ctx context.Context, rec record, pl plan, haveBase bool) (again bool, err error) {
	next := record{Base: pl.base, Results: []patch.Hash{p.current.hash, pl.target}, Chain: pl.chain, Failed: pl.failed}
	begin := time.Now()
	var rebuilt, replaced time.Duration
	if pl.target != p.current.hash {
		defer debug.FreeOSMemory() // a nucleus at rest is to be small, and these were two programs
		data, broken, err := p.rebuild(pl)
		if broken != "" {
			p.log.Warn("a patch does not do what its signer says", zap.String("file", broken), zap.Error(err))
			l := p.looked[broken]
			l.err = err
			p.looked[broken] = l
			return true, nil
		}
		if err != nil {
			return false, err
		}
		rebuilt = time.Since(begin)
		if err := p.replace(next, pl, data, haveBase); err != nil {
			return false, err
		}
		replaced = time.Since(begin) - rebuilt
	}
	if p.trial != nil { // of a program that is not wanted any more
		p.trial.cancel()
		<-p.trial.result
		p.trial = nil
	}
	p.at("swap")
	limited, cancel := context.WithTimeout(ctx, swapTimeout)
	err = p.swap.Swap(limited)
	cancel()
	switch {
	case ctx.Err() != nil:
		return false, nil // the record says that it is not proven
	case err != nil:
		return p.undo(rec, next, pl, err)
	}
	p.log.Info("another program runs", zap.Stringer("blake3", pl.target), zap.Duration("rebuilt", rebuilt),
		zap.Duration("replaced", replaced), zap.Duration("swapped", time.Since(begin)-rebuilt-replaced))
	p.publish(pl.entries)
	p.trial = p.begin(ctx, rec, next, pl)
	return false, nil
}

// trial is a program that runs and has not proven itself yet.
type trial struct {
	before, record record
	plan           plan
	result         chan error // holds one
	cancel         context.CancelFunc
}

func (p *Patcher) begin(ctx context.Context, before, rec record, pl plan) *trial {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	t := &trial{before: before, record: rec, plan: pl, result: make(chan error, 1), cancel: cancel}
	p.work.Go(func() { t.result <- p.swap.Settled(ctx) })
	return t
}

// settled gives the channel on which the trial's end comes; nil if there is none.
func (p *Patcher) settled() <-chan error {
	if p.trial == nil {
		return nil
	}
	return p.trial.result
}

// finish ends a trial, and looks once more.
func (p *Patcher) finish(ctx context.Context, err error) {
	t := p.trial
	p.trial = nil
	t.cancel()
	if ctx.Err() != nil {
		return // the record says that it is not proven
	}
	if err == nil {
		p.at("prove")
		t.record.Proven = true
		if err = p.save(t.record); err == nil {
			err = os.Remove(p.kept(previousFile))
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	} else {
		_, err = p.undo(t.before, t.record, t.plan, err)
	}
	if err != nil {
		p.log.Warn("cannot write down how a patch has turned out", zap.Error(err))
	}
	p.scan(ctx)
}

// rebuild makes the program. broken is the patch that does not make what it says.
func (p *Patcher) rebuild(pl plan) (data []byte, broken string, err error) {
	p.at("read")
	from, path, known := max(pl.from, 0), p.program, p.current
	if pl.from < 0 {
		path, known = p.kept(baseFile), p.base
	}
	data, read, err := p.readProgram(path)
	if err != nil {
		return nil, "", err
	}
	var last memo
	if read == known.stamp && read != (stamp{}) {
		last = memo{data, known.hash}
	}
	if patch.Hash(last.sum(data)) != known.hash {
		return nil, "", cellproto.Errorf("read "+path, cellproto.Corrupt, "it is not what it was a moment ago")
	}
	for _, l := range pl.chain[from:] {
		p.at("rebuild")
		f, info, err := p.openFile(filepath.Join(p.dir, l.File))
		if err != nil {
			return nil, "", err
		}
		h, tail, err := p.read(f, info.Size())
		f.Close()
		if err == nil && (h.Base != l.Base || h.Result != l.Result) {
			return nil, "", cellproto.Errorf("read "+l.File, cellproto.Failed, "it has just been replaced")
		}
		if err == nil {
			data, err = delta.Apply(h, data, tail, last.sum)
		}
		if err != nil {
			return nil, l.File, err
		}
	}
	return data, "", nil
}

// replace writes the program. A kill at any point leaves the file as it was or as it is to be, and a
// record that knows both.
func (p *Patcher) replace(next record, pl plan, data []byte, haveBase bool) error {
	fail := func(err error) error {
		return cellproto.Errorf("replace "+p.cfg.Program, cellproto.KindOf(err), "%w", err)
	}
	info, err := os.Lstat(p.program)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(p.kept(""), 0o700); err != nil {
		return fail(err)
	}
	p.at("write")
	pending, err := renameio.NewPendingFile(p.program, renameio.WithTempDir(p.kept("")), renameio.WithStaticPermissions(info.Mode().Perm()))
	if err != nil {
		return fail(err)
	}
	defer pending.Cleanup()
	if _, err := bytes.NewReader(data).WriteTo(pending); err != nil {
		return fail(err)
	}
	if err := pending.Sync(); err != nil {
		return fail(err)
	}
	p.at("keep")
	if !haveBase && pl.from == 0 {
		if err := p.keepAs(baseFile); err != nil {
			return fail(err)
		}
	}
	if err := p.keepAs(previousFile); err != nil {
		return fail(err)
	}
	p.at("record")
	if err := p.save(next); err != nil {
		return fail(err)
	}
	p.at("rename")
	// The owner may have put another program there meanwhile, which is not to be lost.
	if now, err := os.Lstat(p.program); err != nil || stampOf(now).ino != p.current.stamp.ino || now.Size() != p.current.stamp.size {
		return fail(errors.Join(errors.New("it has just been replaced"), err))
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return fail(err)
	}
	p.at("sync")
	if err := syncDir(filepath.Dir(p.program)); err != nil {
		return fail(err)
	}
	if info, err := os.Lstat(p.program); err == nil {
		p.current = hashed{stampOf(info), pl.target}
	}
	return nil
}

// undo puts the program before back, because the new one did not run.
func (p *Patcher) undo(rec, next record, pl plan, why error) (again bool, err error) {
	if err := p.hash(p.program, &p.current); err != nil {
		return false, err
	}
	if p.current.hash != pl.target {
		return true, nil // the owner has put another one there meanwhile
	}
	p.log.Warn("the patched program does not run: the one before it is put back", zap.Error(why))
	p.at("undo")
	failed := append(slices.Clone(pl.failed), failure{pl.target, fmt.Sprintf("its result did not run: %s", reasonOf(why))})
	var previous hashed
	if err := p.hash(p.kept(previousFile), &previous); err != nil {
		return false, err
	}
	// The chain of the program that is put back, if that is not known from before.
	chain := rec.Chain
	if i := position(pl.base, pl.chain, previous.hash); i >= 0 {
		chain = pl.chain[:i]
	}
	after := record{Base: next.Base, Results: append(next.Results, previous.hash), Chain: chain, Failed: failed, Proven: true}
	if err := p.save(after); err != nil {
		return false, err
	}
	p.at("put back")
	if err := os.Rename(p.kept(previousFile), p.program); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(p.program))
}
