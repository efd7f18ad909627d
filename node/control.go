package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
	"github.com/celldnet/celld/node/race"
)

// The control API: HTTP over run/ctl.sock, for the owner only. internal/ctl has the routes and the
// types; each handler here is a line or two around what does the work.

type peerKey struct{}

// withPeer notes who is at the other end of a control connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if uc, ok := c.(*net.UnixConn); ok {
		if who, ok := whoIs(uc); ok {
			return context.WithValue(ctx, peerKey{}, who)
		}
	}
	return ctx
}

// handler answers one control request: it writes progress and rows, and returns the result.
type handler func(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error)

func (n *nucleus) routes() http.Handler {
	mux := http.NewServeMux()
	for route, h := range map[string]handler{
		"GET " + ctl.RouteStatus:   n.ctlStatus,
		"GET " + ctl.RouteMetrics:  n.ctlMetrics,
		"POST " + ctl.RoutePublish: n.ctlPublish,
		"GET " + ctl.RouteFind:     n.ctlFind,
		"POST " + ctl.RouteRace:    n.ctlRace,
		"GET " + ctl.RouteRaces:    n.ctlRaces,
		"GET " + ctl.RouteHistory:  n.ctlHistory,
		"GET " + ctl.RouteSchema:   n.ctlSchema,
		"GET " + ctl.RouteDescribe: n.ctlDescribe,
		"GET " + ctl.RouteVersion:  n.ctlVersion,
		"GET " + ctl.RouteDoctor:   n.ctlDoctor,
		"POST " + ctl.RouteStop:    n.ctlStop,
		"POST " + ctl.RouteSwap:    n.ctlSwap,
		"POST " + ctl.RouteRun:     n.ctlRun,
		"POST " + ctl.RouteFits:    n.ctlFits,

		"GET " + ctl.RouteMirrors:    n.ctlMirrors,
		"POST " + ctl.RouteMirrors:   n.ctlMirrorAdd,
		"DELETE " + ctl.RouteMirrors: n.ctlMirrorRemove,
		"POST " + ctl.RouteCollect:   n.ctlCollect,

		"POST " + ctl.RouteYield:  n.ctlYield,
		"POST " + ctl.RouteReturn: n.ctlReturn,

		"POST " + ctl.RouteGive:      n.ctlGive,
		"GET " + ctl.RouteGiveStatus: n.ctlGiveStatus,

		"GET " + ctl.RouteDeps:  n.ctlDeps,
		"POST " + ctl.RouteDeps: n.ctlUpdateDeps,
	} {
		mux.HandleFunc(route, n.answer(h))
	}
	for route, h := range n.accountRoutes() {
		mux.HandleFunc(route, n.answer(h))
	}
	mux.HandleFunc("GET "+ctl.RoutePrometheus, n.ctlPrometheus)
	mux.HandleFunc("POST "+ctl.RouteUse, n.ctlUse)
	mux.HandleFunc("POST "+ctl.RouteUpgrade, n.ctlUpgrade)
	return n.ownerOnly(mux)
}

// lookedAt are routes of who looks on.
var lookedAt = []string{ctl.RouteMetrics, ctl.RoutePrometheus, ctl.RouteEntries}

// ownerOnly refuses everybody else: the sockets' mode would do, but a mode can be changed.
func (n *nucleus) ownerOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := r.Context().Value(peerKey{}).(call.Who)
		if !ok || !who.Owner {
			http.Error(w, "only the cell's owner may", http.StatusForbidden)
			return
		}
		if slices.Contains(lookedAt, r.URL.Path) { // who only watches keeps no nucleus from retiring
			next.ServeHTTP(w, r)
			return
		}
		n.asked.Add(1)
		n.active.Store(time.Now().UnixNano())
		defer func() {
			n.active.Store(time.Now().UnixNano())
			n.asked.Add(-1)
		}()
		next.ServeHTTP(w, r)
	})
}

// answer makes an HTTP handler of h: lines of JSON, the last of them the result or the error.
func (n *nucleus) answer(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ctl.ContentType)
		rc := http.NewResponseController(w)
		out := ctl.NewWriter(w, func() { _ = rc.Flush() }) // a caller that left has ended the context
		timeout, err := ctl.ParseTimeout(r.URL.Query(), cellproto.DefaultTimeout)
		if err != nil {
			n.tell(out, cellproto.Errorf("read request", cellproto.BadInput, "%w", err))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		result, err := h(ctx, r, out)
		if err != nil {
			n.tell(out, err)
			return
		}
		if err := out.Result(result); err != nil {
			n.log.Debug("control caller left", zap.Error(err))
		}
	}
}

func (n *nucleus) tell(out *ctl.Writer, err error) {
	if werr := out.Fail(RemoteError(err)); werr != nil {
		n.log.Debug("control caller left", zap.Error(werr))
	}
}

// RemoteError gives the form in which an error travels over the control API.
func RemoteError(err error) *ctl.RemoteError {
	r := &ctl.RemoteError{
		Kind: cellproto.KindOf(err).String(), Message: err.Error(), Hint: cellproto.HintOf(err),
		RetryAfterMS: cellproto.RetryAfterOf(err).Milliseconds(),
	}
	var e *cellproto.Error
	if errors.As(err, &e) && e.Error() == err.Error() && e.Err != nil {
		r.Op, r.Message = e.Op, e.Err.Error()
	}
	return r
}

// fromControl is the inverse, for what another nucleus says.
func fromControl(op string, err error) error {
	var r *ctl.RemoteError
	if !errors.As(err, &r) {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	return cellproto.Errorf(op, cellproto.ParseKind(r.Kind), "%w", err).WithHint("%s", r.Hint)
}

func (n *nucleus) ctlStatus(context.Context, *http.Request, *ctl.Writer) (any, error) {
	return n.status(), nil
}

func (n *nucleus) ctlMetrics(context.Context, *http.Request, *ctl.Writer) (any, error) {
	return n.metrics(), nil
}

func (n *nucleus) ctlPublish(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	return n.publish(ctx, ctl.ParseGuard(r.URL.Query()), func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
}

func (n *nucleus) ctlFind(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	count := 0
	err := n.caller.Find(ctx, r.URL.Query().Get("target"), func(f call.Found) error {
		row := ctl.FindRow{Peer: f.Info.ID.String(), Addrs: []string{}, Source: f.Source}
		for _, a := range f.Info.Addrs {
			row.Addrs = append(row.Addrs, a.String())
		}
		count++
		return w.Item(row)
	})
	return ctl.Found{Count: count}, err
}

func (n *nucleus) ctlRace(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	_ = w.Progress("racing the providers")
	d, err := n.caller.Race(ctx, r.URL.Query().Get("target"))
	if err != nil {
		return nil, err
	}
	if id, published, err := n.caller.Resolve(ctx, r.URL.Query().Get("target")); err == nil && published {
		if text := n.placer.placementOf(id); text != "" {
			_ = w.Progress("placement: " + text)
		}
	}
	return raceRows(d.Ranking), nil
}

func raceRows(ranking []race.Ranked) []ctl.RaceRow {
	rows := []ctl.RaceRow{}
	for _, k := range ranking {
		rows = append(rows, ctl.RaceRow{
			Peer: string(k.Peer), MedianUS: int64(k.Median), P99US: int64(k.P99), Queue: k.Queue,
			ScoreUS: int64(k.Score), Winner: k.Winner, Error: k.Out,
		})
	}
	return rows
}

// ctlRaces tells of races as they end, until the time of the request is over.
func (n *nucleus) ctlRaces(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	every, err := ctl.ParseEvery(r.URL.Query())
	if err != nil {
		return nil, cellproto.Errorf("read request", cellproto.BadInput, "%w", err)
	}
	_ = w.Progress("racing the providers")
	return nil, n.caller.Watch(ctx, r.URL.Query().Get("target"), every, func(l race.Log) error {
		return w.Item(ctl.RaceReport{
			Time: l.Time, Why: string(l.Why), TookUS: int64(l.Took), Seen: l.Seen, Winner: string(l.Winner), Rows: raceRows(l.Candidates),
		})
	})
}

func (n *nucleus) ctlHistory(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	id, err := n.publishedTarget(ctx, r.URL.Query().Get("target"))
	if err != nil {
		return nil, err
	}
	versions, err := n.caller.History(ctx, id)
	rows := []ctl.HistoryRow{}
	for _, v := range versions {
		rows = append(rows, historyRow(v))
	}
	return rows, err
}

func historyRow(v call.Version) ctl.HistoryRow {
	return ctl.HistoryRow{
		CID: v.CID.String(), Version: v.Manifest.Version,
		Created: time.UnixMilli(v.Manifest.Created).UTC(), Schema: schemaText(v.Manifest.SchemaHash),
		Owner: string(v.Manifest.Owner), Note: v.Note,
	}
}

// publishedTarget gives the CID of a target, which may be this very cell.
func (n *nucleus) publishedTarget(ctx context.Context, target string) (cid.Cid, error) {
	id, published, err := n.caller.Resolve(ctx, target)
	if err != nil || published {
		return id, err
	}
	if _, id = n.serving.published(); !id.Defined() {
		return id, cellproto.Errorf("history of "+n.cfg.Cell.Name, cellproto.NotFound, "the cell is not published").
			WithHint("cellctl publish %s", n.cfg.Dir)
	}
	return id, nil
}

// ctlVersion gives one version of a cell whole, so that two can be compared.
func (n *nucleus) ctlVersion(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	q := r.URL.Query()
	id, err := n.publishedTarget(ctx, q.Get("target"))
	if err != nil {
		return nil, err
	}
	v, schema, err := n.caller.VersionSchema(ctx, id, func(versions []call.Version) (cid.Cid, error) {
		return chooseVersion(versions, q.Get("version"))
	})
	if err != nil {
		return nil, err
	}
	out := ctl.VersionDetail{HistoryRow: historyRow(v)}
	if out.Manifest, err = json.Marshal(v.Manifest); err != nil {
		return nil, cellproto.Errorf("show a manifest", cellproto.Failed, "%w", err)
	}
	if schema != nil {
		out.Full = schema.Canonical()
	}
	return out, nil
}

// chooseVersion finds the version that is named: by its CID, by its number, of which the newest counts, or by
// how many versions it lies behind the newest: "~1".
func chooseVersion(versions []call.Version, name string) (cid.Cid, error) {
	if back, ok := strings.CutPrefix(name, "~"); ok {
		if i, err := strconv.Atoi(back); err == nil && i >= 0 && i < len(versions) {
			return versions[i].CID, nil
		}
	}
	for _, v := range versions {
		if v.CID.String() == name || v.Manifest.Version == name {
			return v.CID, nil
		}
	}
	return cid.Undef, cellproto.Errorf("read history", cellproto.NotFound, "there is no version %.80q among %d", name, len(versions)).
		WithHint("cellctl history lists them; ~1 is the one before the newest.")
}

func schemaText(h cellproto.SchemaHash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

func (n *nucleus) ctlSchema(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	schema, err := n.targetSchema(ctx, r.URL.Query().Get("target"))
	if err != nil {
		return nil, err
	}
	return json.RawMessage(schema.Canonical()), nil
}

// targetSchema gives the schema of a target. The cell's own program is started for it, if nobody has asked it yet.
func (n *nucleus) targetSchema(ctx context.Context, target string) (*cellproto.Schema, error) {
	if n.own(target) && n.program != nil && n.server.Serving().Schema == nil {
		if _, err := (watched{n.program, n.serving}).Conn(ctx); err != nil {
			return nil, err
		}
	}
	return n.caller.Schema(ctx, target)
}

// ctlDescribe says what a target is now: for those who pin what they were made for.
func (n *nucleus) ctlDescribe(ctx context.Context, r *http.Request, _ *ctl.Writer) (any, error) {
	target := r.URL.Query().Get("target")
	schema, err := n.targetSchema(ctx, target)
	if err != nil {
		return nil, err
	}
	out := ctl.Description{Schema: schema.Canonical()}
	dir, id, err := n.caller.Where(ctx, target)
	if err != nil {
		return out, err
	}
	m := (*signed.Manifest)(nil)
	if id.Defined() {
		m = n.caller.Known(id)
	} else if m, id = publishedIn(dir); m == nil || m.SchemaHash != schema.Hash() {
		return out, nil // what is there now was never published
	}
	out.CID = id.String()
	if m != nil {
		out.Version = m.Version
	}
	return out, nil
}

// own says whether a target is this very cell.
func (n *nucleus) own(target string) bool {
	return target == "" || filepath.Clean(target) == n.cfg.Dir
}

func (n *nucleus) ctlDoctor(ctx context.Context, _ *http.Request, _ *ctl.Writer) (any, error) {
	return n.doctor(ctx), nil
}

func (n *nucleus) ctlSwap(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	q := r.URL.Query()
	req := swapRequest{Program: q.Get("program"), Guard: ctl.ParseGuard(q), Publish: q.Has("publish"), By: "cellctl swap"}
	if req.Program != "" && !filepath.IsAbs(req.Program) {
		return nil, cellproto.Errorf("read request", cellproto.BadInput, "program is %.200q, not an absolute path", req.Program)
	}
	return n.swaps.swap(ctx, req, func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
}

// ctlFits says whether a program with another schema could take over.
func (n *nucleus) ctlFits(ctx context.Context, r *http.Request, w *ctl.Writer) (any, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, cellproto.MaxSchema+1))
	if err != nil {
		return nil, cellproto.Errorf("read request", cellproto.Failed, "%w", err)
	}
	schema, err := cellproto.ParseSchema(data)
	if err != nil {
		return nil, err
	}
	version, err := n.swaps.newVersion(swapRequest{})
	if err != nil {
		return nil, err
	}
	from := n.serving.releaseVersion()
	out := ctl.Fits{From: from, To: version, Rises: majorRises(from, version)}
	guard := ctl.ParseGuard(r.URL.Query())
	guard.Force = guard.Force || out.Rises
	v, err := n.judgeBy(ctx, guard, n.server.Serving().Schema, schema, func(text string) { _ = w.Progress(text) }) // a caller that left has ended ctx
	if err != nil {
		return nil, err
	}
	out.Broken, out.Notes = v.broken, v.told()
	if err := v.refuse("build "+n.cfg.Cell.Name, from, "cellctl build"); err != nil && !guard.Force {
		out.Refused = RemoteError(err)
	}
	return out, nil
}

func (n *nucleus) ctlStop(context.Context, *http.Request, *ctl.Writer) (any, error) {
	time.AfterFunc(stopDelay, n.stop)
	return nil, nil
}

const stopDelay = 10 * time.Millisecond // so that the answer is out before the socket closes
