package node

import (
	"context"
	"encoding/hex"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/program"
)

// swapRequest says what is to take over from the program that runs.
type swapRequest struct {
	Program string    // absolute path of a file that is copied into bin/ first; "": what is in bin/ now
	Guard   ctl.Guard // whose callers count
	Publish bool      // and publish it, without a moment in which nothing is published
	By      string    // who wants it, for the history: "cellctl swap", "a new file in bin/"
	// Wanted is asked when the swaps before this one are over; if it says no, nothing is done. Nil: it is.
	Wanted func() bool
}

// command is what is to be given --force; what came about without a command is swapped by hand then.
func (r *swapRequest) command() string {
	if r.By == "cellctl publish" {
		return r.By
	}
	return "cellctl swap"
}

// swaps replaces the program of the cell, and keeps serving in step with what runs.
type swaps struct {
	n     *nucleus
	runs  *runs
	busy  chan struct{} // capacity 1: taken while a swap goes on
	tasks sync.WaitGroup

	mu    sync.Mutex
	moved *cellproto.Conn // to the program of the last swap
	undo  func() error    // takes back what that has put into bin/; nil: nothing
	last  ctl.RunRow      // what ran before it
}

func newSwaps(n *nucleus) *swaps {
	return &swaps{n: n, runs: openRuns(n.cfg.Dir, n.log), busy: make(chan struct{}, 1)}
}

// swap has a new program take over without a call being dropped; see program.Swap. A program that
// would break callers is refused, unless the major version in cell.toml has risen since the one that
// runs, or Force. When it fails everything is as before, but for what the owner has put into bin/.
func (s *swaps) swap(ctx context.Context, req swapRequest, say func(string)) (ctl.Swapped, error) {
	n, op, begin := s.n, "swap "+s.n.cfg.Cell.Name, time.Now()
	if n.program == nil {
		return ctl.Swapped{}, cellproto.Errorf(op, cellproto.BadInput, "a nucleus without a program has nothing to swap").
			WithHint("Set binary in cell.toml and restart the nucleus.")
	}
	if req.Publish {
		if err := n.mayPublish(op); err != nil {
			return ctl.Swapped{}, err
		}
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return ctl.Swapped{}, cellproto.Errorf(op, cellproto.KindOf(ctx.Err()), "%w while another swap went on", ctx.Err())
	}
	if req.Wanted != nil && !req.Wanted() {
		return ctl.Swapped{}, nil
	}
	version, err := s.newVersion(req)
	if err != nil {
		return ctl.Swapped{}, err
	}
	undo, err := s.install(req, say)
	if err != nil {
		return ctl.Swapped{}, err
	}
	say("starting the new program")
	t := &turn{s: s, req: req, version: version, say: say}
	err = n.program.Swap(ctx, program.Candidate{
		Fit:   t.fit,
		Moved: func(c *cellproto.Conn) { t.moved(ctx, c, undo) },
	})
	n.olds.expect(ctx, nil)
	if err != nil {
		s.refused(ctx, version, undo, err)
		return ctl.Swapped{}, err
	}
	out := t.out
	out.Version, out.ProgramPID, out.BLAKE3 = version, n.program.State().PID, t.row.BLAKE3
	out.TookMS = time.Since(begin).Milliseconds()
	if t.publishErr == nil && req.Publish {
		out.IPNS, err = n.nameIt(ctx, t.id)
		if err != nil {
			say("the name is not published yet, and goes on: " + err.Error())
		}
	}
	return out, t.publishErr
}

// install puts the program that is asked for into bin/. What the last swap has put there is not taken
// back any more.
func (s *swaps) install(req swapRequest, say func(string)) (undo func() error, err error) {
	if req.Program == "" || sameFile(req.Program, s.n.cfg.Path(s.n.cfg.Cell.Binary)) {
		return nil, nil
	}
	say("copying " + req.Program)
	s.mu.Lock()
	defer s.mu.Unlock()
	if undo, err = s.n.program.Install(req.Program); err == nil {
		s.undo = nil
	}
	return undo, err
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	y, nerr := os.Stat(b)
	return err == nil && nerr == nil && os.SameFile(x, y)
}

// newVersion reads the version that cell.toml gives now. For a file that appeared in bin/ a cell.toml
// that cannot be read is no reason to run the old one for ever.
func (s *swaps) newVersion(req swapRequest) (string, error) {
	fresh, err := celltoml.Load(s.n.cfg.Dir)
	if err == nil {
		return fresh.Cell.Version, nil
	}
	if req.By != byRename {
		return "", err
	}
	s.n.log.Warn("cell.toml cannot be read: the version stays", zap.Error(err))
	return s.n.serving.releaseVersion(), nil
}

// catchUp swaps if the program in bin/ is not the one that is served.
func (s *swaps) catchUp(ctx context.Context, guard ctl.Guard, say func(string)) error {
	changed := func() bool {
		sum, err := program.Digest(s.n.cfg.Path(s.n.cfg.Cell.Binary))
		return err == nil && sum != s.inUse() // without a program, what comes next says so
	}
	_, err := s.swap(ctx, swapRequest{By: "cellctl publish", Guard: guard, Wanted: changed}, say)
	return err
}

// inUse gives the BLAKE3 of the program that runs, or that ran last. It asks the program: when one was
// rolled back, serving follows a moment later.
func (s *swaps) inUse() signed.Digest {
	if s.n.program.Current() != nil {
		if sum, err := program.Digest(s.n.program.Binary()); err == nil {
			return sum
		}
	}
	return s.n.serving.digest()
}

// refused notes a swap that did not come about, and takes back what it has put into bin/.
func (s *swaps) refused(ctx context.Context, version string, undo func() error, cause error) {
	row := ctl.RunRow{Time: time.Now(), Version: version, Outcome: ctl.OutcomeRefused, Reason: cause.Error()}
	if sum, err := program.Digest(s.n.cfg.Path(s.n.cfg.Cell.Binary)); err == nil {
		row.BLAKE3 = hex.EncodeToString(sum[:])
	}
	if undo != nil {
		if err := undo(); err != nil {
			s.n.log.Warn("the new program stays in bin/", zap.Error(err))
		}
	}
	if ctx.Err() == nil && !program.Unfinished(cause) {
		s.runs.add(row)
	}
}

// turn is one swap under way.
type turn struct {
	s       *swaps
	req     swapRequest
	version string
	say     func(string)

	schema     *cellproto.Schema
	manifest   *signed.Manifest // to be published; nil: nothing is
	id         cid.Cid
	publishErr error
	row        ctl.RunRow
	out        ctl.Swapped
}

// fit says whether the program at the end of c serves those who call the one that runs.
func (t *turn) fit(ctx context.Context, c *cellproto.Conn) error {
	n, op := t.s.n, "swap "+t.s.n.cfg.Cell.Name
	t.say("comparing the schemas")
	var err error
	if t.schema, err = n.schemaOf(ctx, c); err != nil {
		return err
	}
	from := n.serving.releaseVersion()
	guard, rises := t.req.Guard, majorRises(from, t.version)
	guard.Force = guard.Force || rises
	v, err := n.judgeBy(ctx, guard, n.server.Serving().Schema, t.schema, t.say)
	if err != nil {
		return err
	}
	t.out.Changes, t.out.Broken, t.out.Notes = v.changes(), v.broken, v.told()
	if !guard.Force {
		if err := v.refuse(op, from, t.req.command()); err != nil {
			return err
		}
	}
	if !t.req.Guard.Force && v.says {
		if err := n.olds.keep(ctx, t.say); err != nil {
			return err
		}
		n.olds.expect(ctx, t.schema)
	}
	if t.req.Publish {
		t.say("preparing the manifest")
		m, err := n.prepare(ctx, t.schema, t.version)
		if err != nil {
			return err
		}
		t.manifest = &m
	}
	n.schemas.keep(t.schema) // from now on calls are held against it
	return nil
}

// majorRises reports that the major number of a semver is larger than that of the one before.
func majorRises(from, to string) bool {
	number := func(v string) string { major, _, _ := strings.Cut(v, "."); return major }
	a, b := number(from), number(to)
	return len(b) > len(a) || len(b) == len(a) && b > a // without leading zeros
}

// moved keeps serving in step: new requests go to the program at the end of c from now on.
func (t *turn) moved(ctx context.Context, c *cellproto.Conn, undo func() error) {
	s, n := t.s, t.s.n
	s.mu.Lock()
	s.moved, s.undo = c, undo
	s.last = ctl.RunRow{Version: n.serving.releaseVersion(), Schema: schemaText(n.server.Serving().Hash)}
	s.mu.Unlock()
	t.id, t.publishErr = n.serving.moved(ctx, c, t.schema, t.version, t.manifest)
	if t.id.Defined() {
		t.out.CID = t.id.String()
	}
	sum := n.serving.digest()
	t.row = ctl.RunRow{
		Time: time.Now(), BLAKE3: hex.EncodeToString(sum[:]), Version: t.version, Schema: schemaText(schemaHash(t.schema)),
		Outcome: ctl.OutcomeSwapped, Reason: t.req.By,
	}
	t.out.Schema = t.row.Schema
	s.runs.add(t.row)
}

func schemaHash(s *cellproto.Schema) cellproto.SchemaHash {
	if s == nil {
		return cellproto.SchemaHash{}
	}
	return s.Hash()
}

// rolledBack keeps serving in step with a program that was taken up again, since the one at the end of
// failed was no good.
func (s *swaps) rolledBack(failed *cellproto.Conn, why error) {
	s.mu.Lock()
	row := ctl.RunRow{Version: s.n.serving.releaseVersion()}
	if failed != nil && failed == s.moved {
		row = s.last
		if s.undo != nil {
			if err := s.undo(); err != nil {
				s.n.log.Warn("the new program stays in bin/", zap.Error(err))
			}
		}
		s.moved, s.undo, s.last = nil, nil, ctl.RunRow{}
	}
	s.mu.Unlock()
	row.Time, row.Outcome, row.Reason = time.Now(), ctl.OutcomeRolledBack, why.Error()
	if sum, err := program.Digest(s.n.program.Binary()); err == nil {
		row.BLAKE3 = hex.EncodeToString(sum[:])
	}
	s.runs.add(row)
	s.tasks.Go(func() {
		s.busy <- struct{}{} // what a swap is about to say is said first
		defer func() { <-s.busy }()
		ctx, cancel := context.WithTimeout(context.Background(), schemaTimeout)
		defer cancel()
		s.n.serving.reinstate(ctx, s.n.program.Current(), row.Version)
		s.n.invite()
	})
}

// wait returns when nothing is under way any more. The program is closed by then.
func (s *swaps) wait() { s.tasks.Wait() }
