package program

import (
	"context"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/cell"
)

// What a test and serveShy tell each other, as files in the cell's directory.
const (
	shyBegun = "begun" // the call is served
	shyTold  = "told"  // the nucleus has said goaway
	shyGoOn  = "go-on" // the call is to end
)

// serveShy is a program of the SDK whose hello reaches its nucleus only once that has told it to stop.
func serveShy() {
	nucleus := socket()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		panic(err)
	}
	os.Setenv(cellproto.EnvFD, strconv.Itoa(fds[1]))
	conn, err := connOf(os.NewFile(uintptr(fds[0]), "socket"))
	if err != nil {
		panic(err)
	}
	told := make(chan struct{})
	go func() { // what the nucleus says
		defer conn.(*net.UnixConn).CloseWrite()
		passFrames(conn, nucleus, func(f *cellproto.Frame) {
			if f.Type == cellproto.TypeGoaway {
				note(shyTold)
				close(told)
			}
		})
	}()
	go func() { // what the program says
		<-told
		passFrames(nucleus, conn, func(*cellproto.Frame) {})
		nucleus.Close()
	}()
	os.Args = os.Args[:1]
	cell.Main(cell.FuncRaw("hold", func(ctx context.Context, in []byte) ([]byte, error) {
		note(shyBegun)
		for tick := time.Tick(time.Millisecond); ; {
			select {
			case <-tick:
				if noted(".", shyGoOn) {
					return in, nil
				}
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}).Slow())
}

func note(name string) {
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		panic(err)
	}
}

func noted(dir, name string) bool {
	_, err := os.Stat(dir + "/" + name)
	return err == nil
}

// passFrames passes on what comes from one connection to another, and shows each whole frame first.
func passFrames(to, from net.Conn, show func(*cellproto.Frame)) {
	var all []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		all = append(all, buf[:n]...)
		for {
			f, size, err := cellproto.ParseFrame(all)
			if err != nil {
				panic(err)
			}
			if size == 0 {
				break
			}
			show(&f)
			all = all[size:]
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestLentToTheStoppedThatTookThem: a program that has begun to serve who it was lent, and is stopped before it has said hello,
// finishes what is in flight.
func TestLentToTheStoppedThatTookThem(t *testing.T) {
	p := asleep(t, "onceshy")
	near, far, err := localPair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cellproto.NewConn(near, cellproto.Config{Opener: true})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() { defer close(ran); _ = c.Run() }()
	t.Cleanup(func() { c.Close(); <-ran })
	given := make(chan bool, 1)
	go func() { given <- p.GrantAsleep(far.(*net.UnixConn), "", time.Time{}, nil) }()
	type answer struct {
		got string
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		got, err := ask(t, c, "hold", "x")
		answers <- answer{got, err}
	}()
	dir := p.cfg.Dir
	eventually(t, "it is called", func() bool { return noted(dir, shyBegun) })
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(testContext(t)) }()
	eventually(t, "it is told, or its call has ended", func() bool { return noted(dir, shyTold) || len(answers) > 0 })
	if err := os.WriteFile(dir+"/"+shyGoOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := <-answers; a.err != nil || a.got != "x" {
		t.Errorf("answered %q, %v (%v)", a.got, a.err, cellproto.KindOf(a.err))
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if !<-given {
		t.Error("it is given back")
	}
	if s := p.State(); s.Phase != Idle || s.Crashes != 0 || s.LastError != "" || s.LastExit != "exit status 0" {
		t.Errorf("%+v", s)
	}
}
