package call

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// Authorisation. A nucleus that asks for proof says so in its hello, with a nonce. The caller signs
// a proof of it (function cell.token) and gets a token, which holds for ten minutes, for this
// subject at this nucleus only. The connection on which it was given is authorised as long; another
// connection of the same subject sends the token in the header of a request. cell.token without a
// payload answers with a new nonce, since each is good for one proof.

// Identity is who a nucleus is.
type Identity struct {
	Peer    peer.ID
	Host    crypto.PrivKey        // of Peer
	Account func() crypto.PrivKey // the person's, as it is now; nil when it is not at hand
}

// proofKey is the key that callers are known by: the person's, if it is at hand.
func (id Identity) proofKey() crypto.PrivKey {
	if id.Account != nil {
		return id.Account()
	}
	return id.Host
}

// tokens is the server's half: it hands out challenges and tokens.
type tokens struct {
	mode    string
	allowed []peer.ID
	ttl     time.Duration
	id      Identity
}

func newTokens(cfg ServerConfig, id Identity) *tokens {
	return &tokens{mode: cfg.Challenge, allowed: cfg.AllowedKeys, ttl: min(cfg.TokenTTL, cellproto.TokenTTL), id: id}
}

// challenge makes a nonce.
func (t *tokens) challenge() []byte {
	nonce := signed.NewNonce()
	return nonce[:]
}

// needed says whether callers other than the owner must prove who they are.
func (t *tokens) needed() bool { return t.mode != "" && t.mode != cellproto.AuthNone }

// admits says whether whoever holds key, or is peer by libp2p's own proof, may call.
func (t *tokens) admits(key peer.ID, who Who) bool {
	return t.mode != cellproto.AuthSig || slices.Contains(t.allowed, key) ||
		who.Peer != "" && slices.Contains(t.allowed, who.Peer)
}

// prove answers cell.token.
func (s *session) prove(c *cellproto.Conn, f *cellproto.Frame) error {
	const op = "prove identity"
	t := s.s.tokens
	if len(f.Payload) == 0 {
		s.nonce = t.challenge()
		return s.replyNow(c, f, cellproto.Header{}, s.nonce)
	}
	if s.nonce == nil {
		return cellproto.Errorf(op, cellproto.Denied, "the challenge was used already").
			WithHint("Ask for a new one: call %s without a payload.", cellproto.FuncToken)
	}
	nonce := s.nonce
	s.nonce = nil // whatever comes of it: each nonce is tried once
	key, err := signed.OpenProof(f.Payload, t.id.Peer, signed.Nonce(nonce), s.cell, s.subject)
	if err != nil {
		return cellproto.Errorf(op, cellproto.Denied, "%w", err)
	}
	if !t.admits(key, s.who) {
		return cellproto.Errorf(op, cellproto.Denied, "the key %s is not among the cell's allowed_keys", key).
			WithHint("Ask the cell's owner to add it.")
	}
	now := time.Now()
	token, err := signed.SealToken(signed.Token{
		Server: t.id.Peer, Cell: s.cell, Subject: s.subject, Key: key, Issued: now, Expires: now.Add(t.ttl),
	}, t.id.Host)
	if err != nil {
		return err
	}
	s.until = now.Add(t.ttl)
	s.s.noteProven(s.who.Peer, key, s.until)
	return s.replyNow(c, f, cellproto.Header{}, token)
}

// proven is a key that a peer has proven to hold, until when that is believed.
type proven struct {
	key   peer.ID
	until time.Time
}

const maxProven = 1024 // peers whose keys are remembered

func (s *Server) noteProven(p, key peer.ID, until time.Time) {
	if p == "" { // on a Unix socket
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.proven) >= maxProven {
		clear(s.proven) // they prove it again
	}
	s.proven[p] = proven{key, until}
}

// Proven gives the key that a peer has proven to hold within the lifetime of a token, if it has.
func (s *Server) Proven(p peer.ID) (key peer.ID, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.proven[p]
	if !ok || !time.Now().Before(known.until) {
		return "", false
	}
	return known.key, true
}

// authorise lets a request, read at now, pass whose sender has proven what the cell asks for.
func (s *session) authorise(f *cellproto.Frame, now time.Time) error {
	if s.who.Owner || !s.s.tokens.needed() {
		return nil
	}
	if now.Before(s.until) {
		return nil
	}
	token := f.Header.Token
	if len(token) == 0 {
		token = s.token
	}
	if len(token) > 0 {
		tok, err := signed.OpenToken(token, s.s.tokens.id.Peer, s.cell, s.subject, now)
		if err != nil {
			return cellproto.Errorf("check token", cellproto.Denied, "%w", err)
		}
		if !s.s.tokens.admits(tok.Key, s.who) {
			return cellproto.Errorf("check token", cellproto.Denied, "its key is not allowed any more")
		}
		s.until = tok.Expires
		s.s.noteProven(s.who.Peer, tok.Key, tok.Expires)
		return nil
	}
	return cellproto.Errorf("call "+f.Header.Func, cellproto.Denied, "the cell asks its callers to prove who they are (%s)", s.s.tokens.mode).
		WithHint("Call through a nucleus (cellctl use), which does so by itself.")
}

// greeted waits for the other side's hello.
func (lk *link) greeted(ctx context.Context) (*cellproto.Hello, error) {
	if h := lk.hello.Load(); h != nil {
		return h, nil
	}
	h, err := lk.conn.PeerHello(ctx)
	if err != nil {
		return nil, err
	}
	lk.hello.Store(&h)
	return &h, nil
}

// ready gives the hello of a link over which a request may go at once: it is here, and the other
// side knows who we are or does not ask.
func (lk *link) ready() (*cellproto.Hello, bool) {
	h := lk.hello.Load()
	if h == nil || !asksProof(h) {
		return h, h != nil
	}
	lk.mu.Lock()
	defer lk.mu.Unlock()
	return h, time.Now().Before(lk.until)
}

func asksProof(h *cellproto.Hello) bool { return h.Auth != "" && h.Auth != cellproto.AuthNone }

// authorise proves who we are to a nucleus that asks for it, unless it still knows. A token from an
// earlier connection goes along with the next request, without a round trip.
func (lk *link) authorise(ctx context.Context, id Identity, server string, saved tokenStore) error {
	hello, err := lk.greeted(ctx)
	if err != nil || !asksProof(hello) {
		return err
	}
	lk.mu.Lock()
	defer lk.mu.Unlock()
	begin := time.Now()
	if begin.Before(lk.until) {
		return nil
	}
	if token, until := saved.token(server); token != nil && !lk.refused {
		lk.token, lk.until = token, until
		return nil
	}
	token, err := lk.prove(ctx, id, hello)
	if err != nil {
		return err
	}
	lk.token, lk.refused = nil, false
	lk.until = renewal(token, begin)
	saved.setToken(server, token, lk.until)
	return nil
}

// tokenMargin is how long before its end a token is renewed, so that none ends on its way; of a token
// that holds for a short time only, a quarter of that.
const tokenMargin = 10 * time.Second

// renewal gives the time until which a token may be used that was asked for at a time. How long it
// holds is in it; when it began to is by its server's clock, which may differ from ours.
func renewal(token []byte, asked time.Time) time.Time {
	t, err := signed.ReadToken(token)
	if err != nil {
		return asked // it is of no use to us, nor to anybody
	}
	ttl := t.Expires.Sub(t.Issued)
	return asked.Add(ttl - min(tokenMargin, ttl/4))
}

// prove answers the challenge of hello, or a new one if that was used.
func (lk *link) prove(ctx context.Context, id Identity, hello *cellproto.Hello) ([]byte, error) {
	server, subject := lk.remote, id.Peer.String()
	if server == "" { // a Unix socket: the kernel vouches for our uid, and the hello says who serves
		var err error
		if server, err = peer.Decode(hello.Peer); err != nil {
			return nil, cellproto.Errorf("prove identity", cellproto.Unavailable, "the nucleus does not say who it is")
		}
		subject = signed.SubjectUID(uint32(os.Getuid()))
	}
	nonce := hello.Nonce
	if lk.proven || len(nonce) != cellproto.NonceSize {
		reply, err := lk.conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncToken}})
		if err != nil {
			return nil, err
		}
		nonce = reply.Payload
	}
	if len(nonce) != cellproto.NonceSize {
		return nil, cellproto.Errorf("prove identity", cellproto.Unavailable, "the challenge has %d bytes instead of %d", len(nonce), cellproto.NonceSize)
	}
	lk.proven = true
	proof, err := signed.SealProof(signed.Proof{Server: server, Nonce: signed.Nonce(nonce), Cell: hello.Cell, Subject: subject}, id.proofKey())
	if err != nil {
		return nil, err
	}
	reply, err := lk.conn.Call(ctx, &cellproto.Request{Header: cellproto.Header{Func: cellproto.FuncToken}, Payload: proof})
	if err != nil {
		return nil, err
	}
	return reply.Payload, nil
}

// asked says whether the other side, which has answered, asks for proof.
func (lk *link) asked(ctx context.Context) bool {
	h, err := lk.greeted(ctx)
	return err == nil && asksProof(h)
}

// forget makes the next call prove itself anew: the request was refused, with its token if it had one.
func (lk *link) forget(server string, token []byte, saved tokenStore) {
	lk.mu.Lock()
	lk.until, lk.token, lk.refused = time.Time{}, nil, true
	lk.mu.Unlock()
	if token != nil {
		saved.dropToken(server, token)
	}
}

// takeToken gives the token that the next request is to carry, if any.
func (lk *link) takeToken() []byte {
	lk.mu.Lock()
	defer lk.mu.Unlock()
	return lk.token
}

// accepted notes that the nucleus knows us now, so that no token need be sent.
func (lk *link) accepted() {
	lk.mu.Lock()
	lk.token = nil
	lk.mu.Unlock()
}
