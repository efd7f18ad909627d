package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/state"
)

// withStore starts a program of one function, on a nucleus that keeps its state.
func withStore(t *testing.T, slow bool, f func(ctx context.Context, s *Store) error) *program {
	t.Helper()
	store, err := state.New(state.Config{Dir: t.TempDir(), Rate: 1 << 30}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	fn := Func("run", func(ctx context.Context, _ None) (string, error) { return "ok", f(ctx, StoreFrom(ctx)) })
	if slow {
		fn.Slow()
	}
	return start(t, programConfig{accept: func(c *cellproto.Conn, f *cellproto.Frame) {
		if !store.Accept(c, f) {
			t.Errorf("the nucleus was asked for %q", f.Header.Func)
		}
	}}, fn)
}

func TestStore(t *testing.T) {
	for _, slow := range []bool{false, true} {
		p := withStore(t, slow, func(ctx context.Context, s *Store) error {
			if _, ok, err := s.Get(ctx, "a"); ok || err != nil {
				return fmt.Errorf("a new store has a: %v", err)
			}
			if err := errors.Join(s.Put(ctx, "a", []byte("1")), s.Put(ctx, "b", nil)); err != nil {
				return err
			}
			if v, ok, err := s.Get(ctx, "a"); string(v) != "1" || !ok || err != nil {
				return fmt.Errorf("a is %q: %v", v, err)
			}
			if v, ok, err := s.Get(ctx, "b"); len(v) != 0 || !ok || err != nil {
				return fmt.Errorf("b is %q, there: %v, %v", v, ok, err)
			}
			now, swapped, err := s.CompareAndSwap(ctx, "a", []byte("2"), []byte("3"))
			if string(now) != "1" || swapped || err != nil {
				return fmt.Errorf("swapped %v, a is %q: %v", swapped, now, err)
			}
			if there, err := s.Delete(ctx, "a"); !there || err != nil {
				return fmt.Errorf("deleted: %v %v", there, err)
			}
			largest := bytes.Repeat([]byte("v"), cellproto.MaxStateValue)
			if err := s.Put(ctx, "large", largest); err != nil {
				return err
			}
			if v, _, err := s.Get(ctx, "large"); !bytes.Equal(v, largest) || err != nil {
				return fmt.Errorf("of the largest value there are %d bytes: %v", len(v), err)
			}
			if err := s.Put(ctx, "larger", append(largest, 0)); cellproto.KindOf(err) != cellproto.TooLarge || cellproto.HintOf(err) == "" {
				return fmt.Errorf("a value that is too large: %v", err)
			}
			return nil
		})
		got, err := p.json(t, "run", `{}`)
		check(t, got, err, `"ok"`, 0)
	}
}

func TestStoreLists(t *testing.T) {
	p := withStore(t, true, func(ctx context.Context, s *Store) error {
		for i := range 1100 {
			if err := s.Put(ctx, fmt.Sprintf("k/%04d", i), nil); err != nil {
				return err
			}
		}
		var keys []string
		for key, err := range s.Keys(ctx, "k/") {
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		if len(keys) != 1100 || !slices.IsSorted(keys) || keys[1099] != "k/1099" {
			return fmt.Errorf("%d keys", len(keys))
		}
		for range s.Keys(ctx, "") {
			break
		}
		for _, name := range []string{"b", "a"} {
			if err := s.Write(ctx, name, strings.NewReader(name)); err != nil {
				return err
			}
		}
		var names []string
		for f, err := range s.Files(ctx) {
			if err != nil {
				return err
			}
			if f.Size != 1 || time.Since(f.Modified) > time.Hour {
				return fmt.Errorf("%+v", f)
			}
			names = append(names, f.Name)
		}
		if !slices.Equal(names, []string{"a", "b"}) {
			return fmt.Errorf("%q", names)
		}
		return nil
	})
	got, err := p.json(t, "run", `{}`)
	check(t, got, err, `"ok"`, 0)
}

func TestStoreFiles(t *testing.T) {
	p := withStore(t, false, func(ctx context.Context, s *Store) error {
		const size = 3 << 20
		// More at a time than there are places, in order.
		var wg sync.WaitGroup
		errs := make([]error, 3*storeBodies)
		for i := range errs {
			wg.Go(func() { errs[i] = s.Write(ctx, fmt.Sprint("f", i), io.LimitReader(zeroReader{}, size)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for i := range 2 * storeBodies {
			r, err := s.OpenPart(ctx, fmt.Sprint("f", i), 1, size/2)
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, r)
			if err = errors.Join(err, r.Close()); err != nil || n != size/2 {
				return fmt.Errorf("%d bytes, %v", n, err)
			}
		}
		if _, err := s.Open(ctx, "none"); cellproto.KindOf(err) != cellproto.NotFound {
			return fmt.Errorf("a file that there is none of: %v", err)
		}
		if there, err := s.Remove(ctx, "f0"); !there || err != nil {
			return fmt.Errorf("removed: %v %v", there, err)
		}
		return nil
	})
	got, err := p.json(t, "run", `{}`)
	check(t, got, err, `"ok"`, 0)
}

func TestStoreUpdate(t *testing.T) {
	p := withStore(t, true, func(ctx context.Context, s *Store) error {
		return s.Update(ctx, "n", func(old []byte) ([]byte, error) { return append(old, 'x'), nil })
	})
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			got, err := p.json(t, "run", `{}`)
			check(t, got, err, `"ok"`, 0)
		})
	}
	wg.Wait()
	stop := errors.New("enough")
	p = withStore(t, true, func(ctx context.Context, s *Store) error {
		return s.Update(ctx, "n", func([]byte) ([]byte, error) { return nil, stop })
	})
	got, err := p.json(t, "run", `{}`)
	check(t, got, err, "enough", cellproto.FuncError)
}

// Without a nucleus that keeps state, and without a context of a function, that is said.
func TestNoStore(t *testing.T) {
	if err := StoreFrom(t.Context()).Put(t.Context(), "a", nil); cellproto.KindOf(err) != cellproto.Unsupported || cellproto.HintOf(err) == "" {
		t.Error(err)
	}
	p := start(t, programConfig{}, Func("run", func(ctx context.Context, _ None) (string, error) {
		return "ok", StoreFrom(ctx).Put(ctx, "a", nil)
	}))
	got, err := p.json(t, "run", `{}`)
	check(t, got, err, "answers no calls", cellproto.FuncError)
}
