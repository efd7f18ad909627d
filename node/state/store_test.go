package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/celldnet/celld/cellproto"
)

const roleEnv = "STATE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(roleEnv); dir != "" {
		countForEver(dir)
	}
	goleak.VerifyTestMain(m)
}

const fast = 1 << 30 // bytes a second

func newStore(t testing.TB, cfg Config) (*Store, *observer.ObservedLogs) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Rate == 0 {
		cfg.Rate = fast
	}
	core, logs := observer.New(zap.WarnLevel)
	s, err := New(cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, logs
}

// client is the program's end of a connection to a nucleus that has nothing but a store.
type client struct {
	t    testing.TB
	conn *cellproto.Conn
}

func connect(t testing.TB, s *Store) *client {
	t.Helper()
	a, b := net.Pipe()
	nucleus, err := cellproto.NewConn(a, cellproto.Config{Opener: true, Accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		if !s.Accept(c, f) {
			_ = c.Queue(cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.Unsupported, "not for the store")))
			c.FlushLater(c)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	program, err := cellproto.NewConn(b, cellproto.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var runs sync.WaitGroup
	runs.Go(func() { _ = nucleus.Run() })
	runs.Go(func() { _ = program.Run() })
	t.Cleanup(func() { program.Close(); nucleus.Close(); runs.Wait() })
	return &client{t, program}
}

func (c *client) do(fn string, a cellproto.StateArgs) (*cellproto.StateReply, error) {
	c.t.Helper()
	return c.doCtx(c.t.Context(), fn, a)
}

func (c *client) doCtx(ctx context.Context, fn string, a cellproto.StateArgs) (*cellproto.StateReply, error) {
	c.t.Helper()
	data, err := a.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	reply, err := c.conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: fn, Codec: cellproto.CBOR}, Payload: data})
	if err != nil {
		return nil, err
	}
	data, err = reply.Bytes(1 << 20)
	if err != nil {
		return nil, err
	}
	return cellproto.ParseStateReply(data)
}

func (c *client) must(fn string, a cellproto.StateArgs) *cellproto.StateReply {
	c.t.Helper()
	r, err := c.do(fn, a)
	if err != nil {
		c.t.Fatalf("%s %.100q %q: %v (%s)", fn, a.Key, a.Name, err, cellproto.HintOf(err))
	}
	return r
}

func (c *client) put(key, value string) {
	c.t.Helper()
	c.must(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte(key), Value: []byte(value)})
}

// get gives what is kept, "-" if nothing is.
func (c *client) get(key string) string {
	c.t.Helper()
	r := c.must(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte(key)})
	if r.Value == nil {
		return "-"
	}
	return string(r.Value)
}

func (c *client) write(name string, body io.Reader) error {
	a := cellproto.StateArgs{Name: name}
	data, err := a.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	reply, err := c.conn.Call(c.t.Context(), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncFileWrite, Codec: cellproto.CBOR}, Payload: data, Body: body})
	if err == nil {
		_, err = reply.Bytes(1 << 10)
	}
	return err
}

func (c *client) read(a cellproto.StateArgs) (string, error) {
	data, err := a.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	reply, err := c.conn.Call(c.t.Context(), &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncFileRead, Codec: cellproto.CBOR}, Payload: data})
	if err != nil {
		return "", err
	}
	data, err = reply.Bytes(1 << 30)
	return string(data), err
}

func wantKind(t *testing.T, what string, err error, kind cellproto.Kind, hint bool) {
	t.Helper()
	if cellproto.KindOf(err) != kind || hint && cellproto.HintOf(err) == "" {
		t.Errorf("%s: %v of kind %v, want kind %v (%q)", what, err, cellproto.KindOf(err), kind, cellproto.HintOf(err))
	}
}

func TestKeys(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	if got := c.get("a"); got != "-" {
		t.Errorf("a new store has %q", got)
	}
	c.put("a", "1")
	c.put("b", "")
	c.put("\xff\x00", "bytes")
	for key, want := range map[string]string{"a": "1", "b": "", "\xff\x00": "bytes", "c": "-"} {
		if got := c.get(key); got != want {
			t.Errorf("%q has %q, want %q", key, got, want)
		}
	}
	for i, step := range []struct {
		old, value string // "-": none
		swapped    bool
		after      string
	}{
		{"-", "x", false, "1"}, {"2", "x", false, "1"}, {"1", "2", true, "2"}, {"2", "-", true, "-"}, {"2", "3", false, "-"},
		{"", "3", false, "-"}, {"-", "", true, ""}, {"-", "x", false, ""}, {"", "4", true, "4"},
	} {
		blob := func(s string) cellproto.Blob {
			if s == "-" {
				return nil
			}
			return cellproto.Blob(append([]byte{}, s...))
		}
		r := c.must(cellproto.FuncKVCAS, cellproto.StateArgs{Key: []byte("a"), Old: blob(step.old), Value: blob(step.value)})
		now := "-"
		if r.Value != nil {
			now = string(r.Value)
		}
		if got := c.get("a"); r.Swapped != step.swapped || now != step.after || got != step.after {
			t.Errorf("step %d: swapped %v, it says %q, and has %q", i, r.Swapped, now, got)
		}
	}
	if r := c.must(cellproto.FuncKVDelete, cellproto.StateArgs{Key: []byte("a")}); !r.Removed || c.get("a") != "-" {
		t.Error("it was not deleted")
	}
	if r := c.must(cellproto.FuncKVDelete, cellproto.StateArgs{Key: []byte("a")}); r.Removed {
		t.Error("it was deleted twice")
	}
	_, err := c.do(cellproto.FuncKVPut, cellproto.StateArgs{Value: []byte("x")})
	wantKind(t, "no key", err, cellproto.BadInput, false)
	_, err = c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte("x")})
	wantKind(t, "no value", err, cellproto.BadInput, false)
	_, err = c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte("x"), Value: make([]byte, cellproto.MaxStateValue+1)})
	wantKind(t, "a value that is too large", err, cellproto.TooLarge, true)
	_, err = c.do("cell.kv.drop", cellproto.StateArgs{})
	wantKind(t, "another function", err, cellproto.Unsupported, false)
}

func TestKeysAsJSON(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	for _, step := range [][3]string{
		{cellproto.FuncKVGet, `{"key":"a"}`, `{"value":null}`},
		{cellproto.FuncKVPut, `{"key":"a","value":"ä"}`, `{"value":null}`},
		{cellproto.FuncKVGet, `{"key":"a"}`, `{"value":"ä"}`},
		{cellproto.FuncKVCAS, `{"key":"a","old":"ä","value":{"base64":"/w=="}}`, `{"value":{"base64":"/w=="},"swapped":true}`},
		{cellproto.FuncKVList, `{}`, `{"value":null,"keys":["a"]}`},
	} {
		reply, err := c.conn.Call(t.Context(), &cellproto.Request{Header: cellproto.Header{Func: step[0], Codec: cellproto.JSON}, Payload: []byte(step[1])})
		if err != nil {
			t.Fatalf("%s: %v", step[0], err)
		}
		if string(reply.Payload) != step[2] || reply.Header.Codec != cellproto.JSON {
			t.Errorf("%s %s: %s", step[0], step[1], reply.Payload)
		}
	}
}

func TestLists(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	for i := range 25 {
		c.put(fmt.Sprintf("k/%02d", i), "v")
	}
	c.put("j", "v")
	c.put("l", "v")
	var got []string
	a := cellproto.StateArgs{Prefix: []byte("k/"), Limit: 10}
	for pages := 1; ; pages++ {
		r := c.must(cellproto.FuncKVList, a)
		for _, key := range r.Keys {
			got = append(got, string(key))
		}
		if !r.More {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		a.After = r.Keys[len(r.Keys)-1]
	}
	if len(got) != 25 || got[0] != "k/00" || got[24] != "k/24" {
		t.Errorf("listed: %q", got)
	}
	long := strings.Repeat("x", cellproto.MaxStateKey-4)
	for i := range 200 {
		c.put(fmt.Sprintf("%s%04d", long, i), "v")
	}
	if r := c.must(cellproto.FuncKVList, cellproto.StateArgs{Prefix: []byte("x")}); !r.More || len(r.Keys) == 0 || len(r.Keys) > 100 {
		t.Errorf("%d long keys in a reply, more: %v", len(r.Keys), r.More)
	}
}

func TestFiles(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	large := strings.Repeat("0123456789abcdef", 40_000)
	for name, text := range map[string]string{"empty": "", "small.txt": "hello", "large": large} {
		if err := c.write(name, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.read(cellproto.StateArgs{Name: name}); err != nil || got != text {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(text), err)
		}
	}
	if got, err := c.read(cellproto.StateArgs{Name: "large", Offset: 16, Length: 10}); err != nil || got != "0123456789" {
		t.Errorf("a part is %q: %v", got, err)
	}
	if got, err := c.read(cellproto.StateArgs{Name: "small.txt", Offset: 100}); err != nil || got != "" {
		t.Errorf("past the end is %q: %v", got, err)
	}
	// A body that fails leaves what was there.
	broken := io.MultiReader(strings.NewReader(large), failing{})
	if err := c.write("small.txt", broken); err == nil {
		t.Error("half a file was taken")
	}
	if got, err := c.read(cellproto.StateArgs{Name: "small.txt"}); err != nil || got != "hello" {
		t.Errorf("after a write that failed it is %q: %v", got, err)
	}
	r := c.must(cellproto.FuncFileList, cellproto.StateArgs{Limit: 2})
	if len(r.Files) != 2 || !r.More || r.Files[0].Name != "empty" || r.Files[1].Size != int64(len(large)) || r.Files[1].Modified == 0 {
		t.Errorf("listed: %+v", r)
	}
	if r = c.must(cellproto.FuncFileList, cellproto.StateArgs{After: []byte("large")}); len(r.Files) != 1 || r.More {
		t.Errorf("listed: %+v", r)
	}
	if r := c.must(cellproto.FuncFileRemove, cellproto.StateArgs{Name: "large"}); !r.Removed {
		t.Error("it was not removed")
	}
	if r := c.must(cellproto.FuncFileRemove, cellproto.StateArgs{Name: "large"}); r.Removed {
		t.Error("it was removed twice")
	}
	_, err := c.read(cellproto.StateArgs{Name: "large"})
	wantKind(t, "a file that was removed", err, cellproto.NotFound, false)
	entries, err := os.ReadDir(s.path(filesDir))
	if err != nil || len(entries) != 2 {
		t.Errorf("in the directory are %v: %v", entries, err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the program thought better of it") }

// No name leads out of the directory, nor does what somebody puts there.
func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := newStore(t, Config{Dir: dir})
	c := connect(t, s)
	if err := c.write("good", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../keys.db", "/etc/passwd", "a/b", "a\x00b", ".good1", "GOOD", "good\n", strings.Repeat("x", 1000), "ﬁ"} {
		wantKind(t, "write "+name, c.write(name, strings.NewReader("x")), cellproto.BadInput, true)
		_, err := c.read(cellproto.StateArgs{Name: name})
		wantKind(t, "read "+name, err, cellproto.BadInput, true)
		_, err = c.do(cellproto.FuncFileRemove, cellproto.StateArgs{Name: name})
		wantKind(t, "remove "+name, err, cellproto.BadInput, true)
	}
	if err := os.Symlink(secret, s.path("files/link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(s.path("files/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe"} {
		if got, err := c.read(cellproto.StateArgs{Name: name}); err == nil {
			t.Errorf("%s was read: %q", name, got)
		}
	}
	if err := c.write("link", strings.NewReader("mine")); err != nil { // it is replaced, not followed
		t.Error(err)
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
		t.Errorf("the file outside is %q: %v", data, err)
	}
	// A directory that leads elsewhere is not used.
	other := t.TempDir()
	out := filepath.Join(t.TempDir(), "cell")
	if err := errors.Join(os.MkdirAll(filepath.Join(out, "data"), 0o700), os.Symlink(other, filepath.Join(out, Dir))); err != nil {
		t.Fatal(err)
	}
	s2, _ := newStore(t, Config{Dir: out})
	if _, err := connect(t, s2).do(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte("a"), Value: []byte("b")}); err == nil {
		t.Error("it writes outside of the cell's directory")
	}
	if entries, _ := os.ReadDir(other); len(entries) > 0 {
		t.Errorf("outside is %v", entries)
	}
}

// Keys and files together take no more of the disk than they may; then there is room again.
func TestSize(t *testing.T) {
	const size = 4 << 20
	dir := t.TempDir()
	s, _ := newStore(t, Config{Dir: dir, Size: size})
	c := connect(t, s)
	onTheDisk := func() (sum int64) {
		err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				sum += info.Size()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if err := c.write("half", io.LimitReader(zeros{}, size/2)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "a file for which there is no room", c.write("large", io.LimitReader(zeros{}, size)), cellproto.TooLarge, true)
	value := bytes.Repeat([]byte("v"), 10_000)
	n := 0
	var err error
	for ; n < 10_000 && err == nil; n++ {
		_, err = c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", n), Value: value})
	}
	wantKind(t, "one key too many", err, cellproto.TooLarge, true)
	if used := onTheDisk(); used > size || used < size*7/10 {
		t.Errorf("%d keys, %d bytes on the disk, the limit is %d", n, used, size)
	}
	wantKind(t, "a file beside full keys", c.write("more", io.LimitReader(zeros{}, size/2)), cellproto.TooLarge, true)
	if got := c.get("key-0"); got != string(value) {
		t.Errorf("after that key-0 has %d bytes", len(got))
	}
	for i := range 20 {
		c.must(cellproto.FuncKVDelete, cellproto.StateArgs{Key: fmt.Appendf(nil, "key-%d", i)})
	}
	c.put("again", string(value))
	c.must(cellproto.FuncFileRemove, cellproto.StateArgs{Name: "half"})
	if err := c.write("more", io.LimitReader(zeros{}, size/4)); err != nil {
		t.Error(err)
	}
	if used := onTheDisk(); used > size+deleteRoom {
		t.Errorf("%d bytes on the disk, the limit is %d", used, size)
	}
	// Another nucleus counts the same.
	s.Close()
	s, _ = newStore(t, Config{Dir: dir, Size: size})
	c = connect(t, s)
	wantKind(t, "with another nucleus", c.write("large", io.LimitReader(zeros{}, size)), cellproto.TooLarge, true)
	if c.get("again") != string(value) {
		t.Error("a key was lost")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestNumberOfFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, Dir, filesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range cellproto.MaxStateFiles - 1 {
		if err := os.WriteFile(filepath.Join(dir, Dir, filesDir, fmt.Sprint("f", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := newStore(t, Config{Dir: dir})
	c := connect(t, s)
	if err := c.write("last", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "one more", c.write("more", strings.NewReader("")), cellproto.TooLarge, true)
	if err := c.write("f0", strings.NewReader("another")); err != nil {
		t.Error(err)
	}
}

// What a program moves takes its time.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Dir: "/nowhere"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for range 60 {
			if err := s.pay(t.Context(), 1_000_000); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("60 MB took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = s.pay(ctx, 20_000_000)
		if kind := cellproto.KindOf(err); kind != cellproto.Overloaded && kind != cellproto.Timeout {
			t.Errorf("what cannot be in time: %v", err)
		}
		s.Close()
	})
}

// A program that asks for too much at a time is told so; what was taken is done.
func TestTooMany(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	c.put("a", "1")
	s.quota.Lock() // nothing is written
	var calls sync.WaitGroup
	kinds := make(chan cellproto.Kind, 2*cellproto.MaxStateCalls)
	for range cap(kinds) {
		calls.Go(func() {
			_, err := c.do(cellproto.FuncKVPut, cellproto.StateArgs{Key: []byte("a"), Value: []byte("2")})
			if cellproto.KindOf(err) == cellproto.Overloaded && cellproto.RetryAfterOf(err) == 0 {
				t.Error("nobody knows when to come back")
			}
			kinds <- cellproto.KindOf(err)
		})
	}
	for range cellproto.MaxStateCalls { // who is refused is told at once
		if kind := <-kinds; kind != cellproto.Overloaded {
			t.Errorf("kind %v", kind)
		}
	}
	s.quota.Unlock()
	calls.Wait()
	close(kinds)
	for kind := range kinds {
		if kind != 0 {
			t.Errorf("one that was taken: kind %v", kind)
		}
	}
	if got := c.get("a"); got != "2" {
		t.Errorf("a has %s", got)
	}
}

// Calls that come together share a commit, and all of them are kept.
func TestTogether(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	var calls sync.WaitGroup
	for i := range 50 {
		calls.Go(func() {
			for {
				old := c.must(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte("n")}).Value
				n, _ := strconv.Atoi(string(old))
				if c.must(cellproto.FuncKVCAS, cellproto.StateArgs{Key: []byte("n"), Old: old, Value: fmt.Append(nil, n+1)}).Swapped {
					break
				}
			}
			c.put(fmt.Sprint("key", i), "v")
		})
	}
	calls.Wait()
	if got := c.get("n"); got != "50" {
		t.Errorf("50 steps made %s", got)
	}
}

// countForEver writes as fast as it can, and says what was acknowledged.
func countForEver(dir string) {
	s, err := New(Config{Dir: dir, Rate: fast}, nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx := context.Background()
	for i := 0; ; i++ {
		r, err := s.get(ctx, &cellproto.StateArgs{Key: []byte("n")})
		if err == nil {
			n, _ := strconv.Atoi(string(r.Value))
			_, err = s.put(ctx, &cellproto.StateArgs{Key: []byte("n"), Value: fmt.Append(nil, n+1)})
			if err == nil {
				err = s.files.write("n", io.MultiReader(strings.NewReader(fmt.Sprintln(n+1)), io.LimitReader(zeros{}, int64(n%7)*50_000)))
			}
			fmt.Println(n + 1)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// What was acknowledged is there after kill -9, and nothing half-written is.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	last := 0
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			value, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatalf("round %d: %s", round, lines.Text())
			}
			if value != last+1 && n > 0 || value < last {
				t.Fatalf("round %d: %d after %d", round, value, last)
			}
			if last = value; n == 5+round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	s, logs := newStore(t, Config{Dir: dir})
	c := connect(t, s)
	got, err := strconv.Atoi(c.get("n"))
	if err != nil || got < last || got > last+1 {
		t.Errorf("it has %d, %d was acknowledged", got, last)
	}
	text, err := c.read(cellproto.StateArgs{Name: "n"})
	number, rest, _ := strings.Cut(text, "\n")
	if n, nerr := strconv.Atoi(number); err != nil || nerr != nil || n < last || len(rest) != (n-1)%7*50_000 {
		t.Errorf("the file has %s and %d bytes, %d was acknowledged: %v", number, len(rest), last, err)
	}
	entries, err := os.ReadDir(s.path(filesDir))
	if err != nil || len(entries) != 1 {
		t.Errorf("left were %v: %v", entries, err)
	}
	if logs.Len() > 0 {
		t.Errorf("logged: %v", logs.All())
	}
}

// A damaged database is put aside, and its owner is told where it is.
func TestDamaged(t *testing.T) {
	page := int64(os.Getpagesize())
	for name, spoil := range map[string]func(*os.File, int64) error{
		"no database": func(f *os.File, size int64) error {
			_, err := f.WriteAt(bytes.Repeat([]byte("x"), int(size)), 0)
			return err
		},
		"cut":        func(f *os.File, size int64) error { return f.Truncate(page * 3) },
		"short":      func(f *os.File, _ int64) error { return f.Truncate(100) },
		"both heads": func(f *os.File, _ int64) error { _, err := f.WriteAt(make([]byte, 2*page), 0); return err },
		"pages": func(f *os.File, size int64) error {
			_, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, int(size-2*page)), 2*page)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := newStore(t, Config{Dir: dir})
			c := connect(t, s)
			for i := range 300 {
				c.put(fmt.Sprint("key", i), strings.Repeat("v", 500))
			}
			s.Close()
			f, err := os.OpenFile(s.path(keysFile), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			info, err := f.Stat()
			if err == nil {
				err = spoil(f, info.Size())
			}
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			s, logs := newStore(t, Config{Dir: dir})
			c = connect(t, s)
			if got := c.get("key1"); got != "-" {
				t.Errorf("it has %q", got)
			}
			c.put("key1", "new")
			if got := c.get("key1"); got != "new" {
				t.Errorf("it has %q", got)
			}
			aside, err := filepath.Glob(s.path(keysFile + ".damaged-*"))
			if err != nil || len(aside) != 1 || logs.FilterMessageSnippet("damaged").Len() != 1 {
				t.Errorf("aside is %v; logged: %v", aside, logs.All())
			}
		})
	}
}

// A file that becomes shorter while it is open takes nothing with it but itself.
func TestDamagedWhileOpen(t *testing.T) {
	s, logs := newStore(t, Config{})
	c := connect(t, s)
	for i := range 300 {
		c.put(fmt.Sprint("key", i), strings.Repeat("v", 500))
	}
	if err := os.Truncate(s.path(keysFile), 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	_, err := c.do(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte("key1")})
	wantKind(t, "a read of what is gone", err, cellproto.Corrupt, true)
	c.put("key1", "new")
	if got := c.get("key1"); got != "new" || logs.FilterMessageSnippet("damaged").Len() != 1 {
		t.Errorf("it has %q; logged: %v", got, logs.All())
	}
}

// A store that is closed answers, and leaves nothing open.
func TestClosed(t *testing.T) {
	s, _ := newStore(t, Config{})
	c := connect(t, s)
	c.put("a", "1")
	s.Close()
	_, err := c.do(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte("a")})
	wantKind(t, "a closed store", err, cellproto.Unavailable, false)
	again, _ := newStore(t, Config{Dir: s.cfg.Dir})
	if got := connect(t, again).get("a"); got != "1" {
		t.Errorf("it has %q", got)
	}
	// Two at a time: the second one waits, and says why it does not go on.
	third, _ := newStore(t, Config{Dir: s.cfg.Dir})
	_, err = connect(t, third).do(cellproto.FuncKVGet, cellproto.StateArgs{Key: []byte("a")})
	wantKind(t, "a store that another one has", err, cellproto.Unavailable, false)
}

// Nothing is made before something is asked for.
func TestUntouched(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, Config{Dir: dir})
	s.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v %v", entries, err)
	}
	for _, cfg := range []Config{{}, {Dir: "relative"}, {Dir: dir, Size: 1}, {Dir: dir, Size: -1}, {Dir: dir, Rate: 1}} {
		if _, err := New(cfg, nil); cellproto.KindOf(err) != cellproto.BadInput {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
