package celltest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/mirror/offer"
)

// Machine makes another machine of the network: one with a home cell of its own.
func (n *Net) Machine() *Net {
	n.t.Helper()
	m := &Net{t: n.t, name: n.name, root: n.t.TempDir(), bootstrap: n.bootstrap}
	n.t.Cleanup(m.endLate)
	m.home = m.At("home")
	return m
}

// give has a machine give, whatever the load of this one.
func (n *Net) give(args ...string) ctl.Giving {
	n.t.Helper()
	return n.giving(append([]string{"give", "--busy", "100%", "--ram", "50%", "--cpu", "100%"}, args...)...)
}

func (n *Net) giving(args ...string) (g ctl.Giving) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.Must(n.root, append(args, "--json")...)), &g); err != nil {
		n.t.Fatal(err)
	}
	return g
}

// donor starts a machine that gives.
func (n *Net) donor(args ...string) *Net {
	n.t.Helper()
	d := n.Machine()
	d.give(args...)
	var last ctl.Giving
	Eventually(n.t, "it gives", func() bool { last = d.giving("give", "status"); return last.Running })
	return d
}

// hosted waits until the machine hosts so many cells, all in that state, and gives them.
func (n *Net) hosted(want int, state string) []ctl.HostedRow {
	n.t.Helper()
	var rows []ctl.HostedRow
	Eventually(n.t, fmt.Sprintf("%d cells are hosted and %s", want, state), func() bool {
		rows = n.giving("give", "status").Hosted
		for _, r := range rows {
			if r.State != state {
				return false
			}
		}
		return len(rows) == want
	})
	return rows
}

// wanting makes a cell that wants a copy near by, on a machine of its own.
func (n *Net) wanting(name string) *Cell {
	n.t.Helper()
	c := n.Machine().Headless(name)
	c.write(".cell-cache/slo.json", missed, 0o600)
	c.Start()
	return c
}

const (
	// missed is an objective that the calls of a load miss, and within which a donor is also where the machine is busy.
	missed = `{"max_p99_ms": 100, "clone_on_violation": true}`
	// takes is how many milliseconds the calls of a load take.
	takes = "150"
)

// atOnce is how many calls of a load are under way.
const atOnce = 2

// load calls a function all the time until stop is called, which gives how many calls there were. Every one has to
// succeed.
func (c *Cell) load(target string) (by *answers, stop func() (calls int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	by = &answers{}
	for range atOnce {
		work.Go(func() {
			for ctx.Err() == nil {
				reply, meta, err := c.Use(context.Background(), target, "slow", takes)
				if err != nil || string(reply) != takes {
					c.t.Errorf("call %d failed: %s: %v", by.count(), reply, err)
				}
				by.add(meta.Provider)
			}
		})
	}
	return by, sync.OnceValue(func() int { cancel(); work.Wait(); return by.count() })
}

// answers are who has answered calls, and when.
type answers struct {
	mu  sync.Mutex
	all []answer
}

type answer struct {
	at time.Time
	by string
}

func (a *answers) add(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, answer{time.Now(), by})
}

func (a *answers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all)
}

// last says whether somebody has given the last n answers of those up to a moment.
func (a *answers) last(n int, by string, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	end := sort.Search(len(a.all), func(i int) bool { return a.all[i].at.After(until) })
	return end >= n && !slices.ContainsFunc(a.all[end-n:end], func(x answer) bool { return x.by != by })
}

// now is last for those up to now.
func (a *answers) now(n int, by string) func() bool {
	return func() bool { return a.last(n, by, time.Now()) }
}

// placement gives what a caller's nucleus says of the copy of a cell.
func (c *Cell) placement(cell string) ctl.Placement {
	for _, p := range c.Status().Placements {
		if p.CID == cell {
			return p
		}
	}
	return ctl.Placement{}
}

// placed makes a provider, a donor, and a caller for whom the donor has taken the provider's cell up.
func placed(t *testing.T) (provider *Cell, cell string, donor *Net, caller *Cell, by *answers, stop func() int) {
	n := New(t)
	provider, published := n.provide("calculator")
	donor = n.donor()
	caller = n.wanting("caller")
	by, stop = caller.load(published.CID)
	t.Cleanup(func() { stop() })
	Eventually(t, "a donor has a copy", func() bool { return caller.placement(published.CID).State == ctl.PlacementThere })
	return provider, published.CID, donor, caller, by, stop
}

// A caller whose objective is missed gets a copy near by unasked; losing the original costs it nothing, and others
// find the copy too. Its host sees for whom it is.
func TestPlacedOnDonor(t *testing.T) {
	t.Parallel()
	provider, cell, donor, caller, by, stop := placed(t)
	p := caller.placement(cell)
	row := donor.hosted(1, ctl.Running)[0]
	if row.CID != cell || row.Name != "calculator" || row.ForWhom != caller.Status().PeerID {
		t.Errorf("it is hosted as %+v", row)
	}
	mirror := donor.At(row.Dir)
	s := mirror.Status()
	if s.PeerID != p.Mirror || !strings.HasPrefix(s.SandboxTier, "T") || s.CID != cell {
		t.Errorf("the mirror is %+v, the caller knows %+v", s, p)
	}
	if m := donor.mirrors(t, 1)[0]; !m.Hosted || !m.Public || m.AskedBy != caller.Status().PeerID {
		t.Errorf("mirror ls says %+v", m)
	}
	provider.Kill()
	Eventually(t, "the copy answers", by.now(1, p.Mirror))
	other := donor.Machine().Headless("other")
	other.Start()
	Eventually(t, "others find it", func() bool {
		_, meta, err := other.Use(t.Context(), cell, "add", "3", "4")
		return err == nil && meta.Provider == p.Mirror
	})
	if text := caller.Must("status"); !strings.Contains(text, "has a copy") {
		t.Errorf("status says nothing of the copy:\n%s", text)
	}
	t.Logf("%d calls", stop())

	// What nobody wants to give any more is gone, with its directory.
	program := mirror.Status().ProgramPID
	donor.Must(donor.root, "give", "stop")
	if entries, _ := filepath.Glob(filepath.Join(donor.root, "foreign", "[^.]*")); len(entries) != 0 {
		t.Errorf("these are left: %v", entries)
	}
	if program > 0 && Alive(program) {
		t.Error("its program still runs")
	}
	donor.hosted(0, "")
}

// Two who miss the same objective get the same copy.
func TestTwoCallersOneMirror(t *testing.T) {
	t.Parallel()
	n := New(t)
	_, published := n.provide("calculator")
	donor := n.donor()
	var callers []*Cell
	for _, name := range []string{"one", "two"} {
		c := n.wanting(name)
		_, stop := c.load(published.CID)
		t.Cleanup(func() { stop() })
		callers = append(callers, c)
	}
	// One that has found the other's mirror by itself before it asks, and misses its objective there too, is told of
	// that very one, and copies the cell to its own machine.
	for _, c := range callers {
		Eventually(t, "each has a copy", func() bool {
			state := c.placement(published.CID).State
			return state == ctl.PlacementThere || state == ctl.PlacementHere
		})
	}
	row := donor.hosted(1, ctl.Running)[0]
	mirror := donor.At(row.Dir)
	for _, c := range callers {
		if p := c.placement(published.CID); p.State == ctl.PlacementThere && p.Mirror != mirror.Status().PeerID {
			t.Errorf("%+v", p)
		}
	}
	donor.mirrors(t, 1)
	// What the donor's owner does not want any more goes, and no call fails.
	donor.giving("give", "--deny", published.CID)
	donor.hosted(0, "")
	donor.mirrors(t, 0)
}

// The owner of the donor's machine comes back: callers whom the copy has answered until then move without a failed call,
// and nothing of the program runs 2 s later. When he has left it goes on.
func TestDonorPauses(t *testing.T) {
	t.Parallel()
	provider, cell, donor, caller, by, stop := placed(t)
	mirror := donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	id := mirror.Status().PeerID
	p := pausing{t, provider, mirror, donor, caller, cell, by}
	for try := 1; !p.pause(id); try++ { // nobody holds callers to a copy that is no nearer
		if try == pausesTried {
			t.Fatalf("%d times callers had left the copy before it was paused", try)
		}
		donor.giving("give", "--schedule", "always")
		donor.hosted(1, ctl.Running)
	}
	Eventually(t, "the original answers", by.now(1, provider.Status().PeerID))
	donor.hosted(1, "paused")
	donor.giving("give", "--schedule", "always")
	donor.hosted(1, ctl.Running)
	provider.Kill()
	Eventually(t, "the copy answers again", by.now(1, id))
	t.Logf("%d calls", stop())
}

const (
	pausesTried = 8
	inARow      = 10              // calls that the copy has answered before it is paused
	stays       = 3 * time.Second // how long callers are waited for who may stay at the original
)

// pausing is a copy that is paused under those who call it.
type pausing struct {
	t                *testing.T
	provider, mirror *Cell
	donor            *Net
	caller           *Cell
	cell             string
	by               *answers
}

// pause has the donor's owner come back, and reports whether the copy answered calls right up to that, and had one in
// flight that it could not end.
func (p *pausing) pause(id string) bool {
	t := p.t
	t.Helper()
	p.provider.Stop() // so that the calls go to the copy
	Eventually(t, "the copy answers", p.by.now(inARow, id))
	program := p.mirror.Status().ProgramPID
	p.provider.Start()
	original := p.provider.Status().PeerID
	Eventually(t, "the original is back", func() bool { return p.caller.canReach(p.cell, original) })
	for deadline := time.Now().Add(stays); !p.by.now(inARow, id)() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	// Calls take longer than a pause waits: those at the copy are cut, and made again elsewhere.
	long := make(chan string, 1)
	go func() {
		reply, meta, err := p.caller.Use(context.Background(), p.cell, "slow", "4000")
		long <- fmt.Sprintf("%s from %s: %v", reply, meta.Provider, err)
	}()
	Eventually(t, "it has begun at the copy or elsewhere", func() bool {
		return p.mirror.Status().InFlight > atOnce || p.provider.Status().InFlight > 0
	})
	begin := time.Now()
	p.donor.giving("give", "--schedule", neverNow(begin))
	Eventually(t, "its program stands", func() bool { return standing(program) })
	t.Logf("its program stands after %v", time.Since(begin)) // with what the tests beside this one cost
	y := lastYield(t, p.mirror)
	if y.took > 2*time.Second {
		t.Errorf("it took %v to give the machine back", y.took)
	}
	if got, want := <-long, fmt.Sprintf("4000 from %s: <nil>", original); got != want {
		t.Errorf("the long call gave %s, want %s", got, want)
	}
	there := p.by.last(inARow, id, y.begin)
	t.Logf("the copy had answered the last %d calls: %v; %d calls were cut", inARow, there, y.cut)
	return there && y.cut > 0
}

// canReach says whether a race of a caller's has somebody in it who answers.
func (c *Cell) canReach(cell, peer string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	rows, err := (&ctl.Client{Dir: c.Dir}).Race(ctx, cell)
	return err == nil && slices.ContainsFunc(rows, func(r ctl.RaceRow) bool { return r.Peer == peer && r.Error == "" })
}

// yield is what a mirror's log says of the last time that it gave its machine back.
type yield struct {
	begin time.Time
	took  time.Duration
	cut   int // calls
}

func lastYield(t *testing.T, mirror *Cell) yield {
	t.Helper()
	before, after, _ := lastCut(mirror.Log(), "\tyielded\t")
	line, _, _ := strings.Cut(after, "\n")
	var fields struct {
		Took float64 `json:"took"` // s
		Cut  int     `json:"cut"`
	}
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	stamp, _, _ := strings.Cut(before[strings.LastIndex(before, "\n")+1:], "\t")
	end, err := time.Parse("2006-01-02T15:04:05.000Z0700", stamp)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Duration(fields.Took * float64(time.Second))
	return yield{end.Add(-took), took, fields.Cut}
}

// lastCut is strings.Cut at the last sep.
func lastCut(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// neverNow is a schedule that does not contain a time, nor the hours after it.
func neverNow(now time.Time) string {
	return fmt.Sprintf("%02d:00-%02d:00", (now.Hour()+12)%24, (now.Hour()+13)%24)
}

// A donor that loses its power takes up what it hosted when it is back.
func TestDonorComesBack(t *testing.T) {
	t.Parallel()
	_, cell, donor, _, _, _ := placed(t)
	home, mirror := donor.home, donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	id, program := mirror.Status().PeerID, mirror.Status().ProgramPID
	for _, c := range []*Cell{home, mirror} {
		if err := syscall.Kill(c.Status().NucleusPID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, "its program is gone with it", func() bool { return program == 0 || !Alive(program) })
	home.Start()
	if row := donor.hosted(1, ctl.Running)[0]; row.CID != cell || row.Dir != mirror.Dir {
		t.Errorf("%+v", row)
	}
	if got := mirror.Status().PeerID; got != id {
		t.Errorf("it was %s and is %s", id, got)
	}
	if reply, _, err := mirror.Use(t.Context(), "", "add", "3", "4"); err != nil || string(reply) != "7" {
		t.Errorf("%s, %v", reply, err)
	}
}

// Without the nucleus that watches over it, nothing that is hosted runs for long.
func TestUnwatchedMirrorYields(t *testing.T) {
	t.Parallel()
	_, _, donor, _, _, stop := placed(t)
	home, mirror := donor.home, donor.At(donor.hosted(1, ctl.Running)[0].Dir)
	if err := syscall.Kill(home.Status().NucleusPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "it yields", func() bool {
		_, _, err := mirror.Use(t.Context(), "", "add", "3", "4")
		return cellproto.KindOf(err) == cellproto.Overloaded || err != nil && strings.Contains(err.Error(), "needed by its owner")
	})
	stop() // no call has failed
	home.Start()
	donor.hosted(1, ctl.Running)
}

// stranger is somebody who offers cells, with a key of its own.
type stranger struct {
	host    host.Host
	account crypto.PrivKey
}

func newStranger(t testing.TB) stranger {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return stranger{h, key}
}

func (s stranger) owner() string {
	id, err := peer.IDFromPrivateKey(s.account)
	if err != nil {
		panic(err)
	}
	return id.String()
}

// cell makes an offer of a cell that does not exist.
func (s stranger) cell(t *testing.T, change func(*signed.Manifest)) offer.Offer {
	t.Helper()
	link := signed.Link{Cid: cid.MustParse("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")}
	m := signed.Manifest{
		Name: "strange", Version: "1.0.0", Created: 1, Privacy: "public", Artefacts: []signed.Artefact{{
			OS: runtime.GOOS, Arch: runtime.GOARCH, CID: link, Size: 1 << 20, BLAKE3: signed.Digest{1},
		}},
	}
	change(&m)
	block, id, err := signed.SealManifest(m, s.account)
	if err != nil {
		t.Fatal(err)
	}
	return offer.Offer{Cell: id, Block: block, Providers: []peer.AddrInfo{{ID: s.host.ID(), Addrs: s.host.Addrs()}}}
}

// ask offers a cell to a machine. It comes as a new peer, so that no quota is met.
func (s stranger) ask(t *testing.T, donor *Net, o offer.Offer) *offer.Talk {
	t.Helper()
	home := donor.home.Status()
	info, err := peer.AddrInfoFromString(home.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(t.Context(), "test"), Patience)
	defer cancel()
	talk, err := offer.Ask(ctx, s.host, *info, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(talk.Close)
	return talk
}

// What a donor's owner, a cell's owner or the machine has something against is refused with the reason, before
// anything is fetched.
func TestDonorRefuses(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	s, known := newStranger(t), newStranger(t)
	denied := known.cell(t, func(m *signed.Manifest) { m.Name = "denied" })
	donor := n.donor("--allow", known.owner(), "--deny", denied.Cell.String())
	for _, c := range []struct {
		name string
		o    offer.Offer
		kind cellproto.Kind
		why  string
	}{
		{"local", known.cell(t, func(m *signed.Manifest) { m.Privacy = "local" }), cellproto.Denied, "on one machine"},
		{"friends", known.cell(t, func(m *signed.Manifest) { m.Privacy = "friends" }), cellproto.Denied, "friends"},
		{"unknown publisher", s.cell(t, func(*signed.Manifest) {}), cellproto.Denied, "publishers"},
		{"denied", denied, cellproto.Denied, "does not want this cell"},
		{"GPU", known.cell(t, func(m *signed.Manifest) { m.Resources.GPU = "cuda>=12" }), cellproto.Denied, "GPU"},
		{"memory", known.cell(t, func(m *signed.Manifest) { m.Resources.MemoryBytes = 1 << 50 }), cellproto.Denied, "memory"},
		{"platform", known.cell(t, func(m *signed.Manifest) { m.Artefacts[0].Arch = "s390x" }), cellproto.Denied, "no program for this machine"},
	} {
		talk := newStranger(t).ask(t, donor, c.o)
		if r := talk.Refusal; r == nil || r.Kind != c.kind || !strings.Contains(r.Error(), c.why) {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	// What nobody has is taken up, and then not: nothing is left of it.
	talk := known.ask(t, donor, known.cell(t, func(*signed.Manifest) {}))
	if talk.Refusal != nil {
		t.Fatalf("a good one: %v", talk.Refusal)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if info, err := talk.Take(ctx, func(step string) { t.Log(step) }); err == nil {
		t.Errorf("it is at %v", info)
	}
	donor.hosted(0, "")
	// Paused, a donor says when it may be asked again.
	donor.giving("give", "--schedule", neverNow(time.Now()))
	if r := newStranger(t).ask(t, donor, known.cell(t, func(*signed.Manifest) {})).Refusal; cellproto.KindOf(r) != cellproto.Overloaded || r.RetryAfter == 0 {
		t.Errorf("paused: %v", r)
	}
	if entries, _ := filepath.Glob(filepath.Join(donor.root, "foreign", "[^.]*")); len(entries) != 0 {
		t.Errorf("these are left: %v", entries)
	}
}

// A machine where no tier of the sandbox works hosts nothing, and says so to who asks and to its owner.
func TestDonorWithoutSandbox(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	box := filepath.Join(t.TempDir(), "cellbox")
	const none = `{"os":"linux","kernel":"3.2","tiers":[{"tier":"T1","works":false,"why_not":"too old"},{"tier":"T2","works":false,"why_not":"too old"},{"tier":"T3","works":false,"why_not":"too old"}]}`
	if err := os.WriteFile(box, []byte("#!/bin/sh\necho '"+none+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	provider, published := n.provide("calculator")
	donor := n.Machine()
	donor.env = append(donor.env, "CELL_BOX="+box)
	donor.give()
	Eventually(t, "it gives", func() bool { return donor.giving("give", "status").Running })
	r := newStranger(t).ask(t, donor, provider.offerOf(published.CID)).Refusal
	if r == nil || !strings.Contains(r.Error(), "sandbox") {
		t.Errorf("the answer is %v", r)
	}
	if st := donor.giving("give", "status"); len(st.Hosted) != 0 || len(st.Refused) != 1 || !strings.Contains(st.Refused[0].Why, "sandbox") {
		t.Errorf("%+v", st)
	}
}

// What the donor's owner wants no more goes at once, also while nothing may run; a publisher can be denied as a whole.
func TestDeniedWhilePaused(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("calculator")
	donor := n.donor()
	talk := newStranger(t).ask(t, donor, provider.offerOf(published.CID))
	if talk.Refusal != nil {
		t.Fatal(talk.Refusal)
	}
	if _, err := talk.Take(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	publisher := donor.hosted(1, ctl.Running)[0].Publisher
	donor.giving("give", "--schedule", neverNow(time.Now()))
	donor.hosted(1, "paused")
	donor.giving("give", "--deny", publisher)
	donor.hosted(0, "")
	donor.mirrors(t, 0)
	donor.giving("give", "--schedule", "always")
	refusal := newStranger(t).ask(t, donor, provider.offerOf(published.CID)).Refusal
	if refusal == nil || refusal.Kind != cellproto.Denied || !strings.Contains(refusal.Error(), "does not want this cell") {
		t.Errorf("offered again it is told: %v", refusal)
	}
	// What was fetched for it is a cache, which gc empties.
	blocks := func() []string {
		list, _ := filepath.Glob(filepath.Join(donor.root, "home", "cache", "blocks", "store", "*", "*.data")) // the pattern is good
		return list
	}
	if len(blocks()) == 0 {
		t.Error("there is no cache")
	}
	donor.Must(donor.root, "gc")
	if left := blocks(); len(left) > 0 {
		t.Errorf("gc has left %v", left)
	}
}

// A cell that its owner gives to friends only is not placed at strangers: his own caller gets a copy at home.
func TestFriendsStayHome(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	a := n.Example("calculator")
	a.Edit("", "\n[privacy]\nplacement = \"friends\"\n")
	a.Start()
	published := a.Publish()
	donor := n.donor()
	caller := n.Headless("caller")
	caller.write(".cell-cache/slo.json", missed, 0o600)
	caller.Start()
	_, stop := caller.load(published.CID)
	Eventually(t, "there is a copy here", func() bool { return caller.placement(published.CID).State == ctl.PlacementHere })
	stop()
	if len(donor.hosted(0, "")) != 0 || !strings.Contains(caller.Log(), "does not give it to strangers") {
		t.Errorf("the donor was not asked, or did not say why:\n%s", caller.Log())
	}
	n.Must(n.root, "mirror", "rm", published.CID)
}
