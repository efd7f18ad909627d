package celltest

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// pid asks the tally's program for its process.
func pid(t *testing.T, conn *cellproto.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	reply, err := conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: "pid", Codec: cellproto.JSON}, Payload: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	return string(reply.Payload)
}

// A program that nobody calls is frozen, answers again in no time, and is stopped in good order.
func TestFreeze(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("[life_cycle]\nfreeze_after = 0.2\nidle_timeout = 3\n")
	c.Start()
	conn := c.dial()
	first := pid(t, conn)
	for range 3 {
		Eventually(t, "it is frozen", func() bool { return c.Status().State == ctl.Frozen })
		if s := c.Status(); fmt.Sprint(s.ProgramPID) != first {
			t.Errorf("%+v", s)
		}
		begin := time.Now()
		if again := pid(t, conn); again != first {
			t.Errorf("process %s answers, was %s", again, first)
		}
		t.Logf("a frozen program answered after %v", time.Since(begin))
		// On a busy machine so much time may have passed that it is frozen again.
		if s := c.Status().State; s != ctl.Running && (s != ctl.Frozen || time.Since(begin) < 200*time.Millisecond) {
			t.Errorf("it is %s after a call", s)
		}
	}
	Eventually(t, "it is stopped", func() bool {
		s := c.Status()
		return s.State == ctl.Idle && s.ProgramPID == 0 && s.LastExit != ""
	})
	if s := c.Status(); s.LastExit != "exit status 0" || s.Crashes != 0 || s.Starts != 1 {
		t.Errorf("%+v", s)
	}
	if again := pid(t, conn); again == first {
		t.Error("it was not stopped")
	}
	Eventually(t, "it is frozen", func() bool { return c.Status().State == ctl.Frozen })
	left := c.Status().ProgramPID
	c.Kill() // nobody is left to have it go on: the system ends it, or the next nucleus
	c.Start()
	pid(t, c.dial())
	Eventually(t, "it is ended", func() bool { return !Alive(left) })
	Eventually(t, "it is frozen", func() bool { return c.Status().State == ctl.Frozen })
	c.Stop() // which checks that no process is left
}

// A nucleus that retires leaves what its cell.toml says.
func TestSelfDestruct(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("[life_cycle]\nnucleus_timeout = 1\nauto_cleanup = true\nkeep_log = false\n")
	c.Start()
	c.Publish()
	if pid(t, c.dial()) == "" {
		t.Fatal("no answer")
	}
	c.AwaitEnd()
	c.CheckGone(0)
	for name, want := range map[string]bool{
		"bin": false, "cache": false, "log": false, "data": true, "keys/host.key": true, "published/latest": true, "cell.toml": true,
	} {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	// Told to stop it keeps its program, and not its log.
	c = n.tally("[life_cycle]\nauto_cleanup = true\nkeep_log = false\n")
	c.Start()
	c.Stop()
	if _, err := os.Stat(filepath.Join(c.Dir, "bin", "tally")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "log")); err == nil {
		t.Error("the log is kept")
	}
}

// misbehaving are programs as people put them into bin/ by mistake.
var misbehaving = map[string]struct {
	script string
	mode   os.FileMode
	state  string // of the swap, and with an old program that serves
	reason string
}{
	"no x bit":       {"#!/bin/sh\nexec sleep 60\n", 0o644, "refused", "is not executable"},
	"half":           {"\x7fELF\x02\x01\x01", 0o755, "waiting", "half-written"},
	"empty":          {"", 0o755, "waiting", "is empty"},
	"not a program":  {"\x01\x02\x03\x04", 0o755, "refused", "is not a program"},
	"exits at once":  {"#!/bin/sh\nexit 0\n", 0o755, "refused", "ended before it said hello (exit status 0)"},
	"fails":          {"#!/bin/sh\necho no database >&2\nexit 3\n", 0o755, "refused", "no database"},
	"forks, leaves":  {"#!/bin/sh\nsleep 60 &\nexit 0\n", 0o755, "refused", "ended before it said hello"},
	"garbage":        {"#!/bin/sh\necho GET / HTTP/1.1 >&3\nexec sleep 60\n", 0o755, "refused", "does not speak frames"},
	"never hello":    {"#!/bin/sh\ntrap '' TERM\nexec sleep 60\n", 0o755, "refused", "has not said hello for 10s"},
	"closes its end": {"#!/bin/sh\nexec 3>&-\nexec sleep 60\n", 0o755, "refused", "without a hello"},
	"fills its log":  {"#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\nyes | head -c 3000000\nexit 4\n", 0o755, "refused", "exit status 4"},
}

// foreignBinary gives the tally as it would be for another machine.
func (c *Cell) foreignBinary() string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(Bin(c.t), "tally"))
	if err != nil {
		c.t.Fatal(err)
	}
	data[18] = byte(elf.EM_AARCH64) // e_machine
	if runtime.GOARCH == "arm64" {
		data[18] = byte(elf.EM_X86_64)
	}
	return string(data)
}

// contradicts is a script that speaks frames: its hello has the hash of another schema than cell.schema gives. It cannot
// read what it is asked, and so answers each of the first calls all the time: what nobody waits for is dropped.
func contradicts() string {
	octal := func(f *cellproto.Frame) (text string) {
		for _, b := range frame(f) {
			text += fmt.Sprintf("\\%03o", b)
		}
		return text
	}
	hello, err := (&cellproto.Hello{Versions: []uint{cellproto.Version}, Agent: "script", Schema: make([]byte, 32)}).Marshal()
	if err != nil {
		panic(err)
	}
	script := "#!/bin/sh\nprintf '" + octal(&cellproto.Frame{Type: cellproto.TypeHello, Payload: hello}) + "' >&3\nwhile :; do\n"
	for id := uint32(1); id <= 9; id += 2 {
		script += "printf '" + octal(&cellproto.Frame{
			Type: cellproto.TypeReply, ID: id, Header: cellproto.Header{Codec: cellproto.JSON},
			Payload: []byte(`{"cell":"tally","functions":{"pid":{"input":{}}}}`),
		}) + "' >&3 || exit 1\n"
	}
	return script + "sleep 0.05\ndone\n"
}

// Each is a state with a reason, the old one keeps serving where there is one, and where there is none
// requests have their answer within their deadline.
func TestMisbehavingPrograms(t *testing.T) {
	t.Parallel()
	n := New(t)
	var all sync.WaitGroup
	for name, m := range misbehaving {
		old, none := n.tally(""), n.tally("")
		all.Go(func() {
			t.Run(name, func(t *testing.T) {
				old.Start()
				conn := old.dial()
				first := pid(t, conn)
				old.replaceProgram(m.script, m.mode)
				Eventually(t, "the swap is "+m.state, func() bool {
					s := old.Status().Swap
					return s != nil && s.State == m.state
				})
				s := old.Status()
				if !strings.Contains(s.Swap.Reason, m.reason) || s.Swap.Hint == "" || s.Swap.Since.IsZero() {
					t.Errorf("%+v", s.Swap)
				}
				if again := pid(t, conn); again != first {
					t.Errorf("process %s answers, want %s", again, first)
				}
				info, err := os.Stat(filepath.Join(old.Dir, "log", "cell.log"))
				if err == nil && info.Size() > 1<<20 {
					t.Errorf("the log has %d bytes", info.Size())
				}

				none.replaceProgram(m.script, m.mode)
				none.Start()
				begin := time.Now()
				r := none.Ctl("use", ".", "pid", "--timeout", "12s")
				if took := time.Since(begin); r.Code != 5 || took > 20*time.Second || !strings.Contains(r.Stderr, m.reason) {
					t.Errorf("exit code %d after %v: %s", r.Code, took, r.Stderr)
				}
				Eventually(t, "its state says why", func() bool { return strings.Contains(none.Status().LastError, m.reason) })
				if s := none.Status(); s.State != ctl.Idle || s.LastHint == "" {
					t.Errorf("%+v", s)
				}
				// Mended, it serves without being asked to.
				none.copyFile(filepath.Join(Bin(t), "tally"), "bin/.new", 0o755)
				if err := os.Rename(filepath.Join(none.Dir, "bin/.new"), filepath.Join(none.Dir, "bin/tally")); err != nil {
					t.Fatal(err)
				}
				Eventually(t, "the good one serves", func() bool { return none.Ctl("use", ".", "pid").Code == 0 })
			})
		})
	}
	all.Wait()
}

// Programs that are made well, for another machine or with another schema than they say: the old one keeps serving, and
// where there is none a request is told why.
func TestForeignAndContradictingPrograms(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("programs are ELF files on Linux")
	}
	n := New(t)
	for name, m := range map[string]struct{ program, reason string }{
		"another architecture": {n.tally("").foreignBinary(), "a program for linux/"},
		"another schema":       {contradicts(), "its hello names another schema than it gives"},
	} {
		old, none := n.tally(""), n.tally("")
		t.Run(name, func(t *testing.T) {
			old.Start()
			conn := old.dial()
			first := pid(t, conn)
			old.replaceProgram(m.program, 0o755)
			Eventually(t, "the swap is refused", func() bool {
				s := old.Status().Swap
				return s != nil && s.State == "refused"
			})
			if s := old.Status().Swap; !strings.Contains(s.Reason, m.reason) || s.Hint == "" {
				t.Errorf("%+v", s)
			}
			if again := pid(t, conn); again != first {
				t.Errorf("process %s answers, want %s", again, first)
			}
			if text := old.Must("status"); !strings.Contains(text, m.reason) {
				t.Errorf("cellctl status says\n%s", text)
			}
			none.replaceProgram(m.program, 0o755)
			none.Start()
			if r := none.Ctl("use", ".", "pid", "--timeout", "12s"); r.Code != 5 || !strings.Contains(r.Stderr, m.reason) {
				t.Errorf("exit code %d: %s", r.Code, r.Stderr)
			}
		})
	}
}

// replaceProgram puts a program into bin/ by rename.
func (c *Cell) replaceProgram(content string, mode os.FileMode) {
	c.t.Helper()
	c.write("bin/.next", content, mode)
	if err := os.Rename(filepath.Join(c.Dir, "bin/.next"), filepath.Join(c.Dir, "bin/tally")); err != nil {
		c.t.Fatal(err)
	}
}

// A program that is killed again and again while it answers lines loses no call that may be repeated.
func TestKilledLines(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Start()
	conn := c.dial()
	var over sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		over.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), Patience)
				reply, err := conn.Call(ctx, &cellproto.Request{
					Header: cellproto.Header{Func: "greet", Codec: cellproto.JSON}, Payload: fmt.Appendf(nil, `{"name":"Ann%d"}`, i),
				})
				cancel()
				if err != nil || string(reply.Payload) != fmt.Sprintf(`"Hello, Ann%d!"`, i) {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	last, served := 0, int64(0)
	for range 5 {
		Eventually(t, "a program answers", func() bool { // all of them: a call is made again twice only
			s := c.Status()
			return s.ProgramPID != 0 && s.ProgramPID != last && s.Served > served+100 || t.Failed()
		})
		s := c.Status()
		last, served = s.ProgramPID, s.Served
		if err := syscall.Kill(last, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	Eventually(t, "it goes on", func() bool { s := c.Status(); return s.ProgramPID != 0 && s.ProgramPID != last })
	close(stop)
	over.Wait()
}

// A directory is replaced as a whole, with the program in it.
func TestSwapOfADirectory(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.tally("")
	c.Start()
	conn := c.dial()
	first := pid(t, conn)
	if err := os.Mkdir(filepath.Join(c.Dir, "bin.new"), 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{c.nextVersion(1): filepath.Join(c.Dir, "bin.new", "tally")} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, names := range [][2]string{{"bin", "bin.old"}, {"bin.new", "bin"}} {
		if err := os.Rename(filepath.Join(c.Dir, names[0]), filepath.Join(c.Dir, names[1])); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, "the new program answers", func() bool { return pid(t, conn) != first })
	second := pid(t, conn)
	c.replaceProgram("", 0o755) // in the new directory, which is watched too
	Eventually(t, "the file is seen", func() bool { s := c.Status().Swap; return s != nil && s.State == "waiting" })
	if again := pid(t, conn); again != second {
		t.Errorf("process %s answers, want %s", again, second)
	}
}

// A program that speaks lines gets no more calls at a time than its cell.toml says, whoever makes them.
func TestConcurrencyOfLines(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("greet")
	c.Edit("", "\n[resources]\nconcurrency = 2\n")
	c.write("bin/greet", "#!/bin/sh\nwhile IFS= read -r line; do\n\tid=${line#*:}\n\twhile [ ! -e go ]; do sleep 0.05; done\n"+
		"\techo \"{\\\"id\\\":${id%%,*},\\\"reply\\\":\\\"hello\\\"}\"\ndone\n", 0o755)
	c.Start()
	results := make(chan error, 9)
	for range 3 {
		conn := c.dial()
		for range 3 {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), Patience)
				defer cancel()
				_, err := conn.Call(ctx, &cellproto.Request{
					Header: cellproto.Header{Func: "greet", Codec: cellproto.JSON}, Payload: []byte(`{"name":"Ann"}`),
				})
				results <- err
			}()
		}
	}
	for range 7 { // the others have to wait for the program
		if err := <-results; cellproto.KindOf(err) != cellproto.Overloaded || cellproto.RetryAfterOf(err) <= 0 {
			t.Errorf("%v, retry after %v", err, cellproto.RetryAfterOf(err))
		}
	}
	c.write("go", "", 0o644)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A new program is not what was published: who asked for the CID is served elsewhere, until it is
// published, or the old one is back.
func TestSwapOfAPublishedCell(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Bootstrap()
	first := n.tally("[auth]\nchallenge = \"none\"\n")
	first.Start()
	one := first.Publish()
	second := n.Copy(first)
	second.Start()
	caller := n.Headless("caller")
	caller.Start()
	caller.AwaitProviders(one.CID, 2)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() { // by CID, all the while
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := caller.Use(context.Background(), one.CID, "pid"); err != nil {
				failed <- err
				return
			}
		}
	}()
	client := &ctl.Client{Dir: first.Dir}
	if _, err := client.Swap(t.Context(), first.nextVersion(1), ctl.Guard{}, false); err != nil {
		t.Fatal(err)
	}
	if s := first.Status(); s.CID != "" || s.Swap == nil || s.Swap.State != "trial" {
		t.Errorf("%+v", s)
	}
	// It dies on trial: the old one is back, and with it the CID.
	if _, _, err := first.Use(t.Context(), "", "die"); err == nil {
		t.Error("it lives")
	}
	Eventually(t, "the CID is served again", func() bool { return first.Status().CID == one.CID })
	if s := first.Status(); s.Swap.State != "rolled back" || !strings.Contains(s.Swap.Reason, "exit status 7") {
		t.Errorf("%+v", s.Swap)
	}
	// Published in the same moment, there is no time without a CID.
	swapped, err := client.Swap(t.Context(), first.nextVersion(2), ctl.Guard{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if s := first.Status(); swapped.CID == one.CID || s.CID != swapped.CID || swapped.IPNS != one.IPNS {
		t.Errorf("%+v; %+v", swapped, s)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("a call by the old CID: %v", err)
	}
	if reply, _, err := caller.Use(t.Context(), swapped.CID, "pid"); err != nil {
		t.Errorf("by the new CID: %s, %v", reply, err)
	}
}
