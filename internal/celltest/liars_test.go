package celltest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// liar is a provider that is not ours: it speaks the protocols, and better than the honest one, until
// it lies.
type liar struct {
	host  host.Host
	key   crypto.PrivKey
	cell  cid.Cid
	hello cellproto.Hello
	lies  atomic.Int64 // how often it had the occasion

	advert  func(signed.Advert) ([]byte, error)
	greet   func(network.Stream)                   // instead of a hello and all that follows; nil: the protocol
	request func(network.Stream, *cellproto.Frame) // takes a request
	block   func(*liar, peer.ID)                   // takes a wish for blocks; nil: it has none
}

const bitswap protocol.ID = "/ipfs/bitswap/1.2.0"

var bg = context.Background()

func newLiar(t *testing.T, cell cid.Cid, schema cellproto.SchemaHash) *liar {
	t.Helper()
	return newLiarAt(t, "127.0.0.1", func(listen func()) { listen() }, cell, schema)
}

// newLiarAt makes one with an address of another machine, on which do has something be done.
func newLiarAt(t *testing.T, addr string, do func(func()), cell cid.Cid, schema cellproto.SchemaHash) *liar {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	do(func() { err = h.Network().Listen(multiaddr.StringCast("/ip4/" + addr + "/tcp/0")) })
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{host: h, key: key, cell: cell, hello: cellproto.Hello{
		Versions: []uint{cellproto.Version}, Agent: "liar", Cell: cell.String(), Auth: cellproto.AuthNone, Schema: schema[:],
	}}
	l.advert = func(ad signed.Advert) ([]byte, error) { return signed.SealAdvert(ad, key) }
	now := time.Now()
	ad := signed.Advert{
		Cell: cell, Peer: h.ID(), Addrs: h.Addrs(), Seq: signed.NextSeq(0, now), Issued: now, Expires: now.Add(time.Minute),
		Name: "calculator", Version: "1.0.0", P50: time.Microsecond, P99: time.Microsecond, Capacity: 1000, FreeSlots: 1000,
		SchemasProvided: []cellproto.SchemaHash{schema},
	}
	h.SetStreamHandler(cellproto.ProtocolAdvert, call.HandleStream(zap.NewNop(), func(s network.Stream) error {
		return call.ServeAdvert(s, func(cid.Cid) ([]byte, error) { return l.advert(ad) })
	}))
	h.SetStreamHandler(cellproto.ProtocolCall, func(s network.Stream) {
		if l.greet != nil {
			l.lies.Add(1)
			l.greet(s)
			return
		}
		l.serve(s)
	})
	h.SetStreamHandler(bitswap, func(s network.Stream) {
		if _, err := s.Read(make([]byte, 1)); err == nil && l.block != nil {
			l.lies.Add(1)
			l.block(l, s.Conn().RemotePeer())
		}
		_, _ = io.Copy(io.Discard, s)
	})
	return l
}

// serve speaks frames: it says hello, answers pings, and leaves requests to l.request.
func (l *liar) serve(s network.Stream) {
	hello, err := l.hello.Marshal()
	if err != nil {
		panic(err)
	}
	send(s, &cellproto.Frame{Type: cellproto.TypeHello, Payload: hello})
	var in []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		for in = append(in, buf[:n]...); ; {
			f, size, err := cellproto.ParseFrame(in)
			if err != nil {
				s.Reset()
				return
			}
			if size == 0 {
				break
			}
			switch f.Type {
			case cellproto.TypePing:
				send(s, &cellproto.Frame{Type: cellproto.TypePong, ID: f.ID})
			case cellproto.TypeRequest:
				l.lies.Add(1)
				l.request(s, &f)
			}
			in = in[size:]
		}
	}
}

// send writes a frame; whoever has left does not get it.
func send(s network.Stream, f *cellproto.Frame) { _, _ = s.Write(frame(f)) }

func frame(f *cellproto.Frame) []byte {
	b, err := cellproto.AppendFrame(nil, f)
	if err != nil {
		panic(err)
	}
	return b
}

func reply(f *cellproto.Frame, id uint32) *cellproto.Frame {
	return &cellproto.Frame{Type: cellproto.TypeReply, ID: id, Header: cellproto.Header{Codec: cellproto.JSON}, Payload: []byte("666")}
}

// drip writes bytes one by one, as slowly as it can without being cut off for silence.
func drip(s network.Stream, b []byte) {
	for i := range b {
		if _, err := s.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// wrongBlock sends a block that has the form of what was asked for, and another hash.
func wrongBlock(l *liar, to peer.ID) {
	s, err := l.host.NewStream(bg, to, bitswap)
	if err != nil {
		return
	}
	defer s.Close()
	// The protocol buffers of Bitswap: field 3 is a block, with the CID's prefix and the bytes.
	data := bytes.Repeat([]byte("wrong"), 100)
	block := append([]byte{0x0a, 4, 1, 0x71, 0x12, 0x20, 0x12}, binary.AppendUvarint(nil, uint64(len(data)))...)
	block = append(block, data...)
	message := append([]byte{0x1a}, binary.AppendUvarint(nil, uint64(len(block)))...)
	message = append(message, block...)
	_, _ = s.Write(append(binary.AppendUvarint(nil, uint64(len(message))), message...))
}

// Each way to lie, beside one honest provider, with the real binaries: it costs a candidate, never the
// call, and not more time than the call has.
func TestLiars(t *testing.T) {
	t.Parallel()
	lies := map[string]func(l *liar){
		"advert of another peer": func(l *liar) {
			other, _, err := crypto.GenerateEd25519Key(rand.Reader)
			if err != nil {
				panic(err)
			}
			l.advert = func(ad signed.Advert) ([]byte, error) {
				l.lies.Add(1)
				ad.Peer, ad.Addrs = "", nil
				return signed.SealAdvert(ad, other)
			}
		},
		"wrong schema hash": func(l *liar) {
			l.hello.Schema = bytes.Repeat([]byte{6}, len(l.hello.Schema))
			l.lies.Add(1) // with its first word
		},
		"another cell's hello": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				send(s, cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.NotFound, "this peer does not serve that")))
			}
		},
		"garbage frames": func(l *liar) {
			l.greet = func(s network.Stream) { _, _ = s.Write(bytes.Repeat([]byte("garbage"), 1000)) }
		},
		"silence":           func(l *liar) { l.greet = func(s network.Stream) { _, _ = io.Copy(io.Discard, s) } },
		"hello and silence": func(l *liar) { l.request = func(network.Stream, *cellproto.Frame) {} },
		"hello, and nothing more": func(l *liar) {
			hello, err := l.hello.Marshal()
			if err != nil {
				panic(err)
			}
			l.greet = func(s network.Stream) {
				send(s, &cellproto.Frame{Type: cellproto.TypeHello, Payload: hello})
				_, _ = io.Copy(io.Discard, s)
			}
		},
		"a slow drip from the beginning": func(l *liar) {
			hello, err := l.hello.Marshal()
			if err != nil {
				panic(err)
			}
			l.greet = func(s network.Stream) { drip(s, frame(&cellproto.Frame{Type: cellproto.TypeHello, Payload: hello})) }
		},
		"a slow drip of a reply": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) { drip(s, frame(reply(f, f.ID))) }
		},
		"a reply with a wrong id": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) { send(s, reply(f, f.ID+2)) }
		},
		"an oversized reply": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				head := frame(reply(f, f.ID))
				binary.BigEndian.PutUint32(head, 0xfffffff0)
				_, _ = s.Write(head)
				_, _ = s.Write(make([]byte, 64<<10))
			}
		},
		"a reply past its limit": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				head := frame(reply(f, f.ID))
				binary.BigEndian.PutUint32(head, cellproto.MaxFrame-1)
				_, _ = s.Write(append(head, make([]byte, cellproto.MaxFrame)...))
			}
		},
		"it says that the caller gave up": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				send(s, cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.Canceled, "you gave up")))
			}
		},
		"it says that the arguments are bad": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				send(s, cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.BadInput, "a is no integer")))
			}
		},
		"it says that the function fails": func(l *liar) {
			l.request = func(s network.Stream, f *cellproto.Frame) {
				send(s, cellproto.ErrorReply(f.ID, cellproto.Errorf("call", cellproto.FuncError, "the sum does not fit 64 bits")))
			}
		},
		"a wrong block for the CID": func(l *liar) {
			l.block = wrongBlock
			l.request = func(s network.Stream, f *cellproto.Frame) { s.Reset() }
		},
		"garbage for blocks": func(l *liar) {
			l.block = func(l *liar, to peer.ID) {
				if s, err := l.host.NewStream(bg, to, bitswap); err == nil {
					_, _ = s.Write(bytes.Repeat([]byte{0xff}, 1000))
					s.Close()
				}
			}
			l.request = func(s network.Stream, f *cellproto.Frame) { s.Reset() }
		},
	}
	n := New(t)
	honest := n.Example("calculator")
	honest.Start()
	published := honest.Publish()
	id := cid.MustParse(published.CID)
	schema := schemaOf(t, honest)
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, id, schema)
			l.request = func(s network.Stream, f *cellproto.Frame) { send(s, reply(f, f.ID)) }
			lie(l)
			caller := n.Headless("caller")
			caller.Edit("", fmt.Sprintf("[network]\nstatic = [%q, %q]\n",
				l.host.Addrs()[0].String()+"/p2p/"+l.host.ID().String(), honest.Status().Addrs[0]))
			caller.Start()
			defer caller.Stop()
			// Until it has had its occasion: it has to win a race for some of these.
			for try := 0; try < 3 || l.lies.Load() == 0; try++ {
				if try == 50 {
					t.Fatal("it never had an occasion to lie")
				}
				if try > 3 {
					if _, err := (&ctl.Client{Dir: caller.Dir}).Race(t.Context(), published.CID); err != nil {
						t.Fatal(err)
					}
				}
				r, meta, err := caller.Use(t.Context(), published.CID, "add", "3", "4")
				if err != nil || string(r) != "7" || meta.Provider != honest.Status().PeerID {
					t.Fatalf("%s by %s after %d lies: %v", r, meta.Provider, l.lies.Load(), err)
				}
			}
		})
	}
}

// schemaOf gives the hash of the schema that a cell has published.
func schemaOf(t *testing.T, c *Cell) cellproto.SchemaHash {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, "cache", "schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := cellproto.ParseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.Hash()
}
