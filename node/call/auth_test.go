package call

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// proof answers the challenge of a connection, or the one given.
func proof(t testing.TB, c *cellproto.Conn, p *provider, key crypto.PrivKey, subject string, nonce []byte) *cellproto.Request {
	t.Helper()
	hello, err := c.PeerHello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if nonce == nil {
		nonce = hello.Nonce
	}
	sealed, err := signed.SealProof(signed.Proof{Server: p.host.ID(), Nonce: signed.Nonce(nonce), Cell: hello.Cell, Subject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncToken}, Payload: sealed}
}

func simple(cfg *ServerConfig) { cfg.Challenge = cellproto.AuthSimple }

func TestAuthSimple(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	h, key := newHost(t)
	c := dial(t, h, p)
	_, err := ask(t, c, request("echo", "x"))
	wantKind(t, err, cellproto.Denied)
	if p.program.starts.Load() != 0 {
		t.Error("the program was started for a stranger")
	}

	token, err := ask(t, c, proof(t, c, p, key, peerText(h), nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Errorf("after the proof: %v", err)
	}
	_, err = ask(t, c, proof(t, c, p, key, peerText(h), nil))
	wantKind(t, err, cellproto.Denied) // the nonce was used

	fresh, err := ask(t, c, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncToken}})
	if err != nil || len(fresh) != cellproto.NonceSize {
		t.Fatalf("a new challenge: %x, %v", fresh, err)
	}
	if _, err := ask(t, c, proof(t, c, p, key, peerText(h), fresh)); err != nil {
		t.Errorf("the new challenge: %v", err)
	}

	// The token holds on another connection of the same peer, and for nobody else.
	withToken := request("echo", "x")
	withToken.Header.Token = token
	again := dial(t, h, p)
	if _, err := ask(t, again, withToken); err != nil {
		t.Errorf("the token on another connection: %v", err)
	}
	thief, thiefKey := newHost(t)
	for range 20 {
		_, err = ask(t, dial(t, thief, p), withToken)
		wantKind(t, err, cellproto.Denied)
	}
	// Nor can the thief prove to be the other one, or have somebody else's proof count.
	d := dial(t, thief, p)
	_, err = ask(t, d, proof(t, d, p, thiefKey, peerText(h), nil))
	wantKind(t, err, cellproto.Denied)
	d = dial(t, thief, p)
	_, err = ask(t, d, proof(t, again, p, key, peerText(h), nil))
	wantKind(t, err, cellproto.Denied)
}

func TestAuthTokenExpires(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	h, key := newHost(t)
	id, now := idOf(t, key), time.Now()
	seal := func(change func(*signed.Token)) *cellproto.Request {
		tok := signed.Token{
			Server: p.host.ID(), Cell: cell.id.String(), Subject: peerText(h), Key: id, Issued: now, Expires: now.Add(time.Minute),
		}
		signer := p.key
		if change != nil {
			change(&tok)
		}
		if tok.Server != p.host.ID() {
			signer = key
		}
		sealed, err := signed.SealToken(tok, signer)
		if err != nil {
			t.Fatal(err)
		}
		req := request("echo", "x")
		req.Header.Token = sealed
		return req
	}
	if _, err := ask(t, dial(t, h, p), seal(nil)); err != nil {
		t.Fatalf("a good token: %v", err)
	}
	for name, change := range map[string]func(*signed.Token){
		"expired":        func(tok *signed.Token) { tok.Issued, tok.Expires = now.Add(-2*time.Minute), now.Add(-time.Minute) },
		"another cell":   func(tok *signed.Token) { tok.Cell = "other" },
		"another server": func(tok *signed.Token) { tok.Server = id },
		"another peer":   func(tok *signed.Token) { tok.Subject = p.host.ID().String() },
		"the future":     func(tok *signed.Token) { tok.Issued, tok.Expires = now.Add(time.Hour), now.Add(61*time.Minute) },
	} {
		_, err := ask(t, dial(t, h, p), seal(change))
		if cellproto.KindOf(err) != cellproto.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := seal(nil)
	broken.Header.Token[9] ^= 1
	_, err := ask(t, dial(t, h, p), broken)
	wantKind(t, err, cellproto.Denied)
}

func TestAuthSig(t *testing.T) {
	cell := publish(t, testSchema())
	account, stranger := newKeyPair(t), newKeyPair(t)
	h, hostKey := newHost(t)
	p := provide(t, cell, func(cfg *ServerConfig) {
		cfg.Challenge, cfg.AllowedKeys = cellproto.AuthSig, []peer.ID{idOf(t, account)}
	})
	for name, key := range map[string]crypto.PrivKey{"stranger": stranger, "host key": hostKey} {
		c := dial(t, h, p)
		_, err := ask(t, c, proof(t, c, p, key, peerText(h), nil))
		if cellproto.KindOf(err) != cellproto.Denied {
			t.Errorf("%s: %v", name, err)
		}
		_, err = ask(t, c, request("echo", "x"))
		wantKind(t, err, cellproto.Denied)
	}
	c := dial(t, h, p)
	if _, err := ask(t, c, proof(t, c, p, account, peerText(h), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Error(err)
	}
	// A token of a key that is not allowed any more is of no use.
	sealed, err := signed.SealToken(signed.Token{
		Server: p.host.ID(), Cell: cell.id.String(), Subject: peerText(h), Key: idOf(t, stranger), Issued: time.Now(), Expires: time.Now().Add(time.Minute),
	}, p.key)
	if err != nil {
		t.Fatal(err)
	}
	req := request("echo", "x")
	req.Header.Token = sealed
	_, err = ask(t, dial(t, h, p), req)
	wantKind(t, err, cellproto.Denied)
}

// Our own client half proves by itself, once a connection or less, and keeps the token for the next run.
func TestAuthByCaller(t *testing.T) {
	cell := publish(t, testSchema())
	account := newKeyPair(t)
	a, b := provide(t, cell, simple), provide(t, cell, func(cfg *ServerConfig) {
		cfg.Challenge, cfg.AllowedKeys, cfg.TokenTTL = cellproto.AuthSig, []peer.ID{idOf(t, account)}, time.Minute
	})
	peers := &book{}
	peers.add(a.host, b.host)
	dir := t.TempDir()
	h, key := newHost(t)
	setup := func(cfg *CallerConfig, deps *CallerDeps) {
		cfg.Dir = dir
		deps.Host, deps.Identity = h, Identity{Peer: h.ID(), Host: key, Account: func() crypto.PrivKey { return account }}
		cfg.RemoteCells = map[string]string{"b": b.host.Addrs()[0].String() + "/p2p/" + peerText(b.host)}
	}
	c := use(t, cell, peers, setup)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := c.Call(t.Context(), cell.id.String(), request("echo", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if _, err := try(t, c, "b", request("echo", "x")); err != nil {
		t.Errorf("a direct call: %v", err)
	}
	c.Close()
	token, _ := c.cache.tokens(cell.id.String()).token(peerText(a.host))
	other, _ := c.cache.tokens(cell.id.String()).token(peerText(b.host))
	if token == nil && other == nil {
		t.Error("no token was kept")
	}
	// With a token that is refused, and with a damaged one, the next run proves anew.
	for _, bad := range []string{"nonsense", string(token) + string(other) + "x"} {
		for _, p := range []*provider{a, b} {
			c.cache.tokens(cell.id.String()).setToken(peerText(p.host), []byte(bad[:min(len(bad), 900)]), time.Now().Add(time.Minute))
		}
		next := use(t, cell, peers, setup)
		call(t, next, cell, "once")
		next.Close()
	}
}

// A token is used for as long as its server says that it holds, not for as long as any may; one that
// is refused all the same is forgotten, and the call goes on with a fresh proof, body and all.
func TestAuthTokenIsRenewed(t *testing.T) {
	cell := publish(t, testSchema())
	const ttl = time.Minute
	p := provide(t, cell, func(cfg *ServerConfig) { cfg.Challenge, cfg.TokenTTL = cellproto.AuthSimple, ttl })
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	server := peerText(p.host)
	withBody := func() *cellproto.Request {
		req := request("sum", "x")
		req.Body = pipe{strings.NewReader("12345")}
		return req
	}
	for name, next := range map[string]func() *cellproto.Request{
		"no body": func() *cellproto.Request { return request("echo", "x") },
		"body":    withBody,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := try(t, c, cell.id.String(), next()); err != nil {
				t.Fatal(err)
			}
			store := c.cache.tokens(cell.id.String())
			token, until := store.token(server)
			if token == nil || time.Until(until) > ttl {
				t.Fatalf("a token of %v is used for %v", ttl, time.Until(until))
			}
			stale, err := signed.SealToken(signed.Token{
				Server: p.host.ID(), Cell: cell.id.String(), Subject: peerText(c.deps.Host), Key: c.deps.Host.ID(),
				Issued: time.Now().Add(-2 * ttl), Expires: time.Now().Add(-ttl),
			}, p.key)
			if err != nil {
				t.Fatal(err)
			}
			store.setToken(server, stale, time.Now().Add(ttl)) // as a clock that was set back would have it
			p.cutLinks()
			eventually(t, "the link has ended", func() bool { return c.links.live(cellproto.PeerID(server), cell.id.String(), "") == nil })
			if _, err := try(t, c, cell.id.String(), next()); err != nil {
				t.Fatalf("with an old token: %v", err)
			}
			if token, _ := store.token(server); token == nil || bytes.Equal(token, stale) {
				t.Error("the old token was kept")
			}
		})
	}
}

// What is refused, and cannot be proven anew, is not kept.
func TestAuthTokenIsDropped(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, func(cfg *ServerConfig) { cfg.Challenge = cellproto.AuthSig })
	peers := &book{}
	peers.add(p.host)
	c := use(t, cell, peers, nil)
	store := c.cache.tokens(cell.id.String())
	store.setToken(peerText(p.host), []byte("of before we were shut out"), time.Now().Add(time.Minute))
	_, err := try(t, c, cell.id.String(), request("echo", "x"))
	wantKind(t, err, cellproto.Denied)
	if token, _ := store.token(peerText(p.host)); token != nil {
		t.Error("a token that is of no use was kept")
	}
}

// A file of tokens is bounded, and keeps those that hold longest.
func TestTokensAreBounded(t *testing.T) {
	store := openCache(t.TempDir(), zap.NewNop()).tokens("cell")
	now := time.Now()
	for i := range 3 * maxTokens {
		store.setToken(fmt.Sprintf("%0100d", i), make([]byte, cellproto.MaxToken), now.Add(time.Minute+time.Duration(i)*time.Second))
	}
	if n := len(store.(cellTokens).all()); n != maxTokens {
		t.Errorf("%d tokens are kept, want %d", n, maxTokens)
	}
	if token, _ := store.token(fmt.Sprintf("%0100d", 3*maxTokens-1)); token == nil {
		t.Error("the newest was dropped")
	}
	store.dropToken(fmt.Sprintf("%0100d", 3*maxTokens-1), []byte("another"))
	if token, _ := store.token(fmt.Sprintf("%0100d", 3*maxTokens-1)); token == nil {
		t.Error("a token was dropped in another's stead")
	}
}

// A cell that is published while connections stand goes on taking proofs made for the hello of each.
func TestAuthWhilePublishing(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	h, key := newHost(t)
	c := dial(t, h, p)
	request1 := proof(t, c, p, key, peerText(h), nil)
	next, err := NewServing("bafynext", cell.schema)
	if err != nil {
		t.Fatal(err)
	}
	p.server.Set(next)
	if _, err := ask(t, c, request1); err != nil {
		t.Errorf("the proof for the hello of before: %v", err)
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Errorf("a call: %v", err)
	}
}

// On a Unix socket the kernel says who calls: the owner needs no proof, another user does.
func TestAuthOnUnixSocket(t *testing.T) {
	cell := publish(t, testSchema())
	p := provide(t, cell, simple)
	near, far := unixPair(t)
	go p.server.Serve(context.Background(), far, Who{UID: 4242})
	c := runConn(t, near)
	_, err := ask(t, c, request("echo", "x"))
	wantKind(t, err, cellproto.Denied)
	_, err = ask(t, c, proof(t, c, p, newKeyPair(t), signed.SubjectUID(4243), nil))
	wantKind(t, err, cellproto.Denied)
	near, far = unixPair(t)
	go p.server.Serve(context.Background(), far, Who{UID: 4242})
	c = runConn(t, near)
	if _, err := ask(t, c, proof(t, c, p, newKeyPair(t), signed.SubjectUID(4242), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, c, request("echo", "x")); err != nil {
		t.Error(err)
	}
	near, far = unixPair(t)
	go p.server.Serve(context.Background(), far, Who{UID: os.Getuid(), Owner: true})
	if _, err := ask(t, runConn(t, near), request("echo", "x")); err != nil {
		t.Errorf("the owner: %v", err)
	}
}
