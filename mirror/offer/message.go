package offer

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/celldnet/celld/cellproto"
)

// A message is a u32 length of what follows it, big-endian, a byte for its type, and its body: canonical
// CBOR, but of a ping, which is sent back as it came.
const (
	typePing   = 1 // either way: any bytes, at most 16; the answer is the same message
	typeOffer  = 2 // caller: Offer
	typeAnswer = 3 // donor: verdict
	typeTake   = 4 // caller: nothing
	typeStep   = 5 // donor: text for people
	typeTaken  = 6 // donor: where the mirror is
	typeFailed = 7 // donor: verdict, never that of a yes
)

// Limits of a message.
const (
	MaxProviders = cellproto.MaxProbed // that an offer names

	maxPing   = 16
	maxText   = 512 // bytes of a reason or a step; cut, not refused, by who sends it
	maxAddr   = 256 // bytes of a multiaddr
	maxPeerID = 64  // bytes of a binary peer ID
	maxOffer  = cellproto.MaxManifest + 40<<10
	maxAnswer = 1 << 10
	maxTaken  = 8 << 10
	maxRetry  = 24 * time.Hour
)

// limits are the bytes of a message's body.
var limits = map[byte]int{
	typePing: maxPing, typeOffer: maxOffer, typeAnswer: maxAnswer, typeTake: 0, typeStep: maxAnswer, typeTaken: maxTaken, typeFailed: maxAnswer,
}

// Offer is a cell that a donor may take up.
type Offer struct {
	Cell      cid.Cid
	Block     []byte          // its manifest, as it is signed
	Providers []peer.AddrInfo // who has its program, the best first
}

// wireOffer is its form on the wire; wirePeer, wireVerdict and wireStep are of the others.
type wireOffer struct {
	Cell      []byte     `cbor:"1,keyasint"` // binary CID
	Block     []byte     `cbor:"2,keyasint"`
	Providers []wirePeer `cbor:"3,keyasint"`
}

type wirePeer struct {
	ID    []byte   `cbor:"1,keyasint"` // binary peer ID
	Addrs [][]byte `cbor:"2,keyasint"` // binary multiaddrs, without the peer
}

type wireVerdict struct {
	Kind    uint8  `cbor:"1,keyasint,omitempty"` // number of a cellproto.Kind; 0: yes
	Why     string `cbor:"2,keyasint,omitempty"`
	RetryMS uint32 `cbor:"3,keyasint,omitempty"` // it may be asked again then
}

type wireStep struct {
	Text string `cbor:"1,keyasint"`
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 5,
		MaxArrayElements: 64, MaxMapPairs: 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid,
		TagsMd: cbor.TagsForbidden,
	}.DecMode())
)

// must is for options that are constants.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// write sends one message.
func write(w io.Writer, kind byte, body []byte) error {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(body)), uint32(1+len(body)))
	_, err := w.Write(append(append(out, kind), body...))
	return err
}

// read reads one message whose type is one of those allowed. Its errors are those of the reader as they
// are, TooLarge and BadInput.
func read(r io.Reader, allowed ...byte) (kind byte, body []byte, err error) {
	const op = "read a message about a cell"
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n, kind := binary.BigEndian.Uint32(head[:]), head[4]
	if !strings.ContainsRune(string(allowed), rune(kind)) || kind == 0 {
		return 0, nil, cellproto.Errorf(op, cellproto.BadInput, "a message of type %d is not due", kind)
	}
	if n < 1 {
		return 0, nil, cellproto.Errorf(op, cellproto.BadInput, "it has no type")
	}
	if most := limits[kind]; n-1 > uint32(most) {
		return 0, nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d in a message of type %d", n-1, most, kind)
	}
	body = make([]byte, n-1)
	_, err = io.ReadFull(r, body)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return kind, body, err
}

func decode(what string, body []byte, into any) error {
	if err := decMode.Unmarshal(body, into); err != nil {
		return cellproto.Errorf("read "+what, cellproto.BadInput, "%w", err)
	}
	return nil
}

// marshal encodes what is made here of checked parts.
func marshal(v any) []byte { return must(encMode.Marshal(v)) }

func (o Offer) encode() ([]byte, error) {
	const op = "offer a cell"
	if len(o.Block) > cellproto.MaxManifest {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "a manifest of %d bytes, at most %d", len(o.Block), cellproto.MaxManifest)
	}
	w := wireOffer{Cell: o.Cell.Bytes(), Block: o.Block, Providers: []wirePeer{}}
	for _, p := range o.Providers[:min(len(o.Providers), MaxProviders)] {
		w.Providers = append(w.Providers, encodePeer(p))
	}
	return marshal(w), nil
}

func decodeOffer(body []byte) (Offer, error) {
	const op = "read an offer"
	var w wireOffer
	if err := decode("an offer", body, &w); err != nil {
		return Offer{}, err
	}
	if len(w.Block) > cellproto.MaxManifest || len(w.Providers) > MaxProviders {
		return Offer{}, cellproto.Errorf(op, cellproto.TooLarge, "a manifest of %d bytes and %d providers, at most %d and %d",
			len(w.Block), len(w.Providers), cellproto.MaxManifest, MaxProviders)
	}
	id, err := cid.Cast(w.Cell)
	if err != nil {
		return Offer{}, cellproto.Errorf(op, cellproto.BadInput, "the CID: %w", err)
	}
	o := Offer{Cell: id, Block: w.Block}
	for _, p := range w.Providers {
		info, err := p.decode(op)
		if err != nil {
			return Offer{}, err
		}
		o.Providers = append(o.Providers, info)
	}
	return o, nil
}

func encodePeer(info peer.AddrInfo) wirePeer {
	w := wirePeer{ID: []byte(info.ID), Addrs: [][]byte{}}
	for _, a := range info.Addrs {
		if raw := a.Bytes(); len(raw) <= maxAddr && len(w.Addrs) < cellproto.MaxAdvertAddrs {
			w.Addrs = append(w.Addrs, raw)
		}
	}
	return w
}

func (w wirePeer) decode(op string) (peer.AddrInfo, error) {
	if len(w.ID) > maxPeerID || len(w.Addrs) > cellproto.MaxAdvertAddrs {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.TooLarge, "a peer ID of %d bytes with %d addresses", len(w.ID), len(w.Addrs))
	}
	id, err := peer.IDFromBytes(w.ID)
	if err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "a peer ID: %w", err)
	}
	info := peer.AddrInfo{ID: id}
	for _, raw := range w.Addrs {
		if len(raw) > maxAddr {
			return info, cellproto.Errorf(op, cellproto.TooLarge, "an address of %d bytes", len(raw))
		}
		a, err := ma.NewMultiaddrBytes(raw)
		if err != nil {
			return info, cellproto.Errorf(op, cellproto.BadInput, "an address: %w", err)
		}
		transport, other := peer.SplitAddr(a)
		if len(transport) == 0 || other != "" && other != id {
			return info, cellproto.Errorf(op, cellproto.BadInput, "the address %s of %s", a, id)
		}
		info.Addrs = append(info.Addrs, transport)
	}
	return info, nil
}

// verdictOf is how an error travels; nil: yes.
func verdictOf(err error) wireVerdict {
	if err == nil {
		return wireVerdict{}
	}
	return wireVerdict{
		Kind: uint8(cellproto.KindOf(err)), Why: plain(err.Error()),
		RetryMS: uint32(min(max(cellproto.RetryAfterOf(err), 0), maxRetry).Milliseconds()),
	}
}

// decodeVerdict gives what a donor says; refusal is nil if that is yes. The kinds that are only this
// side's to say become Unavailable.
func decodeVerdict(body []byte) (refusal *cellproto.Error, err error) {
	var w wireVerdict
	if err := decode("a donor's answer", body, &w); err != nil {
		return nil, err
	}
	if w.Kind == 0 {
		return nil, nil
	}
	kind := cellproto.Kind(w.Kind)
	switch kind {
	case cellproto.Canceled, cellproto.Timeout, cellproto.MayHaveRun, cellproto.FuncError:
		kind = cellproto.Unavailable
	}
	refusal = cellproto.Errorf("ask a donor", kind, "it says: %s", plain(w.Why))
	refusal.RetryAfter = min(time.Duration(w.RetryMS)*time.Millisecond, maxRetry)
	return refusal, nil
}

// plain makes one short line of a text, which a stranger may have written.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return strings.Join(strings.Fields(text), " ")
}
