package content

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
)

// DefaultMaxFile is the largest artefact that is added or fetched unless Config says otherwise.
const DefaultMaxFile = 1 << 30

// Config says where the store is and what it may take.
type Config struct {
	// Dir holds the blocks and the records of artefacts; it is made if it is missing, and may be
	// deleted while no store is open on it. "" keeps everything in memory.
	Dir string
	// MaxFile bounds the size of an artefact in bytes, added or fetched. 0 means DefaultMaxFile.
	MaxFile int64
	// MaxBlocks bounds what all blocks may take, in bytes. Past it those are removed that were not used
	// for the longest time; what Deps.Originals names and the trees of artefacts stay. A twentieth of
	// the disk's free space bounds them too. 0 means DefaultMaxBlocks.
	MaxBlocks int64
	// Withhold has peers be told that nothing is here, whatever is: the store only fetches.
	Withhold bool
}

// Validate fills in the defaults and reports what cannot work, with kind BadInput.
func (c *Config) Validate() error {
	if c.MaxFile == 0 {
		c.MaxFile = DefaultMaxFile
	}
	if c.MaxFile < 0 || c.MaxFile > DefaultMaxFile {
		return cellproto.Errorf("open block store", cellproto.BadInput,
			"largest artefact is %d bytes, not within 1 and %d", c.MaxFile, DefaultMaxFile)
	}
	if c.MaxBlocks == 0 {
		c.MaxBlocks = DefaultMaxBlocks
	}
	if c.MaxBlocks < 0 {
		return cellproto.Errorf("open block store", cellproto.BadInput, "blocks may not take %d bytes", c.MaxBlocks)
	}
	if c.Dir != "" {
		dir, err := filepath.Abs(c.Dir)
		if err != nil {
			return cellproto.Errorf("open block store", cellproto.BadInput, "cannot resolve %s: %w", c.Dir, err)
		}
		c.Dir = dir
	}
	return nil
}

// Deps is what the store works with; it closes none of it.
type Deps struct {
	Host      host.Host
	Routing   routing.ContentDiscovery // finds further peers when the named ones have nothing; may be nil
	Originals Originals                // may be nil
	Charge    func(peer.ID, error)     // is told of whatever a peer's stream ended with; may be nil
	Friend    func(peer.ID) bool       // artefacts are given to these peers only, by either protocol; nil: to everybody
	Log       *zap.Logger              // may be nil
}

// timing holds the package's timeouts, so that a test can wait less.
type timing struct {
	header  time.Duration // to deliver a request or the head of a reply
	stall   time.Duration // without one group of a file, or one message, getting through
	dial    time.Duration // to reach a peer
	stagger time.Duration // before the next peer is asked for a block besides the first
	leaf    time.Duration // likewise, for the blocks of a file from a peer that has answered before
	idle    time.Duration // between two messages on a bitswap stream
	retry   time.Duration // longest wait for a peer that said it is overloaded
}

var defaultTiming = timing{
	header:  cellproto.FrameTimeout,
	stall:   cellproto.StallTimeout,
	dial:    10 * time.Second,
	stagger: 100 * time.Millisecond,
	leaf:    2 * time.Second,
	idle:    2 * time.Minute,
	retry:   2 * time.Second,
}

// Store holds blocks and artefacts, serves them and fetches others. Its methods may be called from
// several goroutines. Without Start it works on what is local.
type Store struct {
	cfg    Config
	deps   Deps
	log    *zap.Logger
	timing timing

	blocks *blockStore
	files  *registry
	x      *exchange
	fetch  *inbound // streams of /cell/fetch/1 that peers opened
	slots  *shares  // fetches that are being served

	stocked    chan struct{} // closed when the blocks of earlier runs are known
	evicting   atomic.Bool
	refetching chan struct{} // one for each block that is fetched again

	gc     sync.RWMutex // held for writing while Keep or Remove deletes
	adding sync.Mutex   // one import at a time: it takes all the CPU it can get
	dsts   keyLocks     // destinations of FetchFile
}

// New opens the store. Records of artefacts whose file has changed are dropped, and a store that
// cannot be read is made anew: it is a cache.
func New(cfg Config, deps Deps) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Host == nil {
		return nil, cellproto.Errorf("open block store", cellproto.BadInput, "no host was given")
	}
	log := deps.Log
	if log == nil {
		log = zap.NewNop()
	}
	log = log.Named("content")
	files, err := openRegistry(cfg.Dir, log)
	if err != nil {
		return nil, err
	}
	blocks, err := openBlocks(cfg, files, deps.Originals, log)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, deps: deps, log: log, timing: defaultTiming, blocks: blocks, files: files,
		slots: newShares(maxFetches, maxFetchesPeer), stocked: make(chan struct{}), refetching: make(chan struct{}, maxRefetch),
	}
	s.x = newExchange(deps.Host, blocks, &s.timing, deps.Charge, log)
	s.x.again, s.x.withhold, s.x.friend = s.refetch, cfg.Withhold, deps.Friend
	s.fetch = newInbound(fetchQuota, s.serveFetch, s.refuseFetch, deps.Charge, log)
	return s, nil
}

// Start begins to serve peers. It is called once, before Stop.
func (s *Store) Start() {
	s.takeStock()
	s.deps.Host.SetStreamHandler(protocolBitswap, s.x.in.serve)
	s.deps.Host.SetStreamHandler(protocol.ID(cellproto.ProtocolFetch), s.fetch.serve)
}

// Stop ends every stream and returns when the last goroutine has ended; the blocks stay readable
// until then. The host stays open.
func (s *Store) Stop() {
	s.deps.Host.RemoveStreamHandler(protocol.ID(cellproto.ProtocolFetch))
	s.deps.Host.RemoveStreamHandler(protocolBitswap)
	s.fetch.stop()
	s.x.stop()
	if err := s.blocks.close(); err != nil {
		s.log.Warn("cannot close the block store", zap.Error(err))
	}
}

// PutBlock keeps data, which must hash to c: else kind Corrupt. A hash function that is not safe
// is BadInput, a block that no bitswap peer would take (over 2 MiB) TooLarge.
func (s *Store) PutBlock(ctx context.Context, c cid.Cid, data []byte) error {
	op := "put block " + c.String()
	if err := checkCID(op, c); err != nil {
		return err
	}
	if len(data) > maxBlock {
		return cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxBlock)
	}
	if !matches(c, data) {
		return cellproto.Errorf(op, cellproto.Corrupt, "the bytes do not hash to it")
	}
	s.gc.RLock()
	defer s.gc.RUnlock()
	defer s.makeRoom()
	return s.blocks.put(ctx, c, data)
}

// Local gives the block c if it can be had without asking anybody: else kind NotFound.
func (s *Store) Local(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := checkCID("read block "+c.String(), c); err != nil {
		return nil, err
	}
	return s.blocks.get(ctx, c)
}

// Has reports whether the block is here, as a block of its own or within an artefact. It does not
// read it: a block that turns out corrupt later was here all the same.
func (s *Store) Has(ctx context.Context, c cid.Cid) bool {
	_, ok := s.blocks.size(ctx, c)
	return ok
}

// Block gives the block c of at most max bytes: the local one, if its hash is right, else the one
// that the first of the peers from sends, else what the routing finds. What was fetched is kept.
// The addresses of the peers must be in the host's peerstore. ctx is the deadline.
//
// The kinds of error: NotFound (all who were asked do not have it), Timeout (one of them was
// silent), Unavailable (none could be reached), TooLarge, BadInput, Canceled.
func (s *Store) Block(ctx context.Context, c cid.Cid, max int, from []peer.ID) ([]byte, error) {
	return s.Checked(ctx, c, max, from, nil)
}

// Checked is Block for what has to be more than what its CID names: before good, if it is not nil, has said so, a block
// is not kept, and nobody gets it from here. One that was here, and is not good, is removed, unless it is of an artefact: a
// stranger names CIDs too. The error is that of good.
func (s *Store) Checked(ctx context.Context, c cid.Cid, max int, from []peer.ID, good func([]byte) error) ([]byte, error) {
	op := "get block " + c.String()
	if err := checkCID(op, c); err != nil {
		return nil, err
	}
	data, err := s.blocks.get(ctx, c)
	local := err == nil
	if err != nil {
		if cellproto.KindOf(err) != cellproto.NotFound {
			s.log.Warn("cannot read a block, fetching it again", zap.Stringer("cid", c), zap.Error(err))
		}
		if data, err = s.fetchBlock(ctx, c, from); err != nil {
			return nil, err
		}
	}
	if len(data) > max {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), max)
	}
	if good != nil {
		if err := good(data); err != nil {
			if local && !s.files.has(c) {
				if err := s.Remove(ctx, c); err != nil {
					s.log.Warn("cannot remove a block that is refused", zap.Stringer("cid", c), zap.Error(err))
				}
			}
			return nil, err
		}
	}
	if !local {
		s.gc.RLock()
		defer s.gc.RUnlock()
		if err := s.blocks.put(ctx, c, data); err != nil {
			s.log.Warn("cannot keep a block", zap.Stringer("cid", c), zap.Error(err)) // its bytes are good
		}
		s.makeRoom()
	}
	return data, nil
}

func (s *Store) fetchBlock(ctx context.Context, c cid.Cid, from []peer.ID) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the search with the call
	data, _, err := s.x.get(ctx, c, s.candidates(ctx, c, from), s.timing.stagger)
	return data, err
}

// Remove forgets the block c, or the artefact c with the blocks of its tree. The artefact's own
// file is not touched. What is not here is not an error.
func (s *Store) Remove(ctx context.Context, c cid.Cid) error {
	s.gc.Lock()
	defer s.gc.Unlock()
	if s.files.byCID(c) != nil {
		s.files.drop(c)
		tree, shared := cid.NewSet(), cid.NewSet()
		s.reach(ctx, c, tree)
		for _, other := range s.files.cids() {
			s.reach(ctx, other, shared)
		}
		for _, node := range tree.Keys() {
			if shared.Has(node) {
				continue
			}
			if err := s.blocks.delete(ctx, node); err != nil {
				return err
			}
		}
		return nil
	}
	return s.blocks.delete(ctx, c)
}

// Keep drops every block and every artefact that cannot be reached from the roots by following
// links (of dag-pb and dag-cbor blocks), and returns how many it dropped.
func (s *Store) Keep(ctx context.Context, roots ...cid.Cid) (dropped int, err error) {
	s.gc.Lock()
	defer s.gc.Unlock()
	marked := cid.NewSet()
	for _, root := range roots {
		s.reach(ctx, root, marked)
	}
	hashes := make(map[string]bool, marked.Len())
	for _, c := range marked.Keys() {
		hashes[string(c.Hash())] = true
	}
	for _, c := range s.files.cids() {
		if !hashes[string(c.Hash())] {
			s.files.drop(c)
			dropped++
		}
	}
	stored, err := s.blocks.keys(ctx)
	if err != nil {
		return dropped, err
	}
	for _, c := range stored {
		if hashes[string(c.Hash())] {
			continue
		}
		if err := s.blocks.delete(ctx, c); err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}

// reach adds to seen what can be reached from c; blocks that are not here end the walk.
func (s *Store) reach(ctx context.Context, c cid.Cid, seen *cid.Set) {
	queue := []cid.Cid{c}
	for len(queue) > 0 {
		c, queue = queue[0], queue[1:]
		if !c.Defined() || !seen.Visit(c) || !hasLinks(c) {
			continue
		}
		data, err := s.blocks.get(ctx, c)
		if err != nil {
			continue
		}
		queue = append(queue, links(c, data)...)
	}
}

// keyLocks lets one caller at a time work on a key.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the key until ctx ends and returns the function that frees it.
func (l *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[key]
		if !ok {
			if l.held == nil {
				l.held = make(map[string]chan struct{})
			}
			free := make(chan struct{})
			l.held[key] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
