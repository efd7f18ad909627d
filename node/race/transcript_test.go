package race

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// epoch is the 0 of all transcripts.
var epoch = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// TestTranscripts replays testdata/*.txt. A file is made of blocks: lines of "time verb key=value
// ...", then "----", then what is printed. Lines that begin with # are comments.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(data))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(data) {
				t.Errorf("%s differs (run with -update to accept)\n--- got\n%s\n--- want\n%s", f, got, data)
			}
		})
	}
}

func replay(t *testing.T, in string) string {
	w := &world{t: t, now: epoch, book: NewReputation()}
	var out strings.Builder
	skipping := false
	for line := range strings.Lines(in) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			fmt.Fprintf(&out, "----\n%s", w.flush())
			skipping = true
		case line == "":
			skipping = false
			out.WriteString("\n")
		case skipping:
		default:
			out.WriteString(line + "\n")
			if !strings.HasPrefix(line, "#") {
				w.do(line)
			}
		}
	}
	return out.String()
}

// world is everything that a transcript can act on.
type world struct {
	t      *testing.T
	now    time.Time
	race   *Race
	book   *Reputation
	cached Cached
	out    strings.Builder
	quiet  bool // the block has printed all it wants to
}

type args map[string]string

func (a args) dur(k string) time.Duration {
	d, err := time.ParseDuration(a[k])
	if err != nil {
		return 0
	}
	return d
}

func (a args) num(k string) int {
	n, _ := strconv.Atoi(a[k])
	return n
}

func (a args) has(k string) bool { _, ok := a[k]; return ok }

func hashes(names string) (out []cellproto.SchemaHash) {
	for _, n := range strings.Split(names, ",") {
		if n != "" {
			var h cellproto.SchemaHash
			copy(h[:], n)
			out = append(out, h)
		}
	}
	return out
}

// do runs one line.
func (w *world) do(line string) {
	words := strings.Fields(line)
	d, err := time.ParseDuration(words[0])
	if err != nil || len(words) < 2 {
		w.t.Fatalf("bad line %q: %v", line, err)
	}
	w.now = epoch.Add(d)
	a := args{}
	for _, word := range words[2:] {
		k, v, ok := strings.Cut(word, "=")
		if !ok {
			if _, err := time.ParseDuration(k); err == nil {
				k, v = "d", k
			} else if _, have := a["peer"]; !have && !isFlag(k) {
				k, v = "peer", k
			}
		}
		a[k] = v
	}
	peer := cellproto.PeerID(a["peer"])
	kind := cellproto.ParseKind(strings.ReplaceAll(a["kind"], "-", " "))
	if !w.doRace(words[1], a, peer, kind) && !w.doBook(words[1], a, peer, kind) && !w.doWinner(words[1], a, peer) {
		w.t.Fatalf("unknown verb in %q", line)
	}
}

func isFlag(s string) bool {
	return s == "patient" || s == "relayed" || s == "direct" || s == "hurried"
}

func (w *world) doRace(verb string, a args, peer cellproto.PeerID, kind cellproto.Kind) bool {
	switch verb {
	case "race":
		r, err := New(Config{Patient: a.has("patient"), Accepts: hashes(a["accepts"]), MaxProbed: a.num("probed"), Timeout: a.dur("timeout")},
			uint64(a.num("seed")), w.now)
		if err != nil {
			w.t.Fatal(err)
		}
		w.race = r
	case "join":
		obs := w.book.Observed(w.now, peer)
		for _, name := range strings.Split(string(peer), ",") {
			c := Candidate{Peer: cellproto.PeerID(name), Source: a["source"], Relayed: a.has("relayed")}
			if c.Source == "" {
				c.Source = "dht"
			}
			if !w.race.Join(w.now, c, obs) {
				fmt.Fprintf(&w.out, "no more after %s\n", name)
			}
		}
	case "close":
		w.race.Close(w.now)
	case "advert":
		capacity := max(a.num("cap"), 1)
		free := capacity
		if a.has("free") {
			free = a.num("free")
		}
		w.race.AdvertArrived(w.now, peer, Claim{P50: MicrosOf(a.dur("p50")), P99: MicrosOf(a.dur("p99")), Queue: a.num("queue"),
			Capacity: capacity, Free: free, Provided: hashes(a["schema"]), Accepted: hashes(a["accepted"])})
	case "noadvert":
		w.race.AdvertFailed(w.now, peer, kind)
	case "ping":
		w.race.PingArrived(w.now, peer, a.dur("d"))
	case "gone":
		w.race.Failed(w.now, peer, kind)
	case "path":
		w.race.Path(peer, a.has("relayed"))
	case "tick":
		w.race.Tick(w.now)
	default:
		return false
	}
	return true
}

func (w *world) doBook(verb string, a args, peer cellproto.PeerID, kind cellproto.Kind) bool {
	switch verb {
	case "ok":
		for range max(a.num("times"), 1) {
			w.book.Succeeded(w.now, peer, a.dur("d"))
		}
	case "fail":
		w.book.Failed(w.now, peer)
	case "wrong":
		w.book.Wrong(w.now, peer)
	case "error":
		w.book.Called(w.now, peer, kind, 0, a.dur("retry"))
	case "reload":
		data, err := json.Marshal(w.book)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal(data, w.book); err != nil {
			w.t.Fatal(err)
		}
	case "json":
		data, _ := json.Marshal(w.book)
		fmt.Fprintf(&w.out, "%s\n", data)
	case "show":
		o := w.book.Observed(w.now, peer)
		ban := map[Ban]string{BanNone: "no ban", BanFailing: "banned as failing", BanLying: "banned as lying"}[o.Ban]
		if o.Ban != BanNone {
			ban += fmt.Sprintf(" for %v", o.BannedUntil.Sub(w.now).Round(time.Millisecond))
		}
		fmt.Fprintf(&w.out, "%s: %d calls p50=%d p99=%d, %d failures, penalty %d, %s\n", peer, o.Calls, o.P50, o.P99, o.Failures, o.Penalty, ban)
	default:
		return false
	}
	w.quiet = true
	return true
}

func (w *world) doWinner(verb string, a args, peer cellproto.PeerID) bool {
	switch verb {
	case "called":
		for range max(a.num("times"), 1) {
			w.cached.Called(a.dur("d"))
		}
	case "failed":
		w.cached.Failed()
	case "outrun":
		w.cached.Outrun()
	case "begin":
		w.cached.Begin(w.cached.ShouldRace(w.now, Policy{}))
	case "won":
		d := &Decision{Winner: peer, At: w.now, Hurried: a.has("hurried"),
			Ranking: []Ranked{{Candidate: Candidate{Peer: peer}, CallP99: MicrosOf(a.dur("p99"))}, {Out: "not in time"}}}
		for range max(a.num("of"), 1) - 1 {
			d.Ranking = append(d.Ranking, Ranked{})
		}
		w.cached.Take(d)
	case "lost":
		w.cached.Take(&Decision{At: w.now})
	case "store":
		data, _ := json.Marshal(w.cached)
		fmt.Fprintf(&w.out, "%s\n", data)
		c, err := ParseCached(data)
		if err != nil {
			w.t.Fatal(err)
		}
		w.cached = c
	case "ask":
	default:
		return false
	}
	why := w.cached.ShouldRace(w.now, Policy{})
	serves := "nobody serves"
	if w.cached.Serves(w.now, Policy{}) {
		serves = string(w.cached.Peer) + " serves"
	}
	if why == NoReason {
		why = "no race"
		if w.cached.racing != NoReason {
			why = "racing because of " + w.cached.racing
		}
	} else {
		why = "race because of " + why
	}
	fmt.Fprintf(&w.out, "%s, %s\n", serves, why)
	w.quiet = true
	return true
}

// flush gives what the block prints: its own output, or what the race wants.
func (w *world) flush() string {
	defer func() { w.out.Reset(); w.quiet = false }()
	if w.race == nil || w.quiet {
		return w.out.String()
	}
	ready := w.race.Ready()
	for _, a := range ready.Actions {
		what := map[Ask]string{AskAdvert: "ask for advert", AskPing: "ping", AskCancel: "cancel"}[a.Do]
		fmt.Fprintf(&w.out, "%s %s\n", what, a.Candidate.Peer)
	}
	if ready.Decision == nil {
		fmt.Fprintf(&w.out, "tick at %v\n", ready.Deadline.Sub(epoch))
		return w.out.String()
	}
	d := ready.Decision
	fmt.Fprintf(&w.out, "decided at %v, seen %d, hurried %v\n", d.At.Sub(epoch), d.Seen, d.Hurried)
	for _, r := range d.Ranking {
		if r.Out != "" {
			fmt.Fprintf(&w.out, "  %s out: %s\n", r.Peer, r.Out)
			continue
		}
		star, parts := "", r.Parts
		if r.Winner {
			star = " winner"
		}
		fmt.Fprintf(&w.out, "  %s median %d p99 %d queue %d score %d = %d+%d+%d relay %d reputation %d no advert %d, call p99 %d%s\n", r.Peer,
			r.Median, r.P99, r.Queue, r.Score, parts.Ping, parts.Work, parts.Queue, parts.Relay, parts.Reputation, parts.NoAdvert, r.CallP99, star)
	}
	if err := d.Err("race"); err != nil {
		fmt.Fprintf(&w.out, "  %v: %v\n", cellproto.KindOf(err), err)
	}
	return w.out.String()
}
