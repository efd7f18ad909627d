package cell

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// gate is a function that tells when it runs and ends when it is let.
type gate struct{ entered, leave chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 1), make(chan struct{})} }

func (g *gate) wait(context.Context, None) (int, error) {
	g.entered <- struct{}{}
	<-g.leave
	return 1, nil
}

func TestStopFinishesCalls(t *testing.T) {
	for name, stop := range map[string]func(p *program){
		"signal": func(p *program) { p.stop() },
		"goaway": func(p *program) { _ = p.Goaway("swap") },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			p := start(t, programConfig{}, Func("wait", g.wait).Slow())
			result := make(chan error, 1)
			go func() {
				got, err := p.json(t, "wait", "")
				check(t, got, err, "1", 0)
				result <- err
			}()
			<-g.entered
			stop(p)
			for !p.Leaving() {
				if _, err := p.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case err := <-p.result:
				t.Fatalf("ended with a call in flight: %v", err)
			case <-result:
				t.Fatal("the call ended by itself")
			default:
			}
			close(g.leave)
			if err := p.wait(t); err != nil {
				t.Error(err)
			}
			check(t, "", <-result, "", 0)
		})
	}
}

// An inline function is finished, too, although the connection knows nothing of it.
func TestStopFinishesInline(t *testing.T) {
	g := newGate()
	p := start(t, programConfig{}, Func("wait", g.wait))
	result := make(chan error, 1)
	go func() { _, err := p.json(t, "wait", ""); result <- err }()
	<-g.entered
	p.stop()
	close(g.leave)
	check(t, "", <-result, "", 0)
	if err := p.wait(t); err != nil {
		t.Error(err)
	}
}

// No call that the nucleus began before it read the goaway is lost.
func TestStopUnderLoad(t *testing.T) {
	for range 20 {
		p := start(t, programConfig{}, Func("add", add), Func("slow", add).Slow())
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for n := range 1000 {
					name := [...]string{"add", "slow"}[i%2]
					got, err := p.json(t, name, `{"a":1,"b":1}`)
					if err != nil {
						check(t, got, err, "", cellproto.Unavailable)
						return
					}
					check(t, got, err, "2", 0)
					if n == 20 && i == 0 {
						p.stop()
					}
				}
			})
		}
		wg.Wait()
		if err := p.wait(t); err != nil {
			t.Error(err)
		}
	}
}

func TestDrainIsBounded(t *testing.T) {
	g := newGate()
	p := start(t, programConfig{Config: Config{Drain: 20 * time.Millisecond}},
		Func("wait", func(ctx context.Context, _ None) (None, error) {
			g.entered <- struct{}{}
			<-ctx.Done()
			return None{}, ctx.Err()
		}).Slow())
	result := make(chan error, 1)
	go func() { _, err := p.json(t, "wait", ""); result <- err }()
	<-g.entered
	p.stop()
	check(t, "", p.wait(t), "1 calls had not ended", cellproto.Timeout)
	if kind := cellproto.KindOf(<-result); kind != cellproto.MayHaveRun && kind != cellproto.Canceled {
		t.Errorf("the caller sees %v", kind)
	}
}

func TestNucleusDies(t *testing.T) {
	g := newGate()
	p := start(t, programConfig{}, Func("wait", func(ctx context.Context, _ None) (None, error) {
		g.entered <- struct{}{}
		<-ctx.Done()
		return None{}, ctx.Err()
	}))
	result := make(chan error, 1)
	go func() { _, err := p.json(t, "wait", ""); result <- err }()
	<-g.entered
	p.Close()
	check(t, "", p.wait(t), "the nucleus is gone", cellproto.Failed)
	<-result

	p = start(t, programConfig{}, Func("add", add))
	got, err := p.json(t, "add", `{"a":1,"b":1}`)
	check(t, got, err, "2", 0)
	p.Close()
	if err := p.wait(t); err != nil {
		t.Errorf("ended without a call in flight: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	a, b := socketPair(t)
	result := make(chan error, 1)
	go func() { result <- Config{Name: "test"}.Serve(t.Context(), a, Func("add", add)) }()
	_, _ = b.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	check(t, "", <-result, "the nucleus is gone", cellproto.TooLarge)
	_, _ = io.Copy(io.Discard, b)
	b.Close()
}

func TestBackground(t *testing.T) {
	called := make(chan int, 1)
	begin := make(chan struct{})
	p := start(t, programConfig{accept: loop, Config: Config{Background: func(ctx context.Context) error {
		<-begin
		n, err := Call[int](ctx, "self", "add", addArgs{1, 2})
		called <- n
		<-ctx.Done()
		return err
	}}}, Func("add", add))
	close(begin)
	if n := <-called; n != 3 {
		t.Error(n)
	}
	p.stop()
	if err := p.wait(t); err != nil {
		t.Error(err)
	}

	broken := errors.New("no disk")
	p = start(t, programConfig{Config: Config{Background: func(context.Context) error { return broken }}}, Func("add", add))
	if err := p.wait(t); !errors.Is(err, broken) {
		t.Error(err)
	}
}
