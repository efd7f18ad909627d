package program

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

func init() { programs["sendrecv"] = serveSendRecv }

// sendRecv is the program's socket by send(2) and recv(2), of which the kernel counts no byte for a process.
type sendRecv struct{ fd uintptr }

func (s sendRecv) call(number uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.Syscall6(number, s.fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR, syscall.EAGAIN:
			time.Sleep(time.Millisecond) // it may have been left as one that does not block
		default:
			return 0, errno
		}
	}
}

func (s sendRecv) Read(b []byte) (n int, err error) {
	if n, err = s.call(unix.SYS_RECVFROM, b); err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

func (s sendRecv) Write(b []byte) (n int, err error) {
	for n < len(b) {
		more, err := s.call(unix.SYS_SENDTO, b[n:])
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

func (s sendRecv) Close() error { return syscall.Shutdown(int(s.fd), syscall.SHUT_RDWR) }

func serveSendRecv() {
	fd, err := strconv.Atoi(os.Getenv(cellproto.EnvFD))
	if err != nil {
		panic(err)
	}
	hello := cellproto.Hello{Cell: os.Getenv(cellproto.EnvName), Functions: []string{"echo", "env"}}
	c, err := cellproto.NewConn(sendRecv{uintptr(fd)}, cellproto.Config{Hello: hello, Accept: answerFrame})
	if err != nil {
		panic(err)
	}
	c.Run()
}

// What a program receives and sends is counted in every tier, by whatever calls it reads and writes: the kernel counts
// nothing of send and recv.
func TestBytesAreCounted(t *testing.T) {
	const calls, size = 20, 100_000
	payload := []byte(`"` + strings.Repeat("x", size) + `"`)
	for _, tier := range []sandbox.Tier{sandbox.T1, sandbox.T2, sandbox.T3} {
		for _, mode := range []string{"sendrecv", "serve", "lines"} {
			t.Run(tier.String()+" "+mode, func(t *testing.T) {
				cfg := confinedConfig(t, mode)
				cfg.Sandbox.Config.Tier = tier
				if works, why := tierWorks(t, cfg.Sandbox.Launcher, tier); !works {
					t.Skipf("%v does not work here: %s", tier, why)
				}
				for _, d := range []string{cfg.Dir, filepath.Dir(cfg.Dir)} { // started by root it is another user's
					if err := os.Chmod(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				p := newProgram(t, cfg, Deps{})
				for range calls {
					got, err := call(testContext(t), p, "echo", payload, cellproto.JSON)
					if err != nil || !bytes.Equal(got, payload) {
						t.Fatalf("%d bytes, %v (%s)", len(got), err, cellproto.HintOf(err))
					}
				}
				// Of lines the sandbox counts, which looks and tells once a second.
				var u Usage
				eventually(t, "its bytes are counted", func() bool { u = p.Usage(); return u.Received >= calls*size && u.Sent >= calls*size })
				if least, most := uint64(calls*len(payload)), uint64(calls*(len(payload)+4096)); mode != "lines" &&
					(u.Received < least || u.Received > most || u.Sent < least || u.Sent > most) {
					t.Errorf("it received %d and sent %d bytes, not %d to %d", u.Received, u.Sent, least, most)
				}
				var seen sandbox.Usage
				eventually(t, "the sandbox tells", func() bool { seen = p.cur.proc.box.Last().Usage; return seen.CPU > 0 })
				t.Logf("received %d, sent %d; of these the kernel has counted %d and %d", u.Received, u.Sent, seen.Received, seen.Sent)
			})
		}
	}
}

func tierWorks(t *testing.T, launcher string, tier sandbox.Tier) (bool, string) {
	t.Helper()
	support, err := sandbox.ProbeThrough(testContext(t), launcher)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range support.Tiers {
		if s.Tier == tier {
			return s.Works, s.Why
		}
	}
	t.Fatal(errors.New("there is no such tier"))
	return false, ""
}
