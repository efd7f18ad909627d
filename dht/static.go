package dht

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

const (
	// staticTimeout bounds the reading of one entry of the static list.
	staticTimeout = 5 * time.Second
	// maxStaticPeers is how many peers one entry may name; an advert is about one.
	maxStaticPeers = 1
	// staticAtOnce is how many entries are read at the same time.
	staticAtOnce = 8
	// maxRedirects of an advert's URL are followed.
	maxRedirects = 3
)

// What an entry of the static list can be.
const (
	staticAddr = iota // a multiaddr
	staticURL         // http or https
	staticFile
)

// kindOfStatic tells by the form. A path that begins with a multiaddr's protocol name can be written
// with "./" or "//" in front.
func kindOfStatic(s string) int {
	switch {
	case strings.HasPrefix(s, "http://"), strings.HasPrefix(s, "https://"):
		return staticURL
	case strings.HasPrefix(s, "/") && strings.Contains(s, "/p2p/"):
		return staticAddr
	}
	for _, proto := range []string{"/ip4/", "/ip6/", "/ip6zone/", "/dns/", "/dns4/", "/dns6/", "/dnsaddr/"} {
		if strings.HasPrefix(s, proto) {
			return staticAddr
		}
	}
	return staticFile
}

// static is the owner's list of peers. Of an advert only the address is used: what it says about
// load is asked of the peer itself.
type static struct {
	addrs   []peer.AddrInfo // the multiaddrs of the list
	sources []string        // its URLs and paths
	client  *http.Client
	listed  func(info peer.AddrInfo, file bool) // see Deps.Listed; or nil
}

// newStatic sorts the entries of a list.
func newStatic(entries []string) (*static, error) {
	s := &static{client: &http.Client{
		Timeout:   staticTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return nil
		},
	}}
	var addrs []string
	for _, e := range entries {
		if kindOfStatic(e) == staticAddr {
			addrs = append(addrs, e)
		} else {
			s.sources = append(s.sources, e)
		}
	}
	var err error
	s.addrs, err = addrInfos(addrs)
	return s, err
}

// known gives the peers that are listed by their multiaddr.
func (s *static) known() []peer.AddrInfo { return s.addrs }

// read reads all files and URLs and passes on the peer of each. One that cannot be read is passed
// over: its owner may have it back tomorrow.
func (s *static) read(ctx context.Context, pass func(peer.AddrInfo)) {
	slots := make(chan struct{}, staticAtOnce)
	var wg sync.WaitGroup
	for _, source := range s.sources {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if info, err := s.readOne(ctx, source); err == nil {
				if s.listed != nil {
					s.listed(info, kindOfStatic(source) == staticFile)
				}
				pass(info)
			}
		})
	}
	wg.Wait()
}

// readOne reads the advert at a URL or path.
func (s *static) readOne(ctx context.Context, source string) (peer.AddrInfo, error) {
	op := "read the advert " + source
	if err := ctx.Err(); err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	var body io.ReadCloser
	if kindOfStatic(source) == staticURL {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
		if err != nil {
			return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
		}
		req.Header.Set("Accept", "application/json")
		resp, err := s.client.Do(req)
		if err != nil {
			return peer.AddrInfo{}, cellproto.Errorf(op, kindOr(err, cellproto.Unavailable), "%w", err)
		}
		body = resp.Body
		if resp.StatusCode != http.StatusOK {
			_ = body.Close()
			return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.NotFound, "the server answers %s", resp.Status)
		}
	} else {
		file, err := openRegular(source)
		if err != nil {
			return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
		}
		body = file
	}
	defer body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(body, cellproto.MaxAdvert+1))
	if err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, kindOr(err, cellproto.Unavailable), "%w", err)
	}
	info, err := parseAdvertAddr(data)
	if err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, kindOr(err, cellproto.BadInput), "%w", err)
	}
	return info, nil
}

// openRegular opens a regular file: reading a pipe could wait for ever.
func openRegular(path string) (*os.File, error) {
	before, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, cellproto.Errorf("", cellproto.BadInput, "it is not a regular file")
	}
	return os.Open(path)
}

// parseAdvertAddr takes the address out of an advert file: a JSON object of at most 4 KiB whose
// field addr is a multiaddr that ends in /p2p/<peer>, or a list of at most 16 of one peer. Other
// fields are not looked at.
func parseAdvertAddr(data []byte) (peer.AddrInfo, error) {
	const op = "parse an advert"
	if len(data) > cellproto.MaxAdvert {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.TooLarge, "it has more than %d bytes", cellproto.MaxAdvert)
	}
	var advert struct {
		Addr json.RawMessage `json:"addr"`
	}
	if err := json.Unmarshal(data, &advert); err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if len(advert.Addr) == 0 || string(advert.Addr) == "null" {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "it has no addr")
	}
	var addrs []string
	if advert.Addr[0] == '[' {
		if err := json.Unmarshal(advert.Addr, &addrs); err != nil {
			return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "addr: %w", err)
		}
	} else {
		var one string
		if err := json.Unmarshal(advert.Addr, &one); err != nil {
			return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "addr: %w", err)
		}
		addrs = []string{one}
	}
	if len(addrs) > cellproto.MaxAdvertAddrs {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.TooLarge, "it has %d addresses, at most %d are allowed", len(addrs), cellproto.MaxAdvertAddrs)
	}
	infos, err := addrInfos(addrs)
	if err != nil {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "addr: %w", err)
	}
	if len(infos) != maxStaticPeers {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "it names %d peers, not one", len(infos))
	}
	info, ok := usable(infos[0])
	if !ok {
		return peer.AddrInfo{}, cellproto.Errorf(op, cellproto.BadInput, "it has no address that can be dialled")
	}
	return info, nil
}
