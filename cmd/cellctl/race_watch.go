package main

import (
	"fmt"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// watchTime is how long races are watched if nobody ends it: as long as a command may take.
const watchTime = 24 * time.Hour

// watchRaces shows each race as it ends: on a terminal in place, else as one table after the other, or as
// lines of JSON. That the time is over is how it ends.
func (a *app) watchRaces(q question, every time.Duration) (err error) {
	view := &raceView{app: a, inPlace: !a.json && a.isTerminal(a.out), target: q.target.text}
	defer func() {
		if cerr := view.close(); err == nil {
			err = cerr
		}
	}()
	err = q.client.Watch(q.ctx, q.target.text, every, func(r ctl.RaceReport) error {
		q.progress.done()
		return view.show(r)
	})
	q.progress.done()
	if err == nil {
		return nil
	}
	if err = q.failed(err); cellproto.KindOf(err) == cellproto.Timeout && view.races > 0 {
		return nil
	}
	return err
}

// raceView is what is shown of the races of one cell.
type raceView struct {
	app     *app
	inPlace bool
	target  string
	races   int
	last    ctl.RaceReport
}

func (v *raceView) show(r ctl.RaceReport) error {
	v.races++
	v.last = r
	switch {
	case v.app.json:
		return v.app.printJSON(r)
	case v.inPlace:
		if v.races == 1 {
			if err := v.app.print([]byte(enterScreen)); err != nil {
				return err
			}
		}
		return v.app.print(v.app.drawn(v.head()+"; ^C ends", raceTable(r.Rows), nil))
	}
	if err := v.app.print([]byte(v.head() + "\n")); err != nil {
		return err
	}
	if err := v.app.table(raceTable(r.Rows)); err != nil {
		return err
	}
	return v.app.print([]byte("\n"))
}

// close leaves the last race on the terminal that was drawn on.
func (v *raceView) close() error {
	if !v.inPlace || v.races == 0 {
		return nil
	}
	if err := v.app.print([]byte(leaveScreen)); err != nil {
		return err
	}
	if err := v.app.print([]byte(v.head() + "\n")); err != nil {
		return err
	}
	return v.app.table(raceTable(v.last.Rows))
}

// head says which race it is, and why it was held.
func (v *raceView) head() string {
	r := v.last
	return fmt.Sprintf("%s  race %d of %s (%s): %d seen, took %s",
		r.Time.Local().Format(time.TimeOnly), v.races, safe(v.target), safe(r.Why), r.Seen, micros(r.TookUS))
}

// leastWatch is how often races are held for a watcher, at most: each costs its candidates a few frames.
const leastWatch = time.Second

func checkEvery(every time.Duration) error {
	if every < leastWatch || every > time.Hour {
		return cellproto.Errorf("race", cellproto.BadInput, "--every %v is not between %v and 1h", every, leastWatch)
	}
	return nil
}
