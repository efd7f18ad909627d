package cell

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// roleEnv makes the test binary a cell's program.
const roleEnv = "CELL_TEST_ROLE"

// childFunctions are those of the test binary when it is a cell's program.
func childFunctions() []*Function {
	return []*Function{
		Func("add", add).Pure(),
		FuncRaw("echo", echo),
		Func("inherits", inherits).Slow(),
		Func("pid", func(context.Context, None) (int, error) { return os.Getpid(), nil }),
		Func("wait", func(ctx context.Context, _ None) (string, error) {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(300 * time.Millisecond):
				return "finished", nil
			}
		}),
	}
}

// inherits lists the sockets that a program started by this one has.
func inherits(ctx context.Context, _ None) (string, error) {
	out, err := exec.CommandContext(ctx, "/bin/sh", "-c", `ls -l /proc/self/fd | grep -c socket; echo "fd=$CELL_FD"`).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil // grep found none
	}
	return string(out), err
}

type child struct {
	*cellproto.Conn
	cmd    *exec.Cmd
	exited chan error
}

// startChild starts the test binary as the nucleus starts a program.
func startChild(t testing.TB, accept func(*cellproto.Conn, *cellproto.Frame)) *child {
	t.Helper()
	nucleus, inside := socketPair(t)
	f, err := inside.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	inside.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=1", cellproto.EnvFD+"=3", cellproto.EnvName+"=child")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c := &child{cmd: cmd, exited: make(chan error, 1)}
	go func() { c.exited <- cmd.Wait() }()
	if c.Conn, err = cellproto.NewConn(nucleus, cellproto.Config{Opener: true, Accept: accept}); err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() { c.Conn.Run(); close(ran) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-c.exited
		c.Close()
		<-ran
	})
	return c
}

func (c *child) json(t testing.TB, function, args string) (string, error) {
	return (&program{Conn: c.Conn}).json(t, function, args)
}

func (c *child) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.exited:
		c.exited <- nil
		return err
	case <-time.After(time.Minute):
		t.Fatal("the program does not exit")
		return nil
	}
}

func TestProgram(t *testing.T) {
	for name, stop := range map[string]func(c *child){
		"SIGTERM": func(c *child) { _ = c.cmd.Process.Signal(syscall.SIGTERM) },
		"goaway":  func(c *child) { _ = c.Goaway("swap") },
		"close":   func(c *child) { _ = c.Drain(context.Background(), "stop") },
	} {
		t.Run(name, func(t *testing.T) {
			c := startChild(t, nil)
			hello, err := c.PeerHello(t.Context())
			if err != nil || hello.Cell != "child" {
				t.Fatalf("%+v %v", hello, err)
			}
			got, err := c.json(t, "add", `{"a":3,"b":4}`)
			check(t, got, err, "7", 0)
			if runtime.GOOS == "linux" {
				got, err = c.json(t, "inherits", "")
				check(t, got, err, `"0\nfd=\n"`, 0)
			}
			result := make(chan error, 1)
			go func() {
				got, err := c.json(t, "wait", "")
				check(t, got, err, `"finished"`, 0)
				result <- err
			}()
			for out := 0; out == 0; _, out = c.InFlight() { // until wait has been sent
				if _, err := c.json(t, "pid", ""); err != nil {
					t.Fatal(err)
				}
			}
			stop(c)
			if err := c.wait(t); err != nil {
				t.Error(err)
			}
			<-result
		})
	}
}

func TestProgramAlone(t *testing.T) {
	run := func(env []string, args ...string) (string, string, error) {
		var out, errs strings.Builder
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(append(os.Environ(), roleEnv+"=1", cellproto.EnvName+"=child"), env...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		return out.String(), errs.String(), err
	}
	_, errs, err := run(nil)
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(errs, "this program is a cell's: start it with cellctl start") {
		t.Errorf("%v: %s", err, errs)
	}
	if _, errs, _ = run([]string{"CELL_FD=x"}); !strings.Contains(errs, `"x" is not the number of a descriptor`) {
		t.Error(errs)
	}
	if _, errs, _ = run([]string{"CELL_FD=0"}); !strings.Contains(errs, "descriptor 0 is not a socket") {
		t.Error(errs)
	}
	out, errs, err := run(nil, "--schema")
	if err != nil {
		t.Fatal(err, errs)
	}
	schema, err := cellproto.ParseSchema([]byte(out))
	if err != nil || schema.Cell != "child" || !schema.Functions["add"].Pure {
		t.Errorf("%v %s", err, out)
	}
}

// BenchmarkHello measures from exec to the hello.
func BenchmarkHello(b *testing.B) {
	for b.Loop() {
		nucleus, inside := socketPair(b)
		f, err := inside.(*net.UnixConn).File()
		if err != nil {
			b.Fatal(err)
		}
		inside.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=1", cellproto.EnvFD+"=3")
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		f.Close()
		if _, err := bufio.NewReader(nucleus).Peek(cellproto.FrameHeaderSize); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		nucleus.Close()
		_ = cmd.Wait()
		b.StartTimer()
	}
}
