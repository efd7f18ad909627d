package node

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/node/program"
)

// byRename is why a program is swapped that somebody has put into bin/.
const byRename = "a new file in bin/"

const (
	// quietTime is for how long nothing may happen to the program's file before it is looked at: a
	// copy in progress writes more often.
	quietTime = 100 * time.Millisecond
	// unfinishedTime is how often a file is looked at that is still being written, and unfinishedTries
	// how often in all after the last sign of life: that it was closed is told by nobody.
	unfinishedTime  = 250 * time.Millisecond
	unfinishedTries = 240
	// fileSwapLimit bounds a swap that nobody waits for.
	fileSwapLimit = time.Minute
)

// fileWatch swaps the program when its file is replaced.
type fileWatch struct {
	n     *nucleus
	w     *fsnotify.Watcher
	dirs  []string // the cell's directory and those below it that lead to the program
	files []string // whose change counts
}

// watchProgram begins to watch the program's file. Without inotify, or with too many watches already,
// cellctl swap remains.
func (n *nucleus) watchProgram(started *closers) {
	if n.program == nil {
		return
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		n.log.Warn("bin/ cannot be watched: use cellctl swap", zap.Error(err))
		return
	}
	f := &fileWatch{n: n, w: w, files: []string{n.cfg.Path(n.cfg.Cell.Binary)}}
	if n.cfg.Cell.Speaks == celltoml.JSONL {
		f.files = append(f.files, n.cfg.Path("schema.json"))
	}
	for dir := filepath.Dir(f.files[0]); len(dir) > len(n.cfg.Dir); dir = filepath.Dir(dir) {
		f.dirs = append(f.dirs, dir)
	}
	f.dirs = append(f.dirs, n.cfg.Dir)
	f.look()
	first := time.Duration(-1)
	if n.taken != nil {
		first = 0 // somebody may have replaced it while nobody watched
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx, first) })
	started.add(func() {
		cancel()
		_ = w.Close() // the descriptor is only ours
		running.Wait()
	})
}

// look watches those of the directories that are there.
func (f *fileWatch) look() {
	for _, dir := range f.dirs {
		if err := f.w.Add(dir); err != nil && !os.IsNotExist(err) {
			f.n.log.Warn("a directory cannot be watched: use cellctl swap", zap.String("dir", dir), zap.Error(err))
		}
	}
}

// run looks at the file when something has happened to it, and after first, unless that is negative.
func (f *fileWatch) run(ctx context.Context, first time.Duration) {
	timer := time.NewTimer(max(first, 0))
	if first < 0 {
		<-timer.C
	}
	tries := 0
	for {
		select {
		case e, ok := <-f.w.Events:
			if !ok {
				return
			}
			if f.concerns(e.Name) {
				tries = 0
				timer.Reset(quietTime)
			}
		case err, ok := <-f.w.Errors: // events may be lost
			if !ok {
				return
			}
			f.n.log.Warn("watching bin/", zap.Error(err))
			timer.Reset(quietTime)
		case <-timer.C:
			if f.swap(ctx) && tries < unfinishedTries {
				tries++
				timer.Reset(unfinishedTime)
			}
		case <-ctx.Done():
			return
		}
	}
}

// concerns says whether a change of this name may be one of the program. A directory on the way that
// appears has to be watched, and may have the program in it already.
func (f *fileWatch) concerns(name string) bool {
	for _, dir := range f.dirs[:len(f.dirs)-1] {
		if name == dir {
			f.look()
			return true
		}
	}
	for _, file := range f.files {
		if name == file {
			return true
		}
	}
	return false
}

// swap swaps if there is another program than the one that is served. It reports whether it is still
// being written.
func (f *fileWatch) swap(ctx context.Context) (unfinished bool) {
	ctx, cancel := context.WithTimeout(ctx, fileSwapLimit)
	defer cancel()
	req := swapRequest{By: byRename, Wanted: f.changed}
	_, err := f.n.swaps.swap(ctx, req, func(string) {}) // status and log have the error
	return program.Unfinished(err)
}

// changed reports that the program in bin/ is not the one that is served. A missing one is not: whoever
// takes it away is about to put another one there.
func (f *fileWatch) changed() bool {
	before, err := os.Stat(f.files[0])
	if err != nil {
		return false
	}
	sum, err := program.Digest(f.files[0])
	if err != nil {
		return !os.IsNotExist(err) // one that cannot be read is refused, with the reason
	}
	other := sum != f.n.swaps.inUse()
	if f.n.program.Refuses() {
		return false // nobody has mended it
	}
	if after, err := os.Stat(f.files[0]); err != nil || !os.SameFile(before, after) {
		return false // there is another one already, whose turn comes
	}
	if other {
		return true
	}
	if len(f.files) > 1 {
		schema, err := readSchema(f.files[1])
		if err == nil && schema.Hash() != f.n.server.Serving().Hash {
			return true
		}
	}
	f.n.program.NotWaiting()
	return false
}
