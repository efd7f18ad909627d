package cell

import (
	"context"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Store is the state of the cell, which its nucleus keeps in data/store: keys with values, and files. A
// program in a sandbox, which has no disk of its own, has it just as any other. What a method has
// acknowledged survives kill -9 and a loss of power.
//
// Keys are at most cellproto.MaxStateKey bytes, values cellproto.MaxStateValue; what is larger is a file.
// Together they take at most [resources] disk of cell.toml, past which the error is TooLarge, and are
// written and read at 5 MB/s, past which methods wait. All methods may be used from any goroutine; those of
// an inline function yield first (see the package comment).
type Store struct {
	client *Client
}

// A program makes half as many calls at a time as its nucleus takes of a cell, so that none is refused while
// one program takes over from another.
const (
	storeCalls  = cellproto.MaxStateCalls / 2
	storeBodies = cellproto.MaxStateBodies / 2
)

// StoreFrom gives the store of a function's context, or of Config.Background's. Without one its methods fail
// with Unsupported.
func StoreFrom(ctx context.Context) *Store { return &Store{ClientFrom(ctx)} }

// Get gives the value of a key; ok is false if there is none.
func (s *Store) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	r, err := s.ask(ctx, cellproto.FuncKVGet, &cellproto.StateArgs{Key: []byte(key)})
	if err != nil {
		return nil, false, err
	}
	return r.Value, r.Value != nil, nil
}

// Put sets the value of a key.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	_, err := s.ask(ctx, cellproto.FuncKVPut, &cellproto.StateArgs{Key: []byte(key), Value: present(value)})
	return err
}

// present gives a value that is not taken for none.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// Delete removes a key, and reports whether it was there.
func (s *Store) Delete(ctx context.Context, key string) (bool, error) {
	r, err := s.ask(ctx, cellproto.FuncKVDelete, &cellproto.StateArgs{Key: []byte(key)})
	return err == nil && r.Removed, err
}

// CompareAndSwap sets the value of a key if it has the value old: nil stands for no such key, for old as for
// value. It gives what the key has afterwards, and whether it was set.
func (s *Store) CompareAndSwap(ctx context.Context, key string, old, value []byte) (now []byte, swapped bool, err error) {
	r, err := s.ask(ctx, cellproto.FuncKVCAS, &cellproto.StateArgs{Key: []byte(key), Old: old, Value: value})
	if err != nil {
		return nil, false, err
	}
	return r.Value, r.Swapped, nil
}

// Update sets the value of a key to what change makes of the one before, nil standing for no such key in
// both. If somebody else has set it meanwhile, change is called again. An error of change ends it.
func (s *Store) Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error {
	old, _, err := s.Get(ctx, key)
	for err == nil {
		var value []byte
		if value, err = change(old); err != nil {
			break
		}
		var swapped bool
		if old, swapped, err = s.CompareAndSwap(ctx, key, old, value); swapped {
			return err
		}
	}
	return err
}

// Keys gives the keys that begin with prefix, in the order of their bytes. One that is set or deleted
// meanwhile may be given or not. After an error nothing follows.
func (s *Store) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		a := &cellproto.StateArgs{Prefix: []byte(prefix)}
		for {
			r, err := s.ask(ctx, cellproto.FuncKVList, a)
			if err != nil {
				yield("", err)
				return
			}
			for _, key := range r.Keys {
				if !yield(string(key), nil) {
					return
				}
				a.After = key
			}
			if !r.More || len(r.Keys) == 0 {
				return
			}
		}
	}
}

// FileInfo describes a file of a Store.
type FileInfo struct {
	Name     string
	Size     int64
	Modified time.Time
}

// Files gives the files, by name; see Keys.
func (s *Store) Files(ctx context.Context) iter.Seq2[FileInfo, error] {
	return func(yield func(FileInfo, error) bool) {
		a := &cellproto.StateArgs{}
		for {
			r, err := s.ask(ctx, cellproto.FuncFileList, a)
			if err != nil {
				yield(FileInfo{}, err)
				return
			}
			for _, f := range r.Files {
				if !yield(FileInfo{f.Name, f.Size, time.UnixMilli(f.Modified)}, nil) {
					return
				}
				a.After = []byte(f.Name)
			}
			if !r.More || len(r.Files) == 0 {
				return
			}
		}
	}
}

// Open reads a file, which must be closed. One that is replaced meanwhile is read to its end. The error is
// NotFound if there is none. See cellproto.ValidStateName for what names there are.
func (s *Store) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	return s.OpenPart(ctx, name, 0, 0)
}

// OpenPart is Open for length bytes from offset on; 0 for all to the end.
func (s *Store) OpenPart(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	reply, leave, err := s.call(ctx, cellproto.FuncFileRead, &cellproto.StateArgs{Name: name, Offset: offset, Length: length}, nil, true)
	if err != nil {
		return nil, err
	}
	return &fileReader{(&Reply{reply: *reply}).Body(), leave}, nil
}

// Write replaces a file by what r gives, as a whole: who reads it sees the old one or the new one, and if r
// fails, or the program ends, the old one stays. While it is written both take room.
func (s *Store) Write(ctx context.Context, name string, r io.Reader) error {
	reply, leave, err := s.call(ctx, cellproto.FuncFileWrite, &cellproto.StateArgs{Name: name}, r, true)
	if err != nil {
		return err
	}
	defer leave()
	_, err = reply.Bytes(cellproto.MaxArgs)
	return err
}

// Remove removes a file, and reports whether it was there.
func (s *Store) Remove(ctx context.Context, name string) (bool, error) {
	r, err := s.ask(ctx, cellproto.FuncFileRemove, &cellproto.StateArgs{Name: name})
	return err == nil && r.Removed, err
}

// ask makes a call without a body.
func (s *Store) ask(ctx context.Context, fn string, a *cellproto.StateArgs) (*cellproto.StateReply, error) {
	reply, leave, err := s.call(ctx, fn, a, nil, false)
	if err != nil {
		return nil, err
	}
	defer leave()
	data, err := reply.Bytes(cellproto.MaxArgs)
	if err != nil {
		return nil, remote(err)
	}
	r, err := cellproto.ParseStateReply(data)
	if err != nil {
		return nil, remote(err)
	}
	return r, nil
}

// call waits for a place and makes a call; leave gives the place back.
func (s *Store) call(ctx context.Context, fn string, a *cellproto.StateArgs, body io.Reader, moves bool) (_ *cellproto.Reply, leave func(), err error) {
	cl := s.client
	if cl == nil {
		return nil, nil, cellproto.Errorf("call "+fn, cellproto.Unsupported, "the context is not that of a function of a cell").
			WithHint("Pass on the context that the function was called with.")
	}
	payload, err := a.Marshal()
	if err != nil {
		return nil, nil, cellproto.Errorf("call "+fn, cellproto.BadInput, "%w", err)
	}
	h := cellproto.Header{Func: fn, Codec: cellproto.CBOR}
	if c := callFrom(ctx); c != nil {
		c.detach()
		h.Trace = []byte(c.given.trace)
	}
	places := cl.calls
	if moves {
		places = cl.bodies
	}
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, remote(cellproto.Errorf("call "+fn, cellproto.KindOf(ctx.Err()), "%w before it was its turn", ctx.Err()))
	}
	leave = sync.OnceFunc(func() { <-places })
	reply, err := cl.conn.Call(ctx, &cellproto.Request{Header: h, Payload: payload, Body: body})
	if err != nil {
		leave()
		return nil, nil, remote(err)
	}
	return reply, leave, nil
}

// fileReader gives its place back when it is closed.
type fileReader struct {
	io.ReadCloser
	leave func()
}

func (f *fileReader) Close() error {
	defer f.leave()
	return f.ReadCloser.Close()
}
