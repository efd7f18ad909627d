package celltest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// person gives another person's machine on this one: a home cell, and so an account, of its own.
func (n *Net) person(name string) *place {
	n.t.Helper()
	on := &place{dir: filepath.Join(n.root, name), listen: "/ip4/127.0.0.1/tcp/0", start: (*exec.Cmd).Start}
	n.At(filepath.Join(name, "home")).on = on
	return on
}

// headlessOf is Headless on somebody's machine.
func (n *Net) headlessOf(on *place, name string) *Cell {
	n.t.Helper()
	c := n.At(filepath.Join(on.dir, name))
	c.on = on
	c.write("cell.toml", fmt.Sprintf("[cell]\nname = %q\n", name), 0o644)
	return c
}

// mirrorOf makes a mirror that is announced, on somebody's machine.
func (n *Net) mirrorOf(on *place, target string) *Cell {
	n.t.Helper()
	c := n.At(n.must(on, n.root, "mirror", "add", target, "--public"))
	c.on = on
	return c
}

// A caller that only a mirror on somebody else's machine has seen is named when the owner's next version would break it,
// whether that is built, swapped or published, and nobody but the owner hears of it.
func TestCallerOfAMirrorIsNamed(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	maths := n.majors()
	maths.Start()
	first := maths.Publish()
	giver, far := n.person("giver"), n.person("far")
	mirror := n.mirrorOf(giver, first.CID)
	maths.Stop()
	caller := n.headlessOf(far, "caller")
	caller.Start()
	caller.AwaitProviders(first.CID, 1)
	Eventually(t, "the mirror gives the schema", func() bool { return caller.Ctl("gen", first.CID).Code == 0 })
	caller.Must("restart") // cell.lock is read at the start
	by := mirror.Status().PeerID
	if provider, err := caller.multiply(first.CID, argsOne, replyOne); err != nil || provider != by {
		t.Fatalf("%s has answered, %v; want the mirror, %s", provider, err, by)
	}
	who := caller.Status().PeerID
	caller.Must("stop") // nor can it be asked itself
	maths.Start()
	maths.AwaitProviders(first.CID, 1)

	maths.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	named := func(r Result) {
		t.Helper()
		t.Log(r.Stderr)
		if r.Code == 0 || !strings.Contains(r.Stderr, who) || !strings.Contains(r.Stderr, "says "+by) || !strings.Contains(r.Stderr, "--seen") {
			t.Errorf("exit code %d; want one that names %s\n%s", r.Code, who, r.Stderr)
		}
	}
	maths.write("go.mod", "module maths\n\ngo 1.24\n", 0o644)
	maths.write("main.go", fmt.Sprintf("package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(%q) }\n", n.schemaTwo()), 0o644)
	named(maths.Ctl("build"))
	two := []byte(n.schemaTwo())
	for force, refused := range map[bool]bool{false: true, true: false} {
		if f, err := (&ctl.Client{Dir: maths.Dir}).Fits(t.Context(), two, ctl.Guard{Force: force}); err != nil || (f.Refused != nil) != refused {
			t.Errorf("with force %v: %+v, %v", force, f.Refused, err)
		}
	}
	program := maths.major("two", "v2")
	named(maths.Ctl("swap", "--program", program))
	named(maths.Ctl("swap", "--publish", "--program", program))
	maths.major("bin/.next", "v2")
	if err := os.Rename(filepath.Join(maths.Dir, "bin/.next"), filepath.Join(maths.Dir, "bin/maths")); err != nil {
		t.Fatal(err)
	}
	named(maths.Ctl("publish"))
	Eventually(t, "the file in bin/ is refused", func() bool {
		s := maths.Status()
		return s.Swap != nil && s.Swap.State == "refused" && strings.Contains(s.Swap.Reason, who)
	})
	if s := maths.Status(); s.Version != "1.0.0" || s.CID != first.CID {
		t.Errorf("version %s is served, under %s", s.Version, s.CID)
	}
	refusesToTell(t, mirror, first.CID)

	maths.Must("publish", "--seen") // this nucleus itself has seen nobody
	if s := maths.Status(); s.Version != "1.1.0" || s.CID == first.CID {
		t.Errorf("version %s is served, under %s", s.Version, s.CID)
	}
}

// A caller that neither this nucleus nor a mirror has seen says itself, when it is asked, which version it was made for.
func TestCallerIsAskedItself(t *testing.T) {
	t.Parallel()
	n := New(t)
	maths := n.majors()
	maths.Start()
	first := maths.Publish()
	caller := n.headlessOf(n.person("far"), "caller")
	caller.Edit("", fmt.Sprintf("[network]\nstatic = [%q]\n", maths.Status().Addrs[0]))
	caller.Start()
	caller.Must("gen", first.CID)
	caller.Must("restart")
	who := caller.Status().PeerID
	maths.Stop()
	maths.Edit("", fmt.Sprintf("[network]\nstatic = [%q]\n", caller.Status().Addrs[0]))
	maths.Start()
	maths.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	if used := maths.Status().SchemasInUse; len(used) > 0 {
		t.Fatalf("it was called: %+v", used)
	}
	two := maths.major("two", "v2")
	if r := maths.Ctl("swap", "--program", two); r.Code == 0 || !strings.Contains(r.Stderr, "used by "+who+", says "+who) {
		t.Errorf("exit code %d; want one that names %s\n%s", r.Code, who, r.Stderr)
	}
	// One whose cell does not leave its machine tells nobody.
	before := caller.Status().Addrs[0]
	caller.Edit("", "[privacy]\nplacement = \"local\"\n")
	caller.Must("restart")
	maths.Stop()
	maths.Edit(before, caller.Status().Addrs[0])
	maths.Start()
	maths.Must("swap", "--program", two)
}

// refusesToTell checks that a cell does not say who calls it to somebody who is not the owner, whatever that one signs.
func refusesToTell(t *testing.T, c *Cell, target string) {
	t.Helper()
	l := newLiar(t, cid.MustParse(target), cellproto.SchemaHash{1})
	info, err := peer.AddrInfoFromString(c.Status().Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := l.host.Connect(bg, *info); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]signed.Question{
		"of a stranger":   {Cells: []cid.Cid{l.cell}, Asker: l.host.ID(), Asked: info.ID, Issued: time.Now()},
		"for another one": {Cells: []cid.Cid{l.cell}, Asker: l.host.ID(), Asked: l.host.ID(), Issued: time.Now()},
		"an old one":      {Cells: []cid.Cid{l.cell}, Asker: l.host.ID(), Asked: info.ID, Issued: time.Now().Add(-time.Hour)},
	} {
		question, err := signed.SealQuestion(q, l.key)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := call.AskCallers(bg, l.host, info.ID, question)
		if cellproto.KindOf(err) != cellproto.Denied || len(claims) > 0 {
			t.Errorf("a question %s: %v, %v", name, claims, err)
		}
	}
}

// schemaTwo gives the schema of the second version.
func (n *Net) schemaTwo() string {
	n.t.Helper()
	out, err := exec.Command(n.majors().major("bin/two", "v2"), "--schema").Output()
	if err != nil {
		n.t.Fatal(err)
	}
	return string(out)
}

// gossip has a liar say that these call by the schemas, to whoever asks.
func (l *liar) gossip(claims []byte) {
	l.host.SetStreamHandler(cellproto.ProtocolCallers, call.HandleStream(zap.NewNop(), func(s network.Stream) error {
		var size [2]byte
		if _, err := io.ReadFull(s, size[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, s, int64(binary.BigEndian.Uint16(size[:]))); err != nil {
			return err
		}
		l.lies.Add(1)
		_, err := s.Write(append(binary.BigEndian.AppendUint16([]byte{0}, uint16(len(claims))), claims...))
		return err
	}))
}

// A swap that nobody waits for any more changes nothing, while those who may know callers are still being asked.
func TestSurveyCutShortSwapsNothing(t *testing.T) {
	t.Parallel()
	n := New(t)
	maths := n.majors()
	maths.Start()
	first := maths.Publish()
	maths.Stop()
	silent, asked := newLiar(t, cid.MustParse(first.CID), schemaOf(t, maths)), make(chan struct{})
	var once sync.Once
	silent.host.SetStreamHandler(cellproto.ProtocolCallers, func(s network.Stream) {
		once.Do(func() { close(asked) })
		_, _ = io.Copy(io.Discard, s)
	})
	maths.Edit("", fmt.Sprintf("[network]\nstatic = [%q]\n", silent.host.Addrs()[0].String()+"/p2p/"+silent.host.ID().String()))
	maths.Start()
	before := maths.Status()
	maths.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-asked:
			cancel()
		case <-ctx.Done():
		}
	}()
	if s, err := (&ctl.Client{Dir: maths.Dir}).Swap(ctx, maths.major("two", "v2"), ctl.Guard{}, false); err == nil {
		t.Errorf("swapped: %+v", s)
	}
	var after ctl.Status
	Eventually(t, "the swap is over", func() bool {
		after = maths.Status()
		return after.Swap == nil || after.Swap.State != "starting"
	})
	if after.Swap != nil || after.ProgramPID != before.ProgramPID || after.CID != first.CID {
		t.Errorf("program %d serves under %s, swap %+v", after.ProgramPID, after.CID, after.Swap)
	}
}

// What strangers say of their callers is their word: it is told as that, it counts for nothing against a higher major
// version, and an owner who does not believe them has only those asked no more whom nobody here has seen. Those who do
// not answer hold nothing up for longer than a survey takes.
func TestLiarStopsNoRelease(t *testing.T) {
	t.Parallel()
	n := New(t)
	maths := n.majors()
	maths.Start()
	first := maths.Publish()
	maths.Stop()
	id := cid.MustParse(first.CID)
	schema := schemaOf(t, maths)

	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	victim, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	invents, silent, garbage := newLiar(t, id, schema), newLiar(t, id, schema), newLiar(t, id, schema)
	claim := append([]byte{0x82, 0xa2, 1, 0x58, 32}, schema[:]...) // two schemas: that one, and one that nobody ever had
	claim = append(append(claim, 2, 0x81, 0x58, byte(len(victim))), victim...)
	claim = append(append(claim, 0xa3, 1, 0x58, 32), bytes.Repeat([]byte{7}, 32)...)
	invents.gossip(append(claim, 2, 0x80, 3, 0x19, 0xff, 0xff))
	garbage.gossip([]byte("garbage"))
	var asked atomic.Int64
	silent.host.SetStreamHandler(cellproto.ProtocolCallers, func(s network.Stream) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, s)
	})
	static := []string{}
	for _, l := range []*liar{invents, silent, garbage} {
		static = append(static, fmt.Sprintf("%q", l.host.Addrs()[0].String()+"/p2p/"+l.host.ID().String()))
	}
	maths.Edit("", "[network]\nstatic = ["+strings.Join(static, ", ")+"]\n")
	maths.Start()

	maths.Edit(`version = "1.0.0"`, `version = "1.1.0"`)
	two := maths.major("two", "v2")
	begin := time.Now()
	r := maths.Ctl("swap", "--publish", "--program", two)
	if r.Code == 0 || !strings.Contains(r.Stderr, victim.String()+", says "+invents.host.ID().String()) || strings.Contains(r.Stderr, "65535") {
		t.Errorf("exit code %d; want one that says who says so\n%s", r.Code, r.Stderr)
	}
	if took := time.Since(begin); asked.Load() == 0 || invents.lies.Load() == 0 || garbage.lies.Load() == 0 {
		t.Errorf("after %v: not all were asked", took)
	}
	var out ctl.Swapped
	if err := json.Unmarshal([]byte(maths.Must("swap", "--seen", "--json", "--publish", "--program", two)), &out); err != nil || out.CID == "" {
		t.Fatalf("%+v, %v", out, err)
	}
	if lies := invents.lies.Load(); lies != 1 {
		t.Errorf("the liar was asked %d times", lies)
	}
	// Who has called here counts, whoever is not asked.
	if _, err := maths.multiply(".", argsTwo, replyTwo); err != nil {
		t.Fatal(err)
	}
	maths.Edit(`version = "1.1.0"`, `version = "1.2.0"`)
	one := maths.major("one", "v1")
	if r := maths.Ctl("swap", "--seen", "--publish", "--program", one); r.Code == 0 || !strings.Contains(r.Stderr, "uid:") {
		t.Errorf("exit code %d; want one that names a caller of this nucleus\n%s", r.Code, r.Stderr)
	}
	maths.Edit(`version = "1.2.0"`, `version = "2.0.0"`)
	maths.Must("swap", "--publish", "--program", one)
}
