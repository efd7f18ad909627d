package call

import (
	"context"
	"fmt"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// TestTokenInHello: a caller whose connection may be handed over gives its token in its hello. When it is
// relayed instead, as during a swap, that holds too.
func TestTokenInHello(t *testing.T) {
	p := provide(t, publish(t, testSchema()), simple)
	stranger := Who{UID: 4242}
	near, far := unixPair(t)
	go p.server.Serve(context.Background(), far, stranger)
	c := runConn(t, near)
	token, err := ask(t, c, proof(t, c, p, newKeyPair(t), signed.SubjectUID(4242), nil))
	if err != nil {
		t.Fatal(err)
	}
	hello := cellproto.Hello{Capabilities: []string{cellproto.CapHandoff}, Token: token}
	if subject, until, ok := p.server.MayHold(stranger, &hello); !ok || subject != signed.SubjectUID(4242) || until.IsZero() {
		t.Fatalf("it may not hold its connection: %q %v %v", subject, until, ok)
	}
	for uid, want := range map[int]cellproto.Kind{4242: 0, 4243: cellproto.Denied} {
		near, far := unixPair(t)
		go p.server.Serve(context.Background(), far, Who{UID: uid})
		c, err := cellproto.NewConn(near, cellproto.Config{Opener: true, Hello: hello})
		if err != nil {
			t.Fatal(err)
		}
		go c.Run()
		t.Cleanup(c.Close)
		if _, err := ask(t, c, request("echo", "x")); cellproto.KindOf(err) != want {
			t.Errorf("uid %d: %v", uid, err)
		}
	}
}

// TestHiddenSchemaIsNotHandedOver: the program itself tells its schema to everybody.
func TestHiddenSchemaIsNotHandedOver(t *testing.T) {
	p := provide(t, publish(t, testSchema()), func(cfg *ServerConfig) { cfg.ShowSchema = false })
	hello := cellproto.Hello{Capabilities: []string{cellproto.CapHandoff}}
	if _, _, ok := p.server.MayHold(Who{UID: 4242}, &hello); ok {
		t.Error("a stranger gets a connection to the program, which shows its schema")
	}
	if _, _, ok := p.server.MayHold(Who{UID: 1, Owner: true}, &hello); !ok {
		t.Error("the owner gets none")
	}
}

// TestKeysOfOthersAreKept: one caller with many keys does not have those of others forgotten.
func TestKeysOfOthersAreKept(t *testing.T) {
	p := provide(t, publish(t, testSchema()), nil)
	numbered(p)
	mine, _ := newHost(t)
	theirs, _ := newHost(t)
	me, them := dial(t, mine, p), dial(t, theirs, p)
	wantReply(t, me, withKey("x", "a"), "1")
	for i := range onceEntries {
		if _, err := ask(t, them, withKey("x", fmt.Sprint("flood", i))); err != nil {
			t.Fatal(err)
		}
	}
	wantReply(t, me, withKey("x", "a"), "1")
}

// TestPlacesSurviveAConnection: who leaves calls behind and comes back does not get as many places again.
func TestPlacesSurviveAConnection(t *testing.T) {
	p := provide(t, publish(t, testSchema()), func(cfg *ServerConfig) { cfg.MaxPeer = 2 })
	started, release := make(chan struct{}, 10), make(chan struct{})
	p.program.handle = func(in *cellproto.Inbound) { started <- struct{}{}; <-release; answer(in) } // it ignores cancel
	defer close(release)
	for round := range 2 {
		near, far := unixPair(t)
		done := make(chan struct{})
		go func() { defer close(done); _ = p.server.Serve(context.Background(), far, Who{UID: 4242}) }()
		c, err := cellproto.NewConn(near, cellproto.Config{Opener: true})
		if err != nil {
			t.Fatal(err)
		}
		go c.Run()
		if round == 1 {
			_, err := ask(t, c, request("count", "x"))
			wantKind(t, err, cellproto.Overloaded)
			c.Close()
			<-done
			return
		}
		for range 2 {
			go c.Call(t.Context(), request("count", "x"))
			<-started
		}
		c.Close()
		<-done
	}
}
