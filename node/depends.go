package node

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/mirror"
)

// pinsFile says which commits the dependencies by git are. It can be deleted: they are looked up again.
const pinsFile = "deps.json" // under cache/

const maxPins = 256 << 10 // bytes of it

const (
	depTimeout = 10 * time.Minute // for one to be cloned, built and started
	depLook    = 10 * time.Minute // how often a branch that is called is looked at
	depRetry   = 15 * time.Second // how long a failure is the answer to all who ask
	depAgain   = 2 * time.Second  // when to call again, of one that is being built
	depSure    = time.Second      // how long a copy that was seen is believed to be there
)

// repos makes cells of repositories.
type repos interface {
	ResolveRepo(ctx context.Context, repo celltoml.Repo) (mirror.Pin, error)
	HasRepo(url, commit string) (*mirror.Mirror, bool)
	AddRepo(ctx context.Context, repo celltoml.Repo, commit string, progress func(string)) (*mirror.Mirror, bool, error)
}

// depends has the cells that [deps] names by their repositories cloned, built and started on first use, and
// looks whether branches have moved. What is at work is used until what replaces it is ready.
type depends struct {
	repos  repos
	start  func(ctx context.Context, m *mirror.Mirror) error // and see that its program runs
	remove func(ctx context.Context, m *mirror.Mirror) error
	path   string // of pinsFile
	now    func() time.Time
	log    *zap.Logger

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	deps map[string]*dependency // by its name; the map itself never changes
}

// dependency is one of them.
type dependency struct {
	repo   celltoml.Repo
	pin    mirror.Pin // zero: not known
	looked time.Time  // when the repository was asked last; zero: not since this nucleus started
	dir    string     // as of seen
	seen   time.Time
	err    error // of the last attempt; nil: it succeeded
	failed time.Time
	job    *depJob // nil: nothing is being done
}

// depJob is one attempt, which others can wait for.
type depJob struct {
	steps []string
	news  chan struct{} // closed, and replaced, with each step
	done  chan struct{}
	dir   string
	err   error
}

func newDepends(n *nucleus, started *closers) *depends {
	d := &depends{
		repos: n.mirrors.store, path: filepath.Join(n.cfg.Dir, cacheDir, pinsFile), now: time.Now, log: n.log.Named("deps"),
		start: func(ctx context.Context, m *mirror.Mirror) error {
			if err := canConfine(ctx); err != nil {
				return err
			}
			_, err := n.mirrors.start(ctx, m, false)
			return err
		},
		remove: func(ctx context.Context, m *mirror.Mirror) error {
			_, err := n.mirrors.store.Remove(ctx, m.Dir)
			return err
		},
	}
	d.begin(n.cfg.Deps)
	started.add(func() { d.cancel(); d.work.Wait() })
	return d
}

// begin takes in what cell.toml says, and what is known of it.
func (d *depends) begin(deps map[string]string) {
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.deps = map[string]*dependency{}
	pins := d.load()
	for name, text := range deps {
		repo, ok, err := celltoml.GitDep(text)
		if !ok || err != nil { // the latter was refused when cell.toml was read
			continue
		}
		dep := &dependency{repo: repo}
		if pin, ok := pins[name]; ok && pin.Repo == repo {
			dep.pin = pin.Pin
		}
		d.deps[name] = dep
	}
}

// pinned is what pinsFile says of one name.
type pinned struct {
	Repo celltoml.Repo `json:"repo"`
	Pin  mirror.Pin    `json:"pin"`
}

// load reads pinsFile. What is damaged counts as missing.
func (d *depends) load() map[string]pinned {
	data, err := readBounded(d.path, maxPins)
	var pins map[string]pinned
	if err == nil && json.Unmarshal(data, &pins) != nil {
		d.log.Warn("deps.json is damaged, and is made anew")
		pins = nil
	}
	return pins
}

// save writes pinsFile. d.mu is held.
func (d *depends) save() {
	pins := map[string]pinned{}
	for name, dep := range d.deps {
		if dep.pin.Commit != "" {
			pins[name] = pinned{dep.repo, dep.pin}
		}
	}
	data, err := json.MarshalIndent(pins, "", "  ")
	if err == nil {
		err = makeDir(filepath.Dir(d.path))
	}
	if err == nil {
		err = renameio.WriteFile(d.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		d.log.Warn("cannot note what the dependencies are", zap.Error(err))
	}
}

// Dir gives the directory of a dependency by git, for the caller's half; ok is false for what is none. On
// first use it waits until it is built, as long as ctx lets it, and says Unavailable then.
func (d *depends) Dir(ctx context.Context, name string) (dir string, ok bool, err error) {
	if d.deps[name] == nil {
		return "", false, nil
	}
	dir, err = d.ready(ctx, name, func(string) {})
	return dir, true, err
}

// ready is Dir, and says what goes on meanwhile.
func (d *depends) ready(ctx context.Context, name string, say func(string)) (string, error) {
	d.mu.Lock()
	dep, now := d.deps[name], d.now()
	if dir := d.have(dep, now); dir != "" {
		if dep.pin.Moves && now.Sub(dep.looked) >= depLook && dep.job == nil {
			d.launch(name, dep, true)
		}
		d.mu.Unlock()
		return dir, nil
	}
	if left := depRetry - now.Sub(dep.failed); dep.job == nil && dep.err != nil && left > 0 {
		err := dep.err
		d.mu.Unlock()
		return "", err
	}
	job := dep.job
	if job == nil {
		job = d.launch(name, dep, false)
	}
	d.mu.Unlock()
	return d.await(ctx, name, job, say)
}

// have gives the directory of a dependency, if there is one. d.mu is held.
func (d *depends) have(dep *dependency, now time.Time) string {
	if dep.pin.Commit == "" {
		return ""
	}
	if dep.dir == "" || now.Sub(dep.seen) >= depSure || now.Before(dep.seen) {
		dep.dir, dep.seen = "", now
		if m, ok := d.repos.HasRepo(dep.repo.URL, dep.pin.Commit); ok {
			dep.dir = m.Dir
		}
	}
	return dep.dir
}

// await waits for a job, a little less than ctx lets it, so that its own word still arrives in time.
func (d *depends) await(ctx context.Context, name string, job *depJob, say func(string)) (string, error) {
	limited := ctx
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, left-min(left/10, 200*time.Millisecond))
		defer cancel()
	}
	for told := 0; ; {
		d.mu.Lock()
		steps, news := job.steps, job.news
		d.mu.Unlock()
		for ; told < len(steps); told++ {
			say(steps[told])
		}
		select {
		case <-news:
		case <-job.done:
			return job.dir, job.err
		case <-limited.Done():
			if err := context.Cause(ctx); err == context.Canceled {
				return "", cellproto.Errorf("take up "+name, cellproto.Canceled, "%w", err)
			}
			step := "it has begun"
			if told > 0 {
				step = steps[told-1]
			}
			e := cellproto.Errorf("call "+name, cellproto.Unavailable, "this dependency is being made ready: %s", step).
				WithHint("cellctl deps update %s waits for it; so does a longer --timeout.", name)
			e.RetryAfter = depAgain
			return "", e
		}
	}
}

// launch begins an attempt; look has the repository asked even if the commit is known. d.mu is held.
func (d *depends) launch(name string, dep *dependency, look bool) *depJob {
	job := &depJob{news: make(chan struct{}), done: make(chan struct{})}
	if d.ctx.Err() != nil {
		job.err = cellproto.Errorf("call "+name, cellproto.Unavailable, "the nucleus is stopping")
		close(job.done)
		return job
	}
	dep.job = job
	d.work.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, depTimeout)
		defer cancel()
		d.run(ctx, name, dep, job, look)
	})
	return job
}

// run makes one attempt.
func (d *depends) run(ctx context.Context, name string, dep *dependency, job *depJob, look bool) {
	d.mu.Lock()
	before := dep.pin
	d.mu.Unlock()
	pin, m, err := d.take(ctx, dep.repo, before, look, func(text string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		job.steps = append(job.steps, text)
		close(job.news)
		job.news = make(chan struct{})
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(job.done)
	dep.job, dep.looked = nil, d.now()
	if err != nil {
		dep.err, dep.failed = err, d.now()
		job.err = err
		if cellproto.KindOf(err) != cellproto.Canceled {
			d.log.Warn("a dependency cannot be taken up", zap.String("name", name), zap.Error(err), zap.String("hint", cellproto.HintOf(err)))
		}
		return
	}
	dep.err, dep.pin, dep.dir, dep.seen, job.dir = nil, pin, m.Dir, d.now(), m.Dir
	if pin == before {
		return
	}
	d.save()
	d.log.Info("a dependency was taken up", zap.String("name", name), zap.String("commit", pin.Commit), zap.String("dir", m.Dir))
	if before.Commit == "" || before.Commit == pin.Commit {
		return
	}
	if old, ok := d.repos.HasRepo(dep.repo.URL, before.Commit); ok {
		if err := mirror.Replace(old.Dir, pin.Commit); err != nil {
			d.log.Warn("the version before is not retired", zap.String("dir", old.Dir), zap.Error(err))
		}
	}
}

// take finds out which commit it is, and makes and starts the cell of it. One that does not run is removed.
func (d *depends) take(ctx context.Context, repo celltoml.Repo, pin mirror.Pin, look bool, say func(string)) (mirror.Pin, *mirror.Mirror, error) {
	if look || pin.Commit == "" {
		say("asking " + repo.URL + " what " + repo.Ref + " is")
		found, err := d.repos.ResolveRepo(ctx, repo)
		if err != nil {
			return pin, nil, err
		}
		pin = found
	}
	m, made, err := d.repos.AddRepo(ctx, repo, pin.Commit, say)
	if err != nil {
		return pin, nil, err
	}
	if !made {
		return pin, m, nil
	}
	say("starting " + m.Dir)
	if err := d.start(ctx, m); err != nil {
		if rerr := d.remove(context.WithoutCancel(ctx), m); rerr != nil {
			say("it cannot be removed: " + rerr.Error())
		}
		return pin, nil, cellproto.Errorf("start "+repo.URL, cellproto.KindOf(err), "%w", err).WithHint("%s", cellproto.HintOf(err))
	}
	return pin, m, nil
}

// update asks the repositories of the names that are given, or of all, what their references are now, and
// waits until that is what is used.
func (d *depends) update(ctx context.Context, names []string, say func(string)) error {
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(d.deps))
	}
	for _, name := range names {
		dep := d.deps[name]
		if dep == nil {
			return cellproto.Errorf("update "+name, cellproto.NotFound, "it is no dependency by git").
				WithHint("These are: %s.", strings.Join(slices.Sorted(maps.Keys(d.deps)), ", "))
		}
		d.mu.Lock()
		job := dep.job
		if job == nil {
			job = d.launch(name, dep, true)
		}
		d.mu.Unlock()
		if _, err := d.await(ctx, name, job, func(text string) { say(name + ": " + text) }); err != nil {
			return err
		}
	}
	return nil
}
