package cellproto

import (
	"slices"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Version is the version of the frames that this package speaks.
const Version = 1

// What an auth mode asks of a caller that is not the owner.
const (
	AuthNone   = "none"   // nothing
	AuthSimple = "simple" // any proven identity
	AuthSig    = "sig"    // one of the allowed keys
)

// Capabilities that a program can say in its hello.
const (
	CapBackground = "background" // it works of its own accord between calls: it is not to be frozen
)

// Hello is the first frame each way. Requests may follow at once, before the peer's hello is here.
type Hello struct {
	Versions     []uint   `cbor:"1,keyasint"`            // of the frames; the highest common one holds
	Schema       []byte   `cbor:"2,keyasint,omitempty"`  // SchemaHash of what the sender serves
	Codecs       []uint   `cbor:"3,keyasint,omitempty"`  // that it reads, besides Raw
	Capabilities []string `cbor:"4,keyasint,omitempty"`  // e.g. "handoff"
	Functions    []string `cbor:"5,keyasint,omitempty"`  // may be called by number: 1 + index
	Auth         string   `cbor:"6,keyasint,omitempty"`  // none, simple or sig
	Nonce        []byte   `cbor:"7,keyasint,omitempty"`  // 32 bytes, to be signed in a proof
	Agent        string   `cbor:"8,keyasint,omitempty"`  // for logs: "celld/0.1.0"
	Cell         string   `cbor:"9,keyasint,omitempty"`  // CID or name of the cell that is served
	Peer         string   `cbor:"10,keyasint,omitempty"` // peer ID of the nucleus, for proofs on a Unix socket
	Slow         []uint   `cbor:"11,keyasint,omitempty"` // numbers of the functions that are not answered inline
	Token        []byte   `cbor:"12,keyasint,omitempty"` // of a caller that asks for a handoff and is not the owner
	MadeFor      []byte   `cbor:"13,keyasint,omitempty"` // SchemaHash that the caller was made for; none: it does not say
}

// EventSchema is the function of an event by which a nucleus tells its callers that the schema of the cell is another
// one from now on; the payload is its hash.
const EventSchema = FuncSchema

// MetaMadeFor is the key of a request's meta by which a caller tells its own nucleus which schema of the cell that
// is to be called it was made for: the hash, in hex. It does not leave that, whose hello says it.
const MetaMadeFor = "made_for"

// What a peer may put into a hello, besides its functions.
const (
	maxHelloText = 512 // bytes of agent, cell, peer, auth mode and each capability
	maxHelloList = 64  // versions, codecs and capabilities
)

// canonicalEncoder and strictDecoder are for what is not written and read at each start. They are made when they are needed.
var canonicalEncoder = sync.OnceValue(func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return mode
})

var strictDecoder = sync.OnceValue(func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, MaxNestedLevels: 4, MaxArrayElements: MaxFunctions, MaxMapPairs: 32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
})

// Marshal gives h as the payload of a hello frame, encoded canonically. The error is always nil.
func (h *Hello) Marshal() ([]byte, error) {
	if len(h.Versions) == 0 {
		h.Versions = []uint{Version}
	}
	return h.appendTo(make([]byte, 0, usualHello)), nil
}

// usualHello is what most hellos take, in bytes.
const usualHello = 512

// ParseHello reads the payload of a hello frame. Keys that it does not know are ignored, so that
// later versions can say more. It fails with BadInput, or with Unsupported when there is no common
// version.
func ParseHello(data []byte) (Hello, error) {
	var h Hello
	if len(data) > MaxArgs {
		return h, Errorf("read hello", TooLarge, "%d bytes, the limit is %d", len(data), MaxArgs)
	}
	if !h.parse(data) {
		h = Hello{}
		if err := strictDecoder().Unmarshal(data, &h); err != nil {
			return h, Errorf("read hello", BadInput, "%w", err)
		}
	}
	if !slices.Contains(h.Versions, Version) {
		return h, Errorf("read hello", Unsupported, "peer speaks versions %v of the frames, this side %d", h.Versions, Version)
	}
	sized := func(b []byte, size int) bool { return len(b) == 0 || len(b) == size }
	if !sized(h.Schema, len(SchemaHash{})) || !sized(h.MadeFor, len(SchemaHash{})) || !sized(h.Nonce, NonceSize) {
		return h, Errorf("read hello", BadInput, "schema hash or nonce of a wrong size")
	}
	if err := h.check(); err != nil {
		return h, err
	}
	for _, name := range h.Functions {
		if name == "" || len(name) > MaxFuncName {
			return h, Errorf("read hello", BadInput, "function name of %d bytes, allowed are 1 to %d", len(name), MaxFuncName)
		}
	}
	return h, nil
}

func (h *Hello) check() error {
	if len(h.Versions) > maxHelloList || len(h.Codecs) > maxHelloList || len(h.Capabilities) > maxHelloList {
		return Errorf("read hello", TooLarge, "a list of more than %d", maxHelloList)
	}
	if len(h.Token) > MaxToken {
		return Errorf("read hello", TooLarge, "a token of %d bytes, the limit is %d", len(h.Token), MaxToken)
	}
	for _, text := range append([]string{h.Auth, h.Agent, h.Cell, h.Peer}, h.Capabilities...) {
		if len(text) > maxHelloText {
			return Errorf("read hello", TooLarge, "a text of %d bytes, the limit is %d", len(text), maxHelloText)
		}
	}
	for _, n := range h.Slow {
		if n == 0 || n > uint(len(h.Functions)) {
			return Errorf("read hello", BadInput, "no function has the number %d", n)
		}
	}
	return nil
}

// NonceSize is the size of a challenge, in bytes.
const NonceSize = 32
