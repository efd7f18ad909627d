// Package examples_test runs the programs of the example cells as their nucleus would.
package examples_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/node/state"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigurations(t *testing.T) {
	for name, challenge := range map[string]celltoml.Challenge{
		"calculator": celltoml.ChallengeSimple, "digest": celltoml.ChallengeSimple,
		"counter": celltoml.ChallengeSimple, "greet": celltoml.ChallengeNone, "guestbook": celltoml.ChallengeSimple,
	} {
		cfg, err := celltoml.Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if cfg.Cell.Name != name || cfg.Cell.Binary != "bin/"+name || cfg.Auth.Challenge != challenge || cfg.Cell.Build == "" {
			t.Errorf("%s: %+v %+v", name, cfg.Cell, cfg.Auth)
		}
	}
}

// build compiles an example, once a test.
func build(t testing.TB, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", bin, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// program is a running example, and the nucleus's end of the connection to it.
type program struct {
	*cellproto.Conn
	cmd   *exec.Cmd
	ended chan struct{}
}

func start(t testing.TB, bin, dir string) *program {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fds[0])
	inside, outside := os.NewFile(uintptr(fds[1]), "inside"), os.NewFile(uintptr(fds[0]), "outside")
	transport, err := net.FileConn(outside)
	if err != nil {
		t.Fatal(err)
	}
	outside.Close()
	cmd := exec.Command(bin)
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = dir, os.Stderr, []*os.File{inside}
	cmd.Env = append(os.Environ(), cellproto.EnvFD+"=3", cellproto.EnvName+"="+filepath.Base(bin))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inside.Close()
	store, err := state.New(state.Config{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	conn, err := cellproto.NewConn(transport, cellproto.Config{Opener: true, Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		if !store.Accept(c, f) {
			t.Errorf("%s calls %s of %q", bin, f.Header.Func, f.Header.To)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Conn: conn, cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = conn.Run()
		_ = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the program as a power switch does, and waits.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	p.Close()
	<-p.ended
}

// use calls as a command line does.
func (p *program) use(fn, key, args string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h := cellproto.Header{Func: fn, Codec: cellproto.JSON, Key: []byte(key)}
	reply, err := p.Call(ctx, &cellproto.Request{Header: h, Payload: []byte(args)})
	if err != nil {
		return "", err
	}
	return string(reply.Payload), nil
}

func (p *program) check(t *testing.T, fn, args, want string, kind cellproto.Kind) {
	t.Helper()
	got, err := p.use(fn, "", args)
	if err != nil {
		got = err.Error()
	}
	if cellproto.KindOf(err) != kind || !strings.Contains(got, want) || kind == 0 && got != want {
		t.Errorf("%s %s: got %q of kind %v, want %q of kind %v", fn, args, got, cellproto.KindOf(err), want, kind)
	}
}

func TestCalculator(t *testing.T) {
	p := start(t, build(t, "calculator"), t.TempDir())
	p.check(t, "add", `{"a":3,"b":4}`, "7", 0)
	p.check(t, "add", `{"a":-3,"b":-4}`, "-7", 0)
	p.check(t, "add", `{"a":9223372036854775807,"b":1}`, "does not fit", cellproto.FuncError)
	p.check(t, "add", `{"a":-9223372036854775808,"b":-1}`, "does not fit", cellproto.FuncError)
	p.check(t, "add", `{"a":3}`, `"b" is missing`, cellproto.BadInput)
	p.check(t, "div", `{"a":7,"b":2}`, "3.5", 0)
	p.check(t, "div", `{"a":7,"b":0}`, "division by zero", cellproto.FuncError)
	p.check(t, "slow", `{"ms":1}`, "1", 0)
	p.check(t, "slow", `{"ms":-1}`, "allowed are 0", cellproto.BadInput)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "slow", Codec: cellproto.JSON}, Payload: []byte(`{"ms":600000}`)})
	if cellproto.KindOf(err) != cellproto.Timeout || time.Since(begin) > 20*time.Second {
		t.Error(err)
	}
	for { // the program has been told
		if _, out := p.InFlight(); out == 0 {
			break
		}
		p.check(t, "add", `{"a":1,"b":1}`, "2", 0)
	}
}

func TestDigest(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	p := start(t, build(t, "digest"), t.TempDir())
	zeros := func(n int64) io.ReadCloser {
		reply, err := cell.NewClient(p.Conn).Do(t.Context(), &cell.Request{Func: "zeros", Args: map[string]int64{"n": n}})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Body()
	}
	// The program's own bytes go back to it: both directions at once.
	body := zeros(size)
	defer body.Close()
	reply, err := cell.NewClient(p.Conn).Do(t.Context(), &cell.Request{Func: "sha256", Body: body})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		SHA256 string `json:"sha256"`
		Bytes  int64  `json:"bytes"`
	}
	if err := reply.Decode(&got); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	block := make([]byte, 1<<20)
	for range size >> 20 {
		h.Write(block)
	}
	if want := fmt.Sprintf("%x", h.Sum(nil)); got.Bytes != size || got.SHA256 != want {
		t.Errorf("got %+v, want %s", got, want)
	}
	text := strings.Repeat("celldnet", 1<<17)
	reply, err = cell.NewClient(p.Conn).Do(t.Context(), &cell.Request{Func: "echo", Body: strings.NewReader(text)})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := reply.Bytes(2 << 20); err != nil || string(b) != text {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	p.check(t, "zeros", `{"n":268435457}`, "allowed are 0", cellproto.BadInput)
}

func TestCounter(t *testing.T) {
	dir, bin := t.TempDir(), build(t, "counter")
	p := start(t, bin, dir)
	p.check(t, "value", `{}`, "0", 0)
	p.check(t, "increment", `{}`, "1", 0)
	p.check(t, "increment", `{"by":5}`, "6", 0)
	for range 2 {
		if got, err := p.use("increment", "k\xff", `{"by":2}`); err != nil || got != "8" {
			t.Error(got, err)
		}
	}
	if _, err := p.use("increment", "k\xff", `{"by":3}`); cellproto.KindOf(err) != cellproto.BadInput {
		t.Error(err)
	}
	p.kill()
	p = start(t, bin, dir)
	if got, err := p.use("increment", "k\xff", `{"by":2}`); err != nil || got != "8" {
		t.Error(got, err)
	}
	for i := range 300 { // more keys than are remembered
		if _, err := p.use("increment", fmt.Sprint(i), `{}`); err != nil {
			t.Fatal(err)
		}
	}
	p.check(t, "value", `{}`, "308", 0)
	p.kill()
	path := filepath.Join(dir, "data", "counter.json")
	if info, err := os.Stat(path); err != nil || info.Size() > 64<<10 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(path, []byte(`{"value":`), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, bin, dir)
	p.check(t, "value", `{}`, "read data/counter.json", cellproto.Corrupt)
	p.check(t, "increment", `{}`, "read data/counter.json", cellproto.Corrupt)
	if data, err := os.ReadFile(path); err != nil || string(data) != `{"value":` {
		t.Errorf("the broken state has been touched: %s %v", data, err)
	}
}

func TestGuestbook(t *testing.T) {
	dir, bin := t.TempDir(), build(t, "guestbook")
	p := start(t, bin, dir)
	p.check(t, "visit", `{}`, "1", 0)
	p.check(t, "visit", `{}`, "2", 0)
	p.check(t, "entries", `{}`, "[]", 0)
	p.check(t, "sign", `{"name":"Ann","text":"hello"}`, "1", 0)
	p.check(t, "sign", `{"name":"Bob","text":"\u0000"}`, "2", 0)
	p.check(t, "entries", `{}`, `[{"name":"Ann","text":"hello"},{"name":"Bob","text":"\u0000"}]`, 0)
	p.check(t, "picture", `{"name":"cat.png"}`, "no file", cellproto.FuncError)
	p.check(t, "picture", `{"name":"../cat.png"}`, "no name of a file", cellproto.FuncError)
	if got, err := p.stream("hang", `{"name":"cat.png"}`, strings.NewReader("meow")); err != nil || got != "{}" {
		t.Errorf("hang: %s, %v", got, err)
	}
	if got, err := p.stream("picture", `{"name":"cat.png"}`, nil); err != nil || got != "meow" {
		t.Errorf("picture: %s, %v", got, err)
	}
}

// stream calls with a body, and gives all of the reply.
func (p *program) stream(fn, args string, body io.Reader) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := p.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: fn, Codec: cellproto.JSON}, Payload: []byte(args), Body: body})
	if err != nil {
		return "", err
	}
	data, err := reply.Bytes(1 << 20)
	return string(data), err
}

// Two versions of the program count at the same time during a swap.
func TestCounterIsShared(t *testing.T) {
	dir, bin := t.TempDir(), build(t, "counter")
	programs := []*program{start(t, bin, dir), start(t, bin, dir)}
	const each = 50
	var wg sync.WaitGroup
	for _, p := range programs {
		for range 2 {
			wg.Go(func() {
				for range each {
					if _, err := p.use("increment", "", `{}`); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, p := range programs {
		p.check(t, "value", `{}`, fmt.Sprint(4*each), 0)
	}
}

// What was answered before a kill -9 is there after it, and what is sent again counts once.
func TestCounterIsDurable(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	dir, bin := t.TempDir(), build(t, "counter")
	const callers, each = 4, 10
	for round := range rounds {
		p := start(t, bin, dir)
		var answered sync.Map // key -> sum
		var count atomic.Int64
		last := 1 + random.Int64N(callers*each)
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				for i := range each {
					key := fmt.Sprintf("%d/%d/%d", round, caller, i)
					sum, err := p.use("increment", key, `{}`)
					if err != nil {
						return
					}
					answered.Store(key, sum)
					if count.Add(1) == last {
						_ = p.cmd.Process.Kill()
					}
				}
			})
		}
		wg.Wait()
		p.kill()

		p = start(t, bin, dir)
		for caller := range callers {
			for i := range each {
				key := fmt.Sprintf("%d/%d/%d", round, caller, i)
				sum, err := p.use("increment", key, `{}`)
				before, ok := answered.Load(key)
				if err != nil || ok && before != sum {
					t.Fatalf("seed %d: %s was %v, is %s, %v", seed, key, before, sum, err)
				}
			}
		}
		p.check(t, "value", `{}`, fmt.Sprint((round+1)*callers*each), 0)
		p.kill()
	}
}

func TestGreet(t *testing.T) {
	data, err := os.ReadFile("greet/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := cellproto.ParseSchema(data)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "greet/greet.sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	ask := func(id int, fn, args, want string) {
		t.Helper()
		fmt.Fprintf(in, `{"id":%d,"fn":%q,"args":%s}`+"\n", id, fn, args)
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("%s %s: got %s, want %s", fn, args, lines.Text(), want)
		}
	}
	for i, name := range []string{`Ann`, `Al "the" \ %s $HOME`, `}}`, ``, `Zoë`} {
		args, err := schema.Arguments("greet", []string{"name=" + name})
		if err != nil {
			t.Fatal(err)
		}
		quoted := strings.TrimSuffix(strings.TrimPrefix(string(args), `{"name":"`), `"}`)
		ask(i+1, "greet", string(args), fmt.Sprintf(`{"id":%d,"reply":"Hello, %s!"}`, i+1, quoted))
	}
	ask(9, "leave", `{}`, `{"id":9,"error":"greet wants a name"}`)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
