package ledger

import (
	"bytes"
	"crypto/ed25519"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/celldnet/celld/cellproto"
)

// Limits on a list of public goods.
const (
	MaxPublicGoods    = 1000
	MaxPublicGoodList = 64 << 10 // bytes
)

const kindPublicGood = 6

// RolePublicGood is as what a curator signs a list.
const RolePublicGood Role = "public-good"

// PublicGoods names identities whose calls a host that has chosen the list weighs more, as those of an archive or a
// university: what they have earned counts up to MaxCurated times. It earns nobody anything.
type PublicGoods struct {
	_        struct{} `cbor:",toarray"`
	V, Kind  uint8    // set by Seal
	By       Key      // curator
	NotAfter uint64   // ms since 1970
	Goods    []PublicGood
}

// PublicGood is one identity of a list.
type PublicGood struct {
	_      struct{} `cbor:",toarray"`
	ID     Key      // account, pool or host
	Factor uint8    // 2 to MaxCurated
}

type publicGoodsWire struct {
	_    struct{} `cbor:",toarray"`
	Body *PublicGoods
	Sig  optional
}

// listMode is decMode for longer lists.
var listMode = must(func() cbor.DecOptions { o := decOptions(); o.MaxArrayElements = MaxPublicGoods + 8; return o }().DecMode())

// SealPublicGoods signs a list and gives its bytes. It sorts the goods. Kind: BadInput.
func SealPublicGoods(p PublicGoods, key ed25519.PrivateKey) ([]byte, error) {
	const op = "seal list of public goods"
	p.V, p.Kind, p.By = version, kindPublicGood, KeyOf(key)
	p.Goods = slices.Clone(p.Goods)
	slices.SortFunc(p.Goods, func(x, y PublicGood) int { return bytes.Compare(x.ID[:], y.ID[:]) })
	if err := p.check(op); err != nil {
		return nil, err
	}
	body, err := encode(&p)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	sig := Sign(key, RolePublicGood, body)
	data, err := encode(&publicGoodsWire{Body: &p, Sig: sig[:]})
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return data, nil
}

// OpenPublicGoods reads a list and checks that its curator has signed it. Kinds: TooLarge, BadInput, Unsupported,
// Corrupt for a false signature.
func OpenPublicGoods(data []byte) (*PublicGoods, error) {
	const op = "open list of public goods"
	if len(data) > MaxPublicGoodList {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), MaxPublicGoodList)
	}
	if err := refuseLater(op, data); err != nil {
		return nil, err
	}
	w := publicGoodsWire{Body: &PublicGoods{}}
	if err := listMode.Unmarshal(data, &w); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if w.Body == nil || w.Sig == nil || !w.Sig.valid() {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "a body and a signature are wanted")
	}
	if err := canonical(op, data, &w); err != nil {
		return nil, err
	}
	p := w.Body
	if err := p.check(op); err != nil {
		return nil, err
	}
	body, err := encode(p)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if !Verify(p.By, RolePublicGood, body, Signature(w.Sig)) {
		return nil, badSignature(op, RolePublicGood)
	}
	return p, nil
}

func (p *PublicGoods) check(op string) error {
	if err := checkHead(op, p.V, p.Kind, kindPublicGood); err != nil {
		return err
	}
	if len(p.Goods) == 0 || len(p.Goods) > MaxPublicGoods {
		return cellproto.Errorf(op, cellproto.BadInput, "%d identities, there are 1 to %d in a list", len(p.Goods), MaxPublicGoods)
	}
	for i, g := range p.Goods {
		if g.Factor < 2 || g.Factor > MaxCurated {
			return cellproto.Errorf(op, cellproto.BadInput, "%s counts %d times, which is not 2 to %d", g.ID, g.Factor, MaxCurated)
		}
		if i > 0 && bytes.Compare(p.Goods[i-1].ID[:], g.ID[:]) >= 0 {
			return cellproto.Errorf(op, cellproto.BadInput, "identities stand in ascending order, each once")
		}
	}
	return nil
}

// Curate has the owner's choice of public goods count from now on; nil is none. When the list has ended is for its
// user to look at.
func (l *Ledger) Curate(p *PublicGoods) {
	goods := map[Key]uint64{}
	if p != nil {
		for _, g := range p.Goods {
			goods[g.ID] = uint64(g.Factor)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.goods = goods
}
