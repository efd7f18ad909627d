package node

import (
	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/state"
)

// keepState makes the store of the program's state, and gives what takes the program's calls: those for its
// state, and all others as outgoing does, which is nil for a program that calls nobody.
func (n *nucleus) keepState(outgoing func(*cellproto.Conn, *cellproto.Frame), started *closers) (func(*cellproto.Conn, *cellproto.Frame), error) {
	cfg := state.Config{Dir: n.cfg.Dir, Size: n.cfg.Resources.Disk}
	if n.placed != nil && n.placed.Disk > 0 {
		cfg.Rate = int(max(min(n.placed.Disk, cellproto.StateRate), leastRate))
	}
	store, err := state.New(cfg, n.log.Named("state"))
	if err != nil {
		return nil, err
	}
	end := once(store.Close) // another celld opens it anew
	started.add(end)
	n.upgrades.goodbye.add(end)
	return func(c *cellproto.Conn, f *cellproto.Frame) {
		switch {
		case store.Accept(c, f):
		case outgoing != nil:
			outgoing(c, f)
		default:
			err := cellproto.Errorf("call", cellproto.Unsupported, "a program in a sandbox calls no other cells")
			if c.Queue(cellproto.ErrorReply(f.ID, err)) == nil { // a lost connection needs no answer
				c.FlushLater(c)
			}
		}
	}, nil
}
