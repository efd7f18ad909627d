package content

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// maxRounds is how often the same peers are asked again, as long as each round brings bytes.
const maxRounds = 16

// FetchFile fetches the artefact want to the path dst, with the given permissions, in place of what
// is there; the directory must exist. It asks the peers in turn by /cell/fetch/1, which is verified while it streams: when one
// of them fails or lies, the next goes on from the last good byte. When they cannot, it goes on by
// bitswap, from them and from those that the routing finds. dst changes only at the end, in one step
// and after an fsync; if it holds want already, nothing is fetched. progress is told how much is
// there, whenever that changes; it may be nil.
//
// An interrupted fetch (kinds Timeout, Unavailable, NotFound, Overloaded, Failed) leaves what it has
// beside dst in a hidden file "….part", and the next one goes on from there; after Canceled and
// Corrupt nothing is left. Corrupt: what peers have is not want. TooLarge: over Config.MaxFile.
func (s *Store) FetchFile(ctx context.Context, want File, from []peer.AddrInfo, dst string, mode os.FileMode,
	progress func(done, total int64)) error {
	op := "fetch " + want.CID.String()
	if err := s.checkWant(op, want); err != nil {
		return err
	}
	dst, err := filepath.Abs(dst)
	if err != nil {
		return cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	unlock, err := s.dsts.lock(ctx, dst)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer unlock()
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.x.ctx, cancel)()
	if sameFile(dst, want) {
		if err := os.Chmod(dst, mode); err != nil {
			return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
		}
		if progress != nil {
			progress(want.Size, want.Size)
		}
		return nil
	}
	p, err := openPart(partPath(dst, want), want.Size, progress)
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	err = s.fill(ctx, want, from, p)
	if err == nil {
		err = p.commit(dst, mode)
	}
	if err == nil {
		return nil
	}
	e := cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	if e.Kind == cellproto.Canceled && caller.Err() == nil {
		e.Kind = cellproto.Unavailable // the store is stopping: the next run goes on
	}
	p.close(e.Kind)
	if errors.Is(err, syscall.ENOSPC) {
		return e.WithHint("Free %d MiB on the disk of %s.", (want.Size-p.done)>>20+1, filepath.Dir(dst))
	}
	return e
}

func (s *Store) checkWant(op string, want File) error {
	if err := checkCID(op, want.CID); err != nil {
		return err
	}
	switch {
	case want.Size < 0:
		return cellproto.Errorf(op, cellproto.BadInput, "a size of %d bytes", want.Size)
	case want.Size > s.cfg.MaxFile:
		return cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", want.Size, s.cfg.MaxFile)
	case want.BLAKE3 == [32]byte{}:
		return cellproto.Errorf(op, cellproto.BadInput, "no BLAKE3 was given")
	}
	return nil
}

// fill completes p and verifies it. What an earlier fetch left is checked only here, as a whole: if
// it was damaged on the disk, it is thrown away and everything is fetched anew.
func (s *Store) fill(ctx context.Context, want File, from []peer.AddrInfo, p *part) error {
	for {
		resumed := p.done > 0
		verified, err := s.fillOnce(ctx, want, from, p)
		if err != nil {
			return err
		}
		if verified && !resumed && want.Size > 0 {
			return nil
		}
		if err := p.flush(); err != nil {
			return err
		}
		sum, err := hashOf(&ctxReader{ctx, io.NewSectionReader(p.f, 0, want.Size)})
		switch {
		case err != nil:
			return err
		case sum == want.BLAKE3:
			return nil
		case !resumed:
			return cellproto.Errorf("check artefact", cellproto.Corrupt, "the CID and the BLAKE3 name different files")
		}
		s.log.Info("starting over: what an interrupted fetch had left is damaged", zap.String("path", p.path))
		if err := p.truncate(0); err != nil {
			return err
		}
	}
}

// fillOnce fetches what p lacks; verified reports that all of that has been checked by BLAKE3.
func (s *Store) fillOnce(ctx context.Context, want File, from []peer.AddrInfo, p *part) (verified bool, err error) {
	if p.done == want.Size && want.Size > 0 {
		return true, nil
	}
	done, lied, why := s.fetchRounds(ctx, want, from, p)
	if done {
		return true, nil
	}
	var local sinkError
	if ctx.Err() != nil || errors.As(why, &local) {
		return false, why
	}
	var named []peer.ID
	for _, info := range from {
		if !lied[info.ID] {
			s.deps.Host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
			named = append(named, info.ID)
		}
	}
	if err := s.walkFile(ctx, want, named, p); err != nil {
		return false, worse(why, err)
	}
	return false, nil
}

// fetchRounds asks the peers in turn by /cell/fetch/1, and again while that brings something. why is
// the most telling failure.
func (s *Store) fetchRounds(ctx context.Context, want File, from []peer.AddrInfo, p *part) (ok bool, lied map[peer.ID]bool, why error) {
	lied = make(map[peer.ID]bool)
	out := make(map[peer.ID]bool) // need not be asked again
	for range maxRounds {
		before, wait := p.done, time.Duration(0)
		for _, info := range from {
			if out[info.ID] || info.ID == s.deps.Host.ID() {
				continue
			}
			err := s.fetchFrom(ctx, info, want, p)
			if err == nil {
				return true, lied, nil
			}
			why = worse(why, err)
			s.log.Debug("a peer did not deliver", zap.Stringer("peer", info.ID), zap.Int64("done", p.done), zap.Error(err))
			var local sinkError
			if ctx.Err() != nil || errors.As(err, &local) {
				return false, lied, err
			}
			switch cellproto.KindOf(err) {
			case cellproto.Overloaded:
				wait = min(max(cellproto.RetryAfterOf(err), 10*time.Millisecond), s.timing.retry)
			case cellproto.Unavailable, cellproto.Timeout:
			case cellproto.Corrupt:
				lied[info.ID], out[info.ID] = true, true
			default:
				out[info.ID] = true
			}
		}
		if p.done > before {
			continue
		}
		if wait == 0 {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false, lied, cellproto.Errorf("fetch", cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
		}
	}
	return false, lied, why
}

// worse picks the failure that says most about why nothing came: a lie before silence before absence.
func worse(a, b error) error {
	rank := func(err error) int {
		switch cellproto.KindOf(err) {
		case 0:
			return 0
		case cellproto.NotFound:
			return 1
		case cellproto.Unavailable:
			return 2
		case cellproto.Overloaded:
			return 3
		case cellproto.Timeout:
			return 4
		case cellproto.Canceled:
			return 6
		}
		return 5
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// Sizes of what goes to the disk at once: in larger pieces the page cache costs half, and what is
// being written out while the rest arrives need not be waited for at the fsync (18 ms of it become
// 6 for 20 MB).
const (
	writeBytes     = 512 << 10
	writebackBytes = 4 << 20
)

// part is the file that a fetch fills, from its start to its end.
type part struct {
	f        *os.File
	path     string
	done     int64  // bytes that are there, those in buf included
	buf      []byte // the last of them, not yet written
	started  int64  // bytes whose way to the disk has begun
	size     int64
	progress func(done, total int64)
}

// openPart opens what an earlier fetch has left, as far as it can be resumed, or makes it.
func openPart(path string, size int64, progress func(done, total int64)) (*part, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	p := &part{f: f, path: path, size: size, progress: progress}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = errors.New(path + " is no regular file")
	case fi.Size() > size:
		err = p.truncate(0)
	case fi.Size() == size:
		err = p.truncate(size)
	default:
		err = p.truncate(alignDown(fi.Size()))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return p, nil
}

func (p *part) truncate(n int64) error {
	p.buf = p.buf[:0]
	if err := p.f.Truncate(n); err != nil {
		return err
	}
	p.done, p.started = n, n
	p.tell()
	return nil
}

func (p *part) tell() {
	if p.progress != nil && p.done > 0 {
		p.progress(p.done, p.size)
	}
}

// Write appends.
func (p *part) Write(data []byte) (int, error) {
	if len(p.buf)+len(data) > writeBytes {
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	p.buf = append(p.buf, data...)
	p.done += int64(len(data))
	p.tell()
	return len(data), nil
}

// flush writes what has been appended.
func (p *part) flush() error {
	at := p.done - int64(len(p.buf))
	if _, err := p.f.WriteAt(p.buf, at); err != nil {
		p.done, p.buf = at, p.buf[:0]
		return err
	}
	p.buf = p.buf[:0]
	if p.done-p.started >= writebackBytes {
		startWriteback(p.f, p.started, p.done-p.started)
		p.started = p.done
	}
	return nil
}

// commit gives the file its name. renameio cannot: it only renames files that it has made itself,
// under a random name that no later fetch would find again. The order is the same.
func (p *part) commit(dst string, mode os.FileMode) error {
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.f.Chmod(mode); err != nil {
		return err
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.path, dst); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(dst))
	if err == nil {
		_ = dir.Sync() // some file systems cannot; the bytes are safe, only the name could be lost
		_ = dir.Close()
	}
	_ = p.f.Close() // synced
	return nil
}

// close ends a fetch that failed, and removes the file unless a later fetch can go on from it.
func (p *part) close(kind cellproto.Kind) {
	err := p.flush()
	_ = p.f.Close() // the next fetch checks what is there
	switch kind {
	case cellproto.Timeout, cellproto.Unavailable, cellproto.NotFound, cellproto.Overloaded, cellproto.Failed:
		if err == nil && p.done >= groupBytes {
			return
		}
	}
	_ = os.Remove(p.path) // nothing can be done about a failure, and the next fetch takes it up
}
