package patcher

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// pollPeriod is how often the directory is looked at where the system does not tell of changes: the
// user's inotify watches may be used up, or patch/ may be on a network.
const pollPeriod = 5 * time.Second

// run looks once, and again whenever something has changed, until ctx ends.
func (p *Patcher) run(ctx context.Context) {
	var events chan fsnotify.Event
	var errs chan error
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		events, errs = w.Events, w.Errors
		err = p.watch(w)
	}
	if err != nil {
		p.log.Warn("the system does not tell of changes in patch/, which is looked at every now and then", zap.Error(err))
	}
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	p.scan(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Name == p.dir && e.Has(fsnotify.Remove|fsnotify.Rename) {
				err = p.remake(w)
			} else if !p.concerns(e) {
				continue
			}
			// What else has happened by now is seen by the same look.
			for more := true; more; {
				select {
				case <-events:
				default:
					more = false
				}
			}
		case err := <-errs: // events were lost
			p.log.Warn("watching patch/", zap.Error(err))
		case err := <-p.settled():
			p.finish(ctx, err)
			continue
		case <-tick.C:
			if err == nil && !p.retry {
				continue
			}
		}
		p.scan(ctx)
	}
}

func (p *Patcher) watch(w *fsnotify.Watcher) error {
	return errors.Join(w.Add(p.dir), w.Add(filepath.Dir(p.program)))
}

// remake makes patch/ anew when it was removed or moved away.
func (p *Patcher) remake(w *fsnotify.Watcher) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	return w.Add(p.dir)
}

// concerns tells what may change the plan from our own work and others'.
func (p *Patcher) concerns(e fsnotify.Event) bool {
	dir, name := filepath.Split(e.Name)
	switch filepath.Clean(dir) {
	case p.dir:
		return !strings.HasPrefix(name, ".")
	case filepath.Dir(p.program):
		return e.Name == p.program || e.Name == p.dir
	}
	return true
}
