package call

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// A peer that vanishes without a word, its host and all, is given up while a call waits for it.
func TestLinkToAVanishedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(nil, "test", zap.NewNop())
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		lk, err := l.start(near, linkKey{to: "peer"}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // nobody waits: it may be silent for as long as it likes
		begin := time.Now()
		_, err = lk.conn.Call(context.Background(), request("once", "x"))
		wantKind(t, err, cellproto.MayHaveRun)
		if took := time.Since(begin); took > watchEvery+watchPatience {
			t.Errorf("it took %v", took)
		}
		l.close()
		far.Close()
	})
}

// links.get: one dial for all who ask, each waits as long as it has time, and who comes after a dial
// that was given up dials itself.
func TestLinksGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(nil, "test", zap.NewNop())
		key := linkKey{to: "peer"}
		var dials int
		var ends []net.Conn
		dial := func(ctx context.Context) (*link, error) {
			dials++
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, cellproto.Errorf("dial", cellproto.KindOf(ctx.Err()), "%w", ctx.Err())
			}
			near, far := net.Pipe()
			ends = append(ends, far)
			go io.Copy(io.Discard, far)
			return l.start(near, key, "", 0)
		}
		get := func(patience time.Duration) (*link, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return l.get(ctx, key, dial)
		}
		var all sync.WaitGroup
		all.Go(func() {
			_, err := get(100 * time.Millisecond) // it dials, and gives up
			wantKind(t, err, cellproto.Timeout)
		})
		synctest.Wait()
		var got [5]*link
		for i := range got {
			all.Go(func() {
				var err error
				if got[i], err = get(10 * time.Second); err != nil {
					t.Error(err)
				}
			})
		}
		all.Go(func() {
			_, err := get(500 * time.Millisecond) // it waits for another's dial, and gives up
			wantKind(t, err, cellproto.Timeout)
		})
		all.Wait()
		for _, lk := range got {
			if lk != got[0] {
				t.Error("two links were made")
			}
		}
		// It may be the one with little time who dials second: then a third dial is needed.
		if dials > 3 {
			t.Errorf("%d dials", dials)
		}
		if l.live("peer", "", "") != got[0] {
			t.Error("the link is not live")
		}
		got[0].conn.Close()
		synctest.Wait()
		if len(l.made) != 0 {
			t.Errorf("%d links are remembered after their end", len(l.made))
		}
		boom := errors.New("boom")
		if _, err := l.get(context.Background(), key, func(context.Context) (*link, error) { return nil, boom }); !errors.Is(err, boom) {
			t.Errorf("%v", err)
		}
		if len(l.made) != 0 {
			t.Error("a failed dial is remembered")
		}
		l.close()
		if _, err := get(time.Minute); err == nil {
			t.Error("a link was made after close")
		}
		for _, end := range ends {
			end.Close()
		}
	})
}

// Why a peer cannot be reached fits into one line, and names the address.
func TestDialError(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, nil)
	c := use(t, cell, &book{}, nil) // before, or it may get the port of the one that has gone
	gone := infoOf(p.host)
	p.host.Close()
	_, err := c.links.peer(t.Context(), gone, "x", "")
	wantKind(t, err, cellproto.Unavailable)
	if want := "connect to " + gone.ID.String() + ": " + gone.Addrs[0].String() + ": connection refused"; err.Error() != want {
		t.Errorf("it says %q, want %q", err, want)
	}
	if err := dialError(errors.New("x")); err.Error() != "x" {
		t.Errorf("another error becomes %q", err)
	}
}
