package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/ledger"
)

// publicGoodFile is where the list of public goods is that the owner of this machine has chosen, below the home cell's
// directory: for all cells that run here.
const publicGoodFile = "data/public-good"

// chosen is the list as it was looked at last.
type chosen struct {
	changed time.Time
	until   time.Time // when it ends
	says    string    // for people; "": there is none
}

// choose has the list count that is there, and none that has ended or is not good.
func (a *accounts) choose(now time.Time) {
	path := filepath.Join(a.n.mirrors.home, publicGoodFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if a.goods.Swap(&chosen{}).says != "" {
			a.led.Curate(nil)
		}
		return
	case err == nil:
		old := a.goods.Load()
		ends := !old.until.IsZero() && now.After(old.until)
		if info.ModTime().Equal(old.changed) && !ends {
			return
		}
	}
	c, list, err := readChosen(path, now)
	if err != nil {
		a.log.Warn("the list of public goods does not count", zap.String("file", path), zap.Error(err))
		c.says = "does not count: " + err.Error()
	}
	if info != nil {
		c.changed = info.ModTime()
	}
	a.led.Curate(list)
	a.goods.Store(c)
}

func readChosen(path string, now time.Time) (*chosen, *ledger.PublicGoods, error) {
	data, err := readBounded(path, ledger.MaxPublicGoodList)
	if err != nil {
		return &chosen{}, nil, err
	}
	p, err := ledger.OpenPublicGoods(data)
	if err != nil {
		return &chosen{}, nil, err
	}
	c := &chosen{says: fmt.Sprintf("%d identities on the list of %s", len(p.Goods), textOf(p.By))}
	if p.NotAfter == 0 {
		return c, p, nil
	}
	until := time.UnixMilli(int64(min(p.NotAfter, 1<<62)))
	if now.After(until) {
		c.says += " counted until " + until.UTC().Format(time.DateOnly)
		return c, nil, nil
	}
	c.until = until
	return c, p, nil
}
